"""VGG-16, with the parameter names of torchvision.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (2014),
https://arxiv.org/abs/1409.1556
"""

from __future__ import annotations

from torch import Tensor, nn

from enxuto.architectures.channels import round_channels

# Configuration D of the paper: channels and number of convolutions before each pooling.
_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
_SIDE, _HIDDEN = 7, 4096


class VGG(nn.Module):
    """Thirteen 3x3 convolutions and three linear layers, of which the first has most of the weights.

    Args:
        num_classes: number of output classes.
        width: multiplier of every channel count, and of the linear layers' features.
    """

    def __init__(self, num_classes: int = 1000, width: float = 1.0) -> None:
        super().__init__()
        channels = 3
        layers: list[nn.Module] = []
        for base, depth in _STAGES:
            outputs = round_channels(base * width)
            for _ in range(depth):
                layers += [nn.Conv2d(channels, outputs, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
                channels = outputs
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
        hidden = round_channels(_HIDDEN * width)
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(_SIDE)
        self.classifier = nn.Sequential(
            nn.Linear(channels * _SIDE**2, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(hidden, num_classes),
        )
        self.apply(_init_weights)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: float [batch, 3, height, width], normalised RGB, at least 32 pixels a side.

        Returns:
            Logits, float [batch, num_classes].
        """
        logits: Tensor = self.classifier(self.avgpool(self.features(images)).flatten(1))
        return logits


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        assert module.bias is not None
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


def vgg16(num_classes: int = 1000, width: float = 1.0) -> VGG:
    """VGG-16, 138,357,544 parameters at width 1, 103 million of them in one linear layer.

    Args:
        num_classes: number of output classes.
        width: multiplier of the channel counts and of the linear layers' features.

    Returns:
        A net from float [batch, 3, height, width] to logits [batch, num_classes].

    Source:
        Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
        2014, arXiv:1409.1556.
    """
    return VGG(num_classes, width)
