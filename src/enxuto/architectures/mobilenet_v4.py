"""MobileNetV4 Conv-Small, with the parameter names of timm's `mobilenetv4_conv_small`.

Qin et al., "MobileNetV4: Universal Models for the Mobile Ecosystem" (2024),
https://arxiv.org/abs/2404.10518
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from enxuto.architectures.channels import round_channels


@dataclass(frozen=True, slots=True)
class _Plain:
    """A row of the paper's table: a plain convolution."""

    kernel: int
    outputs: int
    stride: int = 1


@dataclass(frozen=True, slots=True)
class _Universal:
    """A row with a universal inverted bottleneck; a kernel of 0 is a filter that is not there."""

    start: int
    middle: int
    expansion: int
    outputs: int
    stride: int = 1


# The specification of Conv-S in the appendix of the paper, a stage a line; the stem comes before.
_STAGES: tuple[tuple[_Plain | _Universal, ...], ...] = (
    (_Plain(3, 32, stride=2), _Plain(1, 32)),
    (_Plain(3, 96, stride=2), _Plain(1, 64)),
    (_Universal(5, 5, 3, 96, stride=2), *[_Universal(0, 3, 2, 96)] * 4, _Universal(3, 0, 4, 96)),
    (
        _Universal(3, 3, 6, 128, stride=2),
        _Universal(5, 5, 4, 128),
        _Universal(0, 5, 4, 128),
        _Universal(0, 5, 3, 128),
        *[_Universal(0, 3, 4, 128)] * 2,
    ),
    (_Plain(1, 960),),
)


class _ConvNorm(nn.Module):
    """A convolution without bias and its batch norm, padded to keep the resolution at stride 1."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(x))
        return out


class _ConvNormActivation(nn.Module):
    """A plain convolution with batch norm and ReLU."""

    def __init__(self, inputs: int, row: _Plain) -> None:
        super().__init__()
        padding = row.kernel // 2
        self.conv = nn.Conv2d(inputs, row.outputs, row.kernel, row.stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(row.outputs)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.bn1(self.conv(x)))
        return out


class UniversalInvertedBottleneck(nn.Module):
    """Filter, widen, filter, narrow, where each filter takes channels one by one and may be left out.

    Without the first it is an inverted residual, without the second a ConvNeXt block, without both a
    feed-forward layer. A shortcut where the shapes allow.
    """

    def __init__(self, inputs: int, row: _Universal) -> None:
        super().__init__()
        hidden = round_channels(inputs * row.expansion)
        first_stride = 1 if row.middle else row.stride
        self.dw_start = (
            _ConvNorm(inputs, inputs, row.start, first_stride, groups=inputs) if row.start else nn.Identity()
        )
        self.pw_exp = _ConvNorm(inputs, hidden)
        self.dw_mid = (
            _ConvNorm(hidden, hidden, row.middle, row.stride, groups=hidden) if row.middle else nn.Identity()
        )
        self.pw_proj = _ConvNorm(hidden, row.outputs)
        self.act = nn.ReLU(inplace=True)
        self.filters_within = row.middle > 0
        self.use_shortcut = row.stride == 1 and inputs == row.outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, inputs, h, w] to [batch, outputs, h / stride, w / stride]."""
        hidden = self.act(self.pw_exp(self.dw_start(x)))
        if self.filters_within:
            hidden = self.act(self.dw_mid(hidden))
        out: Tensor = self.pw_proj(hidden)
        return x + out if self.use_shortcut else out


def _block(inputs: int, row: _Plain | _Universal, width: float) -> tuple[nn.Module, int]:
    """The module of a row at a width, and the channels that it gives."""
    outputs = round_channels(row.outputs * width)
    if isinstance(row, _Plain):
        return _ConvNormActivation(inputs, _Plain(row.kernel, outputs, row.stride)), outputs
    scaled = _Universal(row.start, row.middle, row.expansion, outputs, row.stride)
    return UniversalInvertedBottleneck(inputs, scaled), outputs


class MobileNetV4(nn.Module):
    """Plain convolutions, universal inverted bottlenecks, and a classifier behind a wide layer.

    Args:
        num_classes: number of output classes.
        width: multiplier of every channel count but those of the last wide layer.
    """

    def __init__(self, num_classes: int = 1000, width: float = 1.0) -> None:
        super().__init__()
        # Thin nets keep the stem at full size, as in timm.
        channels = round_channels(32 * max(1.0, width))
        self.conv_stem = nn.Conv2d(3, channels, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        stages = []
        for rows in _STAGES:
            blocks = []
            for row in rows:
                block, channels = _block(channels, row, width)
                blocks.append(block)
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = nn.Conv2d(channels, 1280, kernel_size=1, bias=False)
        self.norm_head = nn.BatchNorm2d(1280)
        self.act = nn.ReLU(inplace=True)
        self.classifier = nn.Linear(1280, num_classes)
        self.apply(_init_weights)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: float [batch, 3, height, width], normalised RGB; more than one of them in training,
                since the last norm sees one pixel of each.

        Returns:
            Logits, float [batch, num_classes].
        """
        x = self.blocks(self.act(self.bn1(self.conv_stem(images))))
        pooled = nn.functional.adaptive_avg_pool2d(x, 1)
        features = self.act(self.norm_head(self.conv_head(pooled)))
        logits: Tensor = self.classifier(features.flatten(1))
        return logits


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")


def mobilenet_v4_conv_small(num_classes: int = 1000, width: float = 1.0) -> MobileNetV4:
    """MobileNetV4 Conv-Small, 3,774,024 parameters at width 1.

    Args:
        num_classes: number of output classes.
        width: multiplier of the channel counts.

    Returns:
        A net from float [batch, 3, height, width] to logits [batch, num_classes].

    Source:
        Qin et al., "MobileNetV4: Universal Models for the Mobile Ecosystem", 2024,
        arXiv:2404.10518.
    """
    return MobileNetV4(num_classes, width)
