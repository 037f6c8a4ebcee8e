"""MobileNetV2, with the parameter names of torchvision.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018),
https://arxiv.org/abs/1801.04381
"""

from __future__ import annotations

from torch import Tensor, nn

from enxuto.architectures.channels import round_channels

# Table 2 of the paper: expansion, channels out, repeats, stride of the first repeat.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class _ConvNormActivation(nn.Sequential):
    """Convolution, batch norm and ReLU6, padded to keep the resolution at stride 1."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        padding = kernel // 2
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU6(inplace=True),
        )


class InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, narrow; a shortcut where the shapes allow.

    Args:
        inputs: channels in.
        outputs: channels out.
        stride: stride of the depthwise convolution, in pixels.
        expansion: hidden channels per input channel.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(_ConvNormActivation(inputs, hidden, kernel=1))
        layers += [
            _ConvNormActivation(hidden, hidden, stride=stride, groups=hidden),
            nn.Conv2d(hidden, outputs, kernel_size=1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv = nn.Sequential(*layers)
        self.use_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, inputs, h, w] to [batch, outputs, h / stride, w / stride]."""
        out: Tensor = self.conv(x)
        return x + out if self.use_shortcut else out


class MobileNetV2(nn.Module):
    """Seventeen inverted residuals between two convolutions, and a linear classifier.

    Args:
        num_classes: number of output classes.
        width: multiplier of every channel count.
    """

    def __init__(self, num_classes: int = 1000, width: float = 1.0) -> None:
        super().__init__()
        channels = round_channels(32 * width)
        layers: list[nn.Module] = [_ConvNormActivation(3, channels, stride=2)]
        for expansion, base, repeats, first_stride in _STAGES:
            outputs = round_channels(base * width)
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                layers.append(InvertedResidual(channels, outputs, stride, expansion))
                channels = outputs
        # Thin nets keep the last convolution at full size: the paper finds them better for it.
        last = round_channels(1280 * max(1.0, width))
        layers.append(_ConvNormActivation(channels, last, kernel=1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes))
        self.apply(_init_weights)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: float [batch, 3, height, width], normalised RGB.

        Returns:
            Logits, float [batch, num_classes].
        """
        x = nn.functional.adaptive_avg_pool2d(self.features(images), 1)
        logits: Tensor = self.classifier(x.flatten(1))
        return logits


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


def mobilenet_v2(num_classes: int = 1000, width: float = 1.0) -> MobileNetV2:
    """MobileNetV2, 3,504,872 parameters at width 1.

    Args:
        num_classes: number of output classes.
        width: multiplier of every channel count, 1.0 for the paper's base net.

    Returns:
        A net from float [batch, 3, height, width] to logits [batch, num_classes].

    Source:
        Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018,
        arXiv:1801.04381.
    """
    return MobileNetV2(num_classes, width)
