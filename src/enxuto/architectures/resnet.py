"""Residual nets, with the parameter names of torchvision.

He et al., "Deep Residual Learning for Image Recognition" (2015), https://arxiv.org/abs/1512.03385
"""

from __future__ import annotations

from torch import Tensor, nn

from enxuto.architectures.channels import round_channels


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)


def _conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """Projection for a block that changes shape; None where the identity will do."""
    if inputs == outputs and stride == 1:
        return None
    return nn.Sequential(_conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, as in ResNet-18.

    Args:
        inputs: channels in.
        planes: channels of both convolutions.
        stride: stride of the first convolution, in pixels.
    """

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _shortcut(inputs, planes * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, inputs, h, w] to [batch, planes, h / stride, w / stride]."""
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        x += identity
        out: Tensor = self.relu(x)
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut, as in ResNet-50.

    Args:
        inputs: channels in.
        planes: channels of the 3x3 convolution; four times as many come out.
        stride: stride of the 3x3 convolution, in pixels.
    """

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = _conv1x1(inputs, planes)
        self.bn1 = nn.BatchNorm2d(planes)
        # The paper strides in conv1; published weights ("v1.5") stride here and score higher.
        self.conv2 = _conv3x3(planes, planes, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = _conv1x1(planes, outputs)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, inputs, h, w] to [batch, 4 * planes, h / stride, w / stride]."""
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        x += identity
        out: Tensor = self.relu(x)
        return out


class ResNet(nn.Module):
    """A stem, four stages of residual blocks and a linear classifier.

    Args:
        block: the residual block to repeat.
        depths: blocks in each of the four stages.
        num_classes: number of output classes.
        dropout: probability of dropping a feature before the classifier in training.
        width: multiplier of every channel count.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        depths: tuple[int, int, int, int],
        num_classes: int = 1000,
        dropout: float = 0.0,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        first, second, third, fourth = (round_channels(base * width) for base in (64, 128, 256, 512))
        wide = block.expansion
        self.conv1 = nn.Conv2d(3, first, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = _stage(block, first, first, depths[0], stride=1)
        self.layer2 = _stage(block, first * wide, second, depths[1], stride=2)
        self.layer3 = _stage(block, second * wide, third, depths[2], stride=2)
        self.layer4 = _stage(block, third * wide, fourth, depths[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = dropout
        self.fc = nn.Linear(fourth * wide, num_classes)
        self.apply(_init_weights)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: float [batch, 3, height, width], normalised RGB.

        Returns:
            Logits, float [batch, num_classes].
        """
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        features = nn.functional.dropout(self.avgpool(x).flatten(1), self.dropout, self.training)
        logits: Tensor = self.fc(features)
        return logits


def _stage(
    block: type[BasicBlock | Bottleneck], inputs: int, planes: int, depth: int, stride: int
) -> nn.Sequential:
    """A run of blocks of which only the first changes resolution and width."""
    first = block(inputs, planes, stride)
    rest = [block(planes * block.expansion, planes) for _ in range(depth - 1)]
    return nn.Sequential(first, *rest)


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def resnet18(num_classes: int = 1000, width: float = 1.0) -> ResNet:
    """ResNet-18 of basic blocks, 11,689,512 parameters at width 1.

    Args:
        num_classes: number of output classes.
        width: multiplier of every channel count; the paper has none.

    Returns:
        A net from float [batch, 3, height, width] to logits [batch, num_classes].

    Source:
        He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385.
    """
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, width=width)


def resnet50(num_classes: int = 1000, dropout: float = 0.0, width: float = 1.0) -> ResNet:
    """ResNet-50 of bottleneck blocks, 25,557,032 parameters at width 1.

    Args:
        num_classes: number of output classes.
        dropout: probability of dropping a feature before the classifier in training; the paper has none.
        width: multiplier of every channel count; the paper has none.

    Returns:
        A net from float [batch, 3, height, width] to logits [batch, num_classes].

    Source:
        He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385.
    """
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, dropout, width)
