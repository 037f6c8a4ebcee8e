"""SqueezeNet 1.1, with the parameter names of torchvision.

Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model
size" (2016), https://arxiv.org/abs/1602.07360
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
        num_classes: number of output classes.
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=3, stride=2),
            nn.ReLU(inplace=True),
            _pool(),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            _pool(),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            _pool(),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
        )
        last = nn.Conv2d(512, num_classes, kernel_size=1)
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
            images: float [batch, 3, height, width], normalised RGB, at least 17 pixels a side.

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


def squeezenet1_1(num_classes: int = 1000) -> SqueezeNet:
    """SqueezeNet 1.1, 1,235,496 parameters and 2.4 times less arithmetic than 1.0.

    Args:
        num_classes: number of output classes.

    Returns:
        A net from float [batch, 3, height, width] to logits [batch, num_classes].

    Source:
        Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB
        model size", 2016, arXiv:1602.07360; version 1.1 from the authors' later release.
    """
    return SqueezeNet(num_classes)
