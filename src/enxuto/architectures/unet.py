"""U-Net for dense prediction, padded so that the output has the size of the input.

Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation" (2015),
https://arxiv.org/abs/1505.04597
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions, each with batch norm and ReLU.

    Args:
        inputs: channels in.
        outputs: channels out.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class Up(nn.Module):
    """Double the resolution, join the encoder's features of that size, and convolve.

    Args:
        inputs: channels in; half as many come out.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, inputs // 2, kernel_size=2, stride=2)
        self.conv = DoubleConv(inputs, inputs // 2)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map [batch, inputs, h, w] and [batch, inputs / 2, 2 h, 2 w] to the shape of skip."""
        out: Tensor = self.conv(torch.cat([skip, self.up(x)], dim=1))
        return out


class UNet(nn.Module):
    """Encoder and decoder of four resolutions, with skips by concatenation.

    Args:
        channels: channels of the input image.
        classes: number of classes a pixel may have.
        width: channels at full resolution, doubled at each of three halvings.
        dropout: probability of dropping a feature at the end of the contracting path in training.
    """

    def __init__(self, channels: int = 3, classes: int = 2, width: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.stem = DoubleConv(channels, width)
        self.down1 = DoubleConv(width, 2 * width)
        self.down2 = DoubleConv(2 * width, 4 * width)
        self.down3 = DoubleConv(4 * width, 8 * width)
        self.pool = nn.MaxPool2d(2)
        self.up3 = Up(8 * width)
        self.up2 = Up(4 * width)
        self.up1 = Up(2 * width)
        self.head = nn.Conv2d(width, classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """Classify each pixel.

        Args:
            images: float [batch, channels, height, width], both sides multiples of 8 pixels.

        Returns:
            Logits, float [batch, classes, height, width].
        """
        full = self.stem(images)
        half = self.down1(self.pool(full))
        quarter = self.down2(self.pool(half))
        x = self.down3(self.pool(quarter))
        x = nn.functional.dropout(x, self.dropout, self.training)
        x = self.up1(self.up2(self.up3(x, quarter), half), full)
        logits: Tensor = self.head(x)
        return logits


def unet(channels: int = 3, classes: int = 2, width: int = 32, dropout: float = 0.0) -> UNet:
    """U-Net of 32, 64, 128 and 256 channels, 1,927,042 parameters at the defaults.

    Args:
        channels: channels of the input image.
        classes: number of classes a pixel may have.
        width: channels at full resolution, doubled at each of three halvings.
        dropout: probability of dropping a feature at the end of the contracting path in training;
            the paper does so there, without a rate.

    Returns:
        A net from float [batch, channels, height, width], both sides multiples of 8 pixels, to
        logits [batch, classes, height, width].

    Source:
        Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation",
        2015, arXiv:1505.04597; padding and batch norm are later practice.
    """
    return UNet(channels, classes, width, dropout)
