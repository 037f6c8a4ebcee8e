"""On a CUDA device: the recorder keeps every law, levers keep the bits, offload frees the device. Skips elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from enxuto import Workload, explain, trace
from enxuto.records import Checkpoint, Offload, World
from enxuto.techniques import checkpointing, offloading
from enxuto.testing import check_timeline
from tests.techniques.nets import NETS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
BLOCKS = ["blocks.0", "blocks.1", "blocks.2"]


def on_device(name: str) -> Workload:
    """A net of the laws, its model and batch on the GPU."""
    work = NETS[name]

    def batch(n: int | None = None) -> Any:
        made = work.batch(n)
        return tuple(t.cuda() for t in made) if isinstance(made, tuple) else made.cuda()

    return replace(work, model=lambda: work.model().cuda(), batch=batch)


def gradients(work: Workload, lever: Any, actions: Sequence[Any]) -> tuple[list[Tensor], int]:
    """Gradients of one step with dropout, and CUDA's own peak in it."""
    torch.manual_seed(0)
    model, inputs = work.model(), work.batch()
    torch.manual_seed(1)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    with lever.apply(model, actions) if actions else contextlib.nullcontext():
        work.loss(model, inputs).backward()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    return [p.grad for p in model.parameters() if p.grad is not None], peak


@pytest.mark.parametrize("name", ["gpt", "lstm", "vit", "unet", "resnet18"])
def test_a_recorded_step_keeps_every_law(name: str) -> None:
    work = on_device(name)
    timeline = trace(work, world="cuda")
    check_timeline(timeline)
    assert timeline.world is World.CUDA
    explanation = explain(work, world="cuda")
    assert sum(share.nbytes for share in explanation.shares) == explanation.peak == timeline.peak


@pytest.mark.parametrize(
    ("lever", "actions"),
    [
        (offloading, [Offload(module=path) for path in BLOCKS]),
        (checkpointing, [Checkpoint(modules=(path,), random=True) for path in BLOCKS]),
    ],
)
def test_gradients_keep_their_bits_and_the_peak_falls(lever: Any, actions: Sequence[Any]) -> None:
    work = on_device("vit")
    large = replace(work, batch=lambda n=None: work.batch(n or 256))
    gradients(large, lever, ())  # the libraries' workspaces stay
    plain, before = gradients(large, lever, ())
    changed, after = gradients(large, lever, actions)
    assert all(torch.equal(a, b) for a, b in zip(plain, changed, strict=True))
    assert after < before
