"""A small convolutional net for grey 28x28 digits, quick to train on a CPU.

In the line of LeCun et al., "Gradient-Based Learning Applied to Document Recognition" (1998),
with the 3x3 convolutions of later nets and group norm (Wu and He, 2018), under which the samples of a batch do
not see one another.
"""

from __future__ import annotations

from torch import Tensor, nn


class _ConvBlock(nn.Sequential):
    """3x3 convolution, group norm, ReLU and 2x2 max pooling."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
            nn.GroupNorm(8, outputs),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )


class DigitsCNN(nn.Module):
    """Three convolution blocks of 16, 32 and 48 channels and a linear classifier.

    Args:
        classes: number of output classes.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _ConvBlock(1, 16),
            _ConvBlock(16, 32),
            _ConvBlock(32, 48),
        )
        # Flattened, not averaged: where a stroke lies tells digits apart.
        self.classifier = nn.Linear(48 * 3 * 3, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classify digits.

        Args:
            images: float [batch, 1, 28, 28], grey levels from 0 to 1.

        Returns:
            Logits, float [batch, classes].
        """
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits


def digits_cnn(classes: int = 10) -> DigitsCNN:
    """Three-convolution digit classifier, 23,098 parameters at the default.

    Args:
        classes: number of output classes.

    Returns:
        A net from float [batch, 1, 28, 28] to logits [batch, classes].

    Source:
        After LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998.
    """
    return DigitsCNN(classes)
