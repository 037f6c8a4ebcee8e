"""EfficientNet-Lite0, with the parameter names of timm's `efficientnet_lite0`.

EfficientNet without squeeze-and-excitation and with ReLU6, so that it quantizes well. Tan and Le,
"EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (2019),
https://arxiv.org/abs/1905.11946; the lite nets are from the authors' release,
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
"""

from __future__ import annotations

from torch import Tensor, nn

from enxuto.architectures.channels import round_channels
from enxuto.architectures.mobilenet_v1 import DepthwiseSeparable

# Expansion, kernel, channels out, repeats, stride of the first repeat; the first stage has no expansion.
_STAGES = (
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)
_STEM, _FIRST, _HEAD = 32, 16, 1280


class LinearDepthwiseSeparable(DepthwiseSeparable):
    """A depthwise separable convolution without an activation at its end."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, inputs, h, w] to [batch, outputs, h / stride, w / stride]."""
        out: Tensor = self.bn2(self.conv_pw(self.act(self.bn1(self.conv_dw(x)))))
        return out


class InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, narrow; a shortcut where the shapes allow.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: side of the filters, in pixels.
        stride: of the filters, in pixels.
        expansion: hidden channels per input channel.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden, padding = round_channels(inputs * expansion), kernel // 2
        self.conv_pw = nn.Conv2d(inputs, hidden, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv_dw = nn.Conv2d(hidden, hidden, kernel, stride, padding, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv_pwl = nn.Conv2d(hidden, outputs, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.act = nn.ReLU6(inplace=True)
        self.use_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, inputs, h, w] to [batch, outputs, h / stride, w / stride]."""
        hidden = self.act(self.bn1(self.conv_pw(x)))
        hidden = self.act(self.bn2(self.conv_dw(hidden)))
        out: Tensor = self.bn3(self.conv_pwl(hidden))
        return x + out if self.use_shortcut else out


class EfficientNetLite(nn.Module):
    """Sixteen blocks between two convolutions, and a linear classifier.

    Args:
        num_classes: number of output classes.
        width: multiplier of the blocks' channel counts; stem and head stay, as in the lite nets.
    """

    def __init__(self, num_classes: int = 1000, width: float = 1.0) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(3, _STEM, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        channels = round_channels(_FIRST * width)
        stages = [nn.Sequential(LinearDepthwiseSeparable(_STEM, channels, stride=1))]
        for expansion, kernel, base, repeats, stride in _STAGES:
            outputs = round_channels(base * width)
            first = InvertedResidual(channels, outputs, kernel, stride, expansion)
            rest = [InvertedResidual(outputs, outputs, kernel, 1, expansion) for _ in range(repeats - 1)]
            stages.append(nn.Sequential(first, *rest))
            channels = outputs
        self.blocks = nn.Sequential(*stages)
        self.conv_head = nn.Conv2d(channels, _HEAD, kernel_size=1, bias=False)
        self.bn2 = nn.BatchNorm2d(_HEAD)
        self.act = nn.ReLU6(inplace=True)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(_HEAD, num_classes)
        self.apply(_init_weights)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: float [batch, 3, height, width], normalised RGB.

        Returns:
            Logits, float [batch, num_classes].
        """
        x = self.blocks(self.act(self.bn1(self.conv_stem(images))))
        x = self.act(self.bn2(self.conv_head(x)))
        features = nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)
        logits: Tensor = self.classifier(self.dropout(features))
        return logits


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")


def efficientnet_lite0(num_classes: int = 1000, width: float = 1.0) -> EfficientNetLite:
    """EfficientNet-Lite0, 4,652,008 parameters at width 1.

    Args:
        num_classes: number of output classes.
        width: multiplier of the blocks' channel counts.

    Returns:
        A net from float [batch, 3, height, width] to logits [batch, num_classes].

    Source:
        Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019,
        arXiv:1905.11946; the lite variant from the authors' release.
    """
    return EfficientNetLite(num_classes, width)
