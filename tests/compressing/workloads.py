"""Small workloads that tests name as TARGETs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from enxuto import Workload


class Net(nn.Module):
    """A convolution with a batch norm behind it, random numbers in training, two inputs, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        x = nn.functional.dropout(torch.relu(self.norm(self.conv(images))), 0.5, self.training)
        features = x.mean((2, 3)) * scale
        return self.head(features), features


class Classifier(nn.Module):
    """Two convolutions with batch norms and a linear layer, from [batch, 1, 8, 8] to [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(12, 20, 3, padding=1), nn.BatchNorm2d(20), nn.ReLU(),
        )  # fmt: skip
        self.classifier = nn.Linear(20 * 16, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).flatten(1))


def inputs(batch: int) -> tuple[Tensor, Tensor]:
    """Two random inputs of `Net`."""
    generator = torch.Generator().manual_seed(batch)
    return torch.rand(batch, 2, 6, 6, generator=generator), torch.rand(batch, 1, generator=generator)


def net() -> Workload:
    """Inference with `Net`."""
    return Workload(
        model=Net, batch=lambda n=None: inputs(n or 1), loss=lambda model, batch: model(*batch)[0]
    )


def classifier() -> Workload:
    """Inference with `Classifier`."""
    return Workload(
        model=Classifier,
        batch=lambda n=None: torch.zeros(n or 1, 1, 8, 8),
        loss=lambda model, batch: model(batch),
    )
