"""SqueezeNet 1.0 and 1.1, with the parameter names of torchvision.

Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model
size" (2016), https://arxiv.org/abs/1602.07360
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from enxuto.architectures.channels import round_channels


class Fire(nn.Module):
    """A 1x1 squeeze feeding 1x1 and 3x3 expansions side by side.

    Args:
        inputs: channels in.
        squeeze: channels between the two steps.
        expand: channels of each expansion; twice as many come out.
    """

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, kernel_size=1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(squeeze, expand, kernel_size=1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(squeeze, expand, kernel_size=3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, inputs, h, w] to [batch, 2 * expand, h, w]."""
        x = self.squeeze_activation(self.squeeze(x))
        point = self.expand1x1_activation(self.expand1x1(x))
        patch = self.expand3x3_activation(self.expand3x3(x))
        return torch.cat([point, patch], dim=1)


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)


class SqueezeNet(nn.Module):
    """Eight fire modules and a convolutional classifier.

    Args:
        features: the convolutions, with fire modules among them.
        channels: channels that the features give.
        num_classes: number of output classes.
    """

    def __init__(self, features: nn.Sequential, channels: int, num_classes: int) -> None:
        super().__init__()
        self.features = features
        last = nn.Conv2d(channels, num_classes, kernel_size=1)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            last,
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
        )
        self.apply(_init_weights)
        # A smaller start for the layer that makes the logits, as in the authors' release.
        nn.init.normal_(last.weight, std=0.01)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: float [batch, 3, height, width], normalised RGB, at least 17 pixels a side (21 in 1.0).

        Returns:
            Logits, float [batch, num_classes].
        """
        logits: Tensor = self.classifier(self.features(images))
        return logits.flatten(1)


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _fires(widths: tuple[int, ...], inputs: int, width: float) -> tuple[list[nn.Module], int]:
    """Fire modules one after the other, each named by its squeeze at width 1, and the channels that they give."""
    modules: list[nn.Module] = []
    for base in widths:
        squeeze, expand = round_channels(base * width), round_channels(4 * base * width)
        modules.append(Fire(inputs, squeeze, expand))
        inputs = 2 * expand
    return modules, inputs


def squeezenet1_0(num_classes: int = 1000, width: float = 1.0) -> SqueezeNet:
    """SqueezeNet 1.0, 1,248,424 parameters at width 1.

    Args:
        num_classes: number of output classes.
        width: multiplier of every channel count; the paper has none.

    Returns:
        A net from float [batch, 3, height, width] to logits [batch, num_classes].

    Source:
        Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB
        model size", 2016, arXiv:1602.07360, table 1.
    """
    channels = round_channels(96 * width)
    stem = [nn.Conv2d(3, channels, kernel_size=7, stride=2), nn.ReLU(inplace=True), _pool()]
    first, channels = _fires((16, 16, 32), channels, width)
    second, channels = _fires((32, 48, 48, 64), channels, width)
    third, channels = _fires((64,), channels, width)
    features = nn.Sequential(*stem, *first, _pool(), *second, _pool(), *third)
    return SqueezeNet(features, channels, num_classes)


def squeezenet1_1(num_classes: int = 1000, width: float = 1.0) -> SqueezeNet:
    """SqueezeNet 1.1, 1,235,496 parameters at width 1 and 2.4 times less arithmetic than 1.0.

    Args:
        num_classes: number of output classes.
        width: multiplier of every channel count; the paper has none.

    Returns:
        A net from float [batch, 3, height, width] to logits [batch, num_classes].

    Source:
        Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB
        model size", 2016, arXiv:1602.07360; version 1.1 from the authors' later release.
    """
    channels = round_channels(64 * width)
    stem = [nn.Conv2d(3, channels, kernel_size=3, stride=2), nn.ReLU(inplace=True), _pool()]
    first, channels = _fires((16, 16), channels, width)
    second, channels = _fires((32, 32), channels, width)
    third, channels = _fires((48, 48, 64, 64), channels, width)
    features = nn.Sequential(*stem, *first, _pool(), *second, _pool(), *third)
    return SqueezeNet(features, channels, num_classes)
