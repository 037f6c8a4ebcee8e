"""Small nets for grey pictures of 28 by 28: a fat one, one with shortcuts, one lean in its file, one lean in training.

Made of plain modules (convolution, batch norm, ReLU or ReLU6, linear), so that every exporter and every pruner
knows them.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

PICTURE = (1, 28, 28)
KINDS = 10


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    groups: int = 1,
    act: nn.Module | None = None,
) -> nn.Sequential:
    """Convolution and batch norm, padded to keep the resolution at stride 1, then `act` where one is given."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([act] if act else []))


def vgg_style() -> nn.Sequential:
    """Four convolutions, then three dense layers that hold nine tenths of its parameters.

    The shape of Simonyan and Zisserman, "Very Deep Convolutional Networks" (2014), https://arxiv.org/abs/1409.1556,
    with batch norm. Maps [batch, 1, 28, 28] to logits [batch, 10].
    """
    return nn.Sequential(
        conv_bn(1, 32, act=nn.ReLU()),
        nn.MaxPool2d(2),  # 14 x 14
        conv_bn(32, 64, act=nn.ReLU()),
        conv_bn(64, 64, act=nn.ReLU()),
        nn.MaxPool2d(2),  # 7 x 7
        conv_bn(64, 128, act=nn.ReLU()),
        nn.MaxPool2d(2),  # 3 x 3
        nn.Flatten(),
        nn.Linear(128 * 3 * 3, 896),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(896, 320),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(320, KINDS),
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_bn(inputs, outputs, stride=stride, act=nn.ReLU()), conv_bn(outputs, outputs)
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride=stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, inputs, h, w] to [batch, outputs, h / stride, w / stride]."""
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


def resnet_style() -> nn.Sequential:
    """ResNet-20 (nine blocks of widths 16, 32 and 64), of which each stage halves the resolution.

    He et al., "Deep Residual Learning for Image Recognition" (2015), section 4.2, https://arxiv.org/abs/1512.03385;
    there the first stage keeps it. Maps [batch, 1, 28, 28] to logits [batch, 10].
    """
    blocks: list[nn.Module] = []
    for inputs, width in pairwise((16, 16, 32, 64)):
        blocks += [BasicBlock(inputs, width, 2), BasicBlock(width, width, 1), BasicBlock(width, width, 1)]
    return nn.Sequential(
        conv_bn(1, 16, act=nn.ReLU()),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, KINDS),
    )


class InvertedResidual(nn.Module):
    """Widen four times, filter each channel by itself, narrow; a shortcut where the shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        hidden = 4 * inputs
        self.body = nn.Sequential(
            conv_bn(inputs, hidden, 1, act=nn.ReLU6()),
            conv_bn(hidden, hidden, stride=stride, groups=hidden, act=nn.ReLU6()),
            conv_bn(hidden, outputs, 1),
        )
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, inputs, h, w] to [batch, outputs, h / stride, w / stride]."""
        out: Tensor = self.body(x)
        return x + out if self.has_shortcut else out


def mobilenet_style() -> nn.Sequential:
    """MobileNetV2, narrow: eight inverted residuals of widths 16, 24 and 40 between two convolutions.

    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018),
    https://arxiv.org/abs/1801.04381. Maps [batch, 1, 28, 28] to logits [batch, 10].
    """
    blocks: list[nn.Module] = []
    for inputs, width, stride, repeats in ((12, 16, 1, 2), (16, 24, 2, 3), (24, 40, 2, 3)):
        blocks += [InvertedResidual(inputs, width, stride)]
        blocks += [InvertedResidual(width, width, 1) for _ in range(repeats - 1)]
    return nn.Sequential(
        conv_bn(1, 12, stride=2, act=nn.ReLU6()),  # 14 x 14
        *blocks,
        conv_bn(40, 160, 1, act=nn.ReLU6()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(160, KINDS),
    )


class Fire(nn.Module):
    """A 1x1 squeeze, 1x1 and 3x3 expansions side by side, batch norm, and a bypass where the shapes allow.

    Iandola et al., "SqueezeNet" (2016), sections 3 and 6, https://arxiv.org/abs/1602.07360. The bypass is added before
    the last ReLU, where autograd keeps nothing more for it.
    """

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = conv_bn(inputs, squeeze, 1, act=nn.ReLU())
        self.point = nn.Conv2d(squeeze, expand, 1, bias=False)
        self.patch = nn.Conv2d(squeeze, expand, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2 * expand)
        self.relu = nn.ReLU()
        self.has_bypass = inputs == 2 * expand

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, inputs, h, w] to [batch, 2 * expand, h, w]."""
        squeezed = self.squeeze(x)
        out = self.norm(torch.cat([self.point(squeezed), self.patch(squeezed)], 1))
        answer: Tensor = self.relu(out + x if self.has_bypass else out)
        return answer


def squeezenet_style() -> nn.Sequential:
    """SqueezeNet with bypasses and batch norm: five fire modules, four of them on pictures of 7 x 7 and 4 x 4.

    Few channels where pictures are large, for these are what training keeps. Maps [batch, 1, 28, 28] to logits
    [batch, 10].
    """
    return nn.Sequential(
        conv_bn(1, 32, stride=2, act=nn.ReLU()),  # 14 x 14
        Fire(32, 16, 24),
        nn.MaxPool2d(3, 2, 1),  # 7 x 7
        Fire(48, 32, 64),
        Fire(128, 32, 64),
        nn.MaxPool2d(3, 2, 1),  # 4 x 4
        Fire(128, 64, 128),
        Fire(256, 64, 128),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(256, KINDS),
    )
