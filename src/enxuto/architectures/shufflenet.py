"""ShuffleNetV2, with the parameter names of torchvision.

Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design" (2018),
https://arxiv.org/abs/1807.11164
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Table 5 of the paper: channels of the three stages and of the last convolution, at each width.
_CHANNELS = {
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}
_STEM = 24
_REPEATS = (4, 8, 4)


def _depthwise(channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)


def _pointwise(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=1, bias=False)


def shuffle(x: Tensor) -> Tensor:
    """Interleave the two halves of the channels of [batch, channels, h, w]."""
    batch, channels, height, width = x.shape
    halves = x.view(batch, 2, channels // 2, height, width)
    return halves.transpose(1, 2).contiguous().view(batch, channels, height, width)


class ShuffleUnit(nn.Module):
    """Half of the channels pass by, the others are filtered; then both are interleaved.

    At stride 2 nothing passes by: both branches see all channels, and their number doubles.

    Args:
        inputs: channels in.
        outputs: channels out.
        stride: of the filters, in pixels.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        taken = inputs if stride > 1 else half
        self.splits = stride == 1
        self.branch1 = nn.Sequential()
        if not self.splits:
            self.branch1 = nn.Sequential(
                _depthwise(inputs, stride),
                nn.BatchNorm2d(inputs),
                _pointwise(inputs, half),
                nn.BatchNorm2d(half),
                nn.ReLU(inplace=True),
            )
        self.branch2 = nn.Sequential(
            _pointwise(taken, half),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            _depthwise(half, stride),
            nn.BatchNorm2d(half),
            _pointwise(half, half),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, inputs, h, w] to [batch, outputs, h / stride, w / stride]."""
        passing, taken = x.chunk(2, dim=1) if self.splits else (x, x)
        return shuffle(torch.cat((self.branch1(passing), self.branch2(taken)), dim=1))


class ShuffleNetV2(nn.Module):
    """Three stages of shuffle units between two convolutions, and a linear classifier.

    Args:
        num_classes: number of output classes.
        width: 0.5, 1.0, 1.5 or 2.0.
    """

    def __init__(self, num_classes: int = 1000, width: float = 1.0) -> None:
        super().__init__()
        if width not in _CHANNELS:
            raise ValueError(f"ShuffleNetV2 has the widths {', '.join(map(str, _CHANNELS))}, not {width}")
        *stages, last = _CHANNELS[width]
        self.conv1 = _entry(nn.Conv2d(3, _STEM, kernel_size=3, stride=2, padding=1, bias=False), _STEM)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.stage2 = _stage(_STEM, stages[0], _REPEATS[0])
        self.stage3 = _stage(stages[0], stages[1], _REPEATS[1])
        self.stage4 = _stage(stages[1], stages[2], _REPEATS[2])
        self.conv5 = _entry(_pointwise(stages[2], last), last)
        self.fc = nn.Linear(last, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: float [batch, 3, height, width], normalised RGB.

        Returns:
            Logits, float [batch, num_classes].
        """
        x = self.maxpool(self.conv1(images))
        x = self.conv5(self.stage4(self.stage3(self.stage2(x))))
        logits: Tensor = self.fc(x.mean([2, 3]))
        return logits


def _entry(conv: nn.Conv2d, channels: int) -> nn.Sequential:
    """A convolution with its batch norm and ReLU."""
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def _stage(inputs: int, outputs: int, repeats: int) -> nn.Sequential:
    """Units of which only the first changes resolution and width."""
    rest = [ShuffleUnit(outputs, outputs, stride=1) for _ in range(repeats - 1)]
    return nn.Sequential(ShuffleUnit(inputs, outputs, stride=2), *rest)


def shufflenet_v2(num_classes: int = 1000, width: float = 1.0) -> ShuffleNetV2:
    """ShuffleNetV2, 2,278,604 parameters at width 1.

    Args:
        num_classes: number of output classes.
        width: 0.5, 1.0, 1.5 or 2.0; the paper chose the channels of each by hand.

    Returns:
        A net from float [batch, 3, height, width] to logits [batch, num_classes].

    Raises:
        ValueError: another width.

    Source:
        Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", 2018,
        arXiv:1807.11164.
    """
    return ShuffleNetV2(num_classes, width)
