"""MobileNetV1, with the parameter names of timm's `mobilenetv1_100`.

Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications"
(2017), https://arxiv.org/abs/1704.04861
"""

from __future__ import annotations

from torch import Tensor, nn

from enxuto.architectures.channels import round_channels

# Table 1 of the paper: channels out, repeats, stride of the first repeat.
_STAGES = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))


class DepthwiseSeparable(nn.Module):
    """A filter for each channel by itself, then a 1x1 convolution that mixes the channels.

    Args:
        inputs: channels in.
        outputs: channels out.
        stride: of the filters, in pixels.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv_pw = nn.Conv2d(inputs, outputs, kernel_size=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.act = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, inputs, h, w] to [batch, outputs, h / stride, w / stride]."""
        x = self.act(self.bn1(self.conv_dw(x)))
        out: Tensor = self.act(self.bn2(self.conv_pw(x)))
        return out


class MobileNetV1(nn.Module):
    """A convolution, thirteen depthwise separable ones, and a linear classifier.

    Args:
        num_classes: number of output classes.
        width: multiplier of every channel count.
    """

    def __init__(self, num_classes: int = 1000, width: float = 1.0) -> None:
        super().__init__()
        channels = round_channels(32 * width)
        self.conv_stem = nn.Conv2d(3, channels, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act = nn.ReLU6(inplace=True)
        stages = []
        for base, repeats, stride in _STAGES:
            outputs = round_channels(base * width)
            first = DepthwiseSeparable(channels, outputs, stride)
            rest = [DepthwiseSeparable(outputs, outputs, 1) for _ in range(repeats - 1)]
            stages.append(nn.Sequential(first, *rest))
            channels = outputs
        self.blocks = nn.Sequential(*stages)
        self.classifier = nn.Linear(channels, num_classes)
        self.apply(_init_weights)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: float [batch, 3, height, width], normalised RGB.

        Returns:
            Logits, float [batch, num_classes].
        """
        x = self.blocks(self.act(self.bn1(self.conv_stem(images))))
        logits: Tensor = self.classifier(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")


def mobilenet_v1(num_classes: int = 1000, width: float = 1.0) -> MobileNetV1:
    """MobileNetV1, 4,231,976 parameters at width 1.

    Args:
        num_classes: number of output classes.
        width: multiplier of every channel count; the paper has 1.0, 0.75, 0.5 and 0.25.

    Returns:
        A net from float [batch, 3, height, width] to logits [batch, num_classes].

    Source:
        Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
        Applications", 2017, arXiv:1704.04861; ReLU6 as in the authors' code.
    """
    return MobileNetV1(num_classes, width)
