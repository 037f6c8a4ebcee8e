"""MobileNetV3, small and large, with the parameter names of torchvision.

Howard et al., "Searching for MobileNetV3" (2019), https://arxiv.org/abs/1905.02244
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from enxuto.architectures.channels import round_channels

# The authors' TensorFlow code has these; torch's own are 1e-5 and 0.1.
_norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the paper's tables 1 and 2."""

    kernel: int
    hidden: int
    outputs: int
    squeezes: bool
    activation: type[nn.Module]
    stride: int

    def at_width(self, width: float) -> _Row:
        hidden, outputs = round_channels(self.hidden * width), round_channels(self.outputs * width)
        return _Row(self.kernel, hidden, outputs, self.squeezes, self.activation, self.stride)


_STEM = 16
_RE, _HS = nn.ReLU, nn.Hardswish
_LARGE = (
    _Row(3, 16, 16, False, _RE, 1),
    _Row(3, 64, 24, False, _RE, 2),
    _Row(3, 72, 24, False, _RE, 1),
    _Row(5, 72, 40, True, _RE, 2),
    _Row(5, 120, 40, True, _RE, 1),
    _Row(5, 120, 40, True, _RE, 1),
    _Row(3, 240, 80, False, _HS, 2),
    _Row(3, 200, 80, False, _HS, 1),
    _Row(3, 184, 80, False, _HS, 1),
    _Row(3, 184, 80, False, _HS, 1),
    _Row(3, 480, 112, True, _HS, 1),
    _Row(3, 672, 112, True, _HS, 1),
    _Row(5, 672, 160, True, _HS, 2),
    _Row(5, 960, 160, True, _HS, 1),
    _Row(5, 960, 160, True, _HS, 1),
)
_SMALL = (
    _Row(3, 16, 16, True, _RE, 2),
    _Row(3, 72, 24, False, _RE, 2),
    _Row(3, 88, 24, False, _RE, 1),
    _Row(5, 96, 40, True, _HS, 2),
    _Row(5, 240, 40, True, _HS, 1),
    _Row(5, 240, 40, True, _HS, 1),
    _Row(5, 120, 48, True, _HS, 1),
    _Row(5, 144, 48, True, _HS, 1),
    _Row(5, 288, 96, True, _HS, 2),
    _Row(5, 576, 96, True, _HS, 1),
    _Row(5, 576, 96, True, _HS, 1),
)


class _ConvNormActivation(nn.Sequential):
    """Convolution and batch norm, padded to keep the resolution at stride 1; an activation where asked."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: type[nn.Module] | None = None,
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            _norm(outputs),
        ]
        if activation is not None:
            layers.append(activation(inplace=True))
        super().__init__(*layers)


class SqueezeExcitation(nn.Module):
    """Scales each channel by what the means of all channels say of it.

    Args:
        channels: channels in and out.
        squeezed: channels between the two layers.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, kernel_size=1)
        self.fc2 = nn.Conv2d(squeezed, channels, kernel_size=1)
        self.activation = nn.ReLU()
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, channels, h, w] to the same shape."""
        scale: Tensor = self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x)))))
        return scale * x


class InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, weigh the channels, narrow; a shortcut where the shapes allow."""

    def __init__(self, inputs: int, row: _Row) -> None:
        super().__init__()
        hidden, act = row.hidden, row.activation
        layers: list[nn.Module] = []
        if hidden != inputs:
            layers.append(_ConvNormActivation(inputs, hidden, activation=act))
        layers.append(
            _ConvNormActivation(hidden, hidden, row.kernel, row.stride, groups=hidden, activation=act)
        )
        if row.squeezes:
            layers.append(SqueezeExcitation(hidden, round_channels(hidden // 4)))
        layers.append(_ConvNormActivation(hidden, row.outputs))
        self.block = nn.Sequential(*layers)
        self.use_shortcut = row.stride == 1 and inputs == row.outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, inputs, h, w] to [batch, outputs, h / stride, w / stride]."""
        out: Tensor = self.block(x)
        if self.use_shortcut:
            out += x
        return out


class MobileNetV3(nn.Module):
    """Inverted residuals between two convolutions, and a classifier of two layers.

    Args:
        rows: the blocks, at width 1.
        last: features between the classifier's two layers, at width 1.
        num_classes: number of output classes.
        width: multiplier of every channel count.
    """

    def __init__(
        self, rows: tuple[_Row, ...], last: int, num_classes: int = 1000, width: float = 1.0
    ) -> None:
        super().__init__()
        channels = round_channels(_STEM * width)
        layers: list[nn.Module] = [_ConvNormActivation(3, channels, 3, stride=2, activation=_HS)]
        for row in (row.at_width(width) for row in rows):
            layers.append(InvertedResidual(channels, row))
            channels = row.outputs
        layers.append(_ConvNormActivation(channels, 6 * channels, activation=_HS))
        hidden = round_channels(last * width)
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(6 * channels, hidden),
            nn.Hardswish(inplace=True),
            nn.Dropout(0.2, inplace=True),
            nn.Linear(hidden, num_classes),
        )
        self.apply(_init_weights)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: float [batch, 3, height, width], normalised RGB.

        Returns:
            Logits, float [batch, num_classes].
        """
        logits: Tensor = self.classifier(self.avgpool(self.features(images)).flatten(1))
        return logits


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


def mobilenet_v3_small(num_classes: int = 1000, width: float = 1.0) -> MobileNetV3:
    """MobileNetV3-Small, 2,542,856 parameters at width 1.

    Args:
        num_classes: number of output classes.
        width: multiplier of every channel count.

    Returns:
        A net from float [batch, 3, height, width] to logits [batch, num_classes].

    Source:
        Howard et al., "Searching for MobileNetV3", 2019, arXiv:1905.02244, table 2.
    """
    return MobileNetV3(_SMALL, 1024, num_classes, width)


def mobilenet_v3_large(num_classes: int = 1000, width: float = 1.0) -> MobileNetV3:
    """MobileNetV3-Large, 5,483,032 parameters at width 1.

    Args:
        num_classes: number of output classes.
        width: multiplier of every channel count.

    Returns:
        A net from float [batch, 3, height, width] to logits [batch, num_classes].

    Source:
        Howard et al., "Searching for MobileNetV3", 2019, arXiv:1905.02244, table 1.
    """
    return MobileNetV3(_LARGE, 1280, num_classes, width)
