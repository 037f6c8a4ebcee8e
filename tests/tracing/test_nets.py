"""Real nets at small sizes: laws hold, the worlds agree, and the peak is the allocator's, to the byte."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.allocator import true_peaks
from enxuto import Workload, architectures
from enxuto.testing import check_timeline
from enxuto.tracing import trace


def images(side: int, channels: int = 3) -> Callable[[], tuple[Tensor, Tensor]]:
    return lambda: (torch.randn(2, channels, side, side), torch.randint(10, (2,)))


def tokens(length: int) -> Callable[[], tuple[Tensor, Tensor]]:
    return lambda: (torch.randint(64, (2, length)), torch.randint(64, (2, length)))


def classify(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    inputs, target = batch
    logits = model(inputs)
    return F.cross_entropy(logits.flatten(0, -2) if logits.dim() == 3 else logits, target.flatten())


def segment(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    inputs, target = batch
    return F.cross_entropy(model(inputs), target)


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "gpt": (lambda: architectures.gpt(64, 32, 2, 2, 16), tokens(16)),
    "resnet18": (lambda: architectures.resnet18(10), images(32)),
    "mobilenet_v2": (lambda: architectures.mobilenet_v2(10, 0.25), images(32)),
    "unet": (
        lambda: architectures.unet(width=4),
        lambda: (torch.randn(2, 3, 32, 32), torch.randint(2, (2, 32, 32))),
    ),
    "vit": (lambda: architectures.vit_small(10, image_size=32, patch=16), images(32)),
    "squeezenet": (lambda: architectures.squeezenet1_1(10), images(64)),
    "llama": (lambda: architectures.llama(64, 32, 2, 2, 1, 48), tokens(8)),
    "lstm": (lambda: architectures.lstm(64, 16, 1), tokens(6)),
    "digits": (architectures.digits_cnn, images(28, channels=1)),
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
    "adamw": torch.optim.AdamW,
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("net", NETS)
def test_both_worlds_keep_the_laws_and_reach_the_allocators_peak(net: str, optimizer: str) -> None:
    model, batch = NETS[net]
    loss = segment if net == "unet" else classify
    work = Workload(
        model=model, batch=lambda n=None: batch(), loss=loss, optimizer=OPTIMIZERS[optimizer], name=net
    )
    dry, real = trace(work), trace(work, world="cpu")
    check_timeline(dry)
    check_timeline(real)
    assert dry.facts.dry_refused == ""
    assert dry.facts.scratch == real.facts.scratch == "measured"
    assert [dry.text(op.name) for op in dry.ops] == [real.text(op.name) for op in real.ops]
    assert dry.blocks.nbytes.tolist() == real.blocks.nbytes.tolist()
    assert dry.peak == real.peak == true_peaks(work).steady
