"""Workloads for the tests of `predicting`: small nets, and steps that the line through two batch sizes misses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from enxuto import Workload, architectures
from enxuto.architectures.vit import VisionTransformer


def momentum(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def images(n: int | None = None) -> tuple[Tensor, Tensor]:
    return torch.zeros(n or 2, 3, 32, 32), torch.zeros(n or 2, dtype=torch.int64)


def masks(n: int | None = None) -> tuple[Tensor, Tensor]:
    return torch.zeros(n or 2, 3, 32, 32), torch.zeros(n or 2, 32, 32, dtype=torch.int64)


def tokens(n: int | None = None) -> tuple[Tensor, Tensor]:
    return torch.zeros(n or 2, 16, dtype=torch.int64), torch.zeros(n or 2, 16, dtype=torch.int64)


def vectors(n: int | None = None) -> Tensor:
    return torch.zeros(n or 2, 256)


def classify(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    inputs, target = batch
    return F.cross_entropy(model(inputs), target)


def next_token(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    inputs, target = batch
    return F.cross_entropy(model(inputs).flatten(0, 1), target.flatten())


def square(model: nn.Module, batch: Any) -> Tensor:
    loss: Tensor = model(batch).square().mean()
    return loss


def training(
    model: Callable[[], nn.Module],
    batch: Callable[..., Any] = vectors,
    loss: Callable[[nn.Module, Any], Tensor] = square,
    name: str = "work",
    **parts: Any,
) -> Workload:
    return Workload(model=model, batch=batch, loss=loss, optimizer=momentum, name=name, **parts)


NETS = {
    work.name: work
    for work in (
        training(lambda: architectures.gpt(64, 32, 2, 2, 16), tokens, next_token, "gpt"),
        training(
            partial(
                VisionTransformer,
                num_classes=10,
                image_size=32,
                patch=8,
                width=32,
                depth=2,
                heads=2,
                dropout=0.0,
            ),
            images,
            classify,
            "vit",
        ),
        training(lambda: architectures.resnet18(10), images, classify, "resnet18"),
        training(lambda: architectures.unet(width=4), masks, classify, "unet"),
        training(lambda: architectures.mobilenet_v2(10, 0.25), images, classify, "mobilenet_v2"),
        training(lambda: architectures.lstm(64, 16, 1), tokens, next_token, "lstm"),
    )
}


def linear() -> nn.Module:
    return nn.Linear(256, 64)


class Towers(nn.Module):
    """Two projections whose rows are compared with each other: an n x n matrix, as in CLIP."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(256, 16), nn.Linear(256, 16)

    def forward(self, x: Tensor) -> Tensor:
        similarity: Tensor = self.one(x) @ self.other(x).T
        return similarity


def contrast(model: nn.Module, x: Tensor) -> Tensor:
    return F.cross_entropy(model(x), torch.arange(len(x)))


class Loop(nn.Linear):
    """A layer that takes its samples one by one: more ops for more samples."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([F.linear(row, self.weight, self.bias) for row in x])


class Reader(nn.Linear):
    """A layer that reads a value, so that it cannot run dry."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        return y if y.sum().item() < 1e30 else -y


def normed() -> nn.Module:
    """A net that cannot train at batch size 1."""
    return nn.Sequential(nn.Linear(256, 64), nn.BatchNorm1d(64))


def warmed_up(model: nn.Module, optimizer: torch.optim.Optimizer | None, x: Tensor) -> None:
    """A step that needs most the first time, as a search for the best kernel may."""
    assert optimizer is not None
    if not optimizer.state:
        torch.zeros(len(x), 10_000)
    square(model, x).backward()
    optimizer.step()
    optimizer.zero_grad()
