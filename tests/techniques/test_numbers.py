"""A checkpoint cannot drop the number that a node keeps, and keeps another while it runs again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from benchmarks.allocator import true_peaks
from enxuto.records import Checkpoint
from enxuto.techniques import checkpointing
from enxuto.techniques.edits import edited
from enxuto.tracing import trace
from tests.tracing.small_steps import work_of


class Scaled(nn.Module):
    """Numbers before, between and after what hooks see."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second((self.first(x * 0.5) / 3).sin() * 2).tanh() * 0.1


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Scaled(), Scaled()

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x)) * 0.7


def stack() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 16), Pair(), Pair(), Scaled())


@pytest.mark.parametrize(
    "modules",
    [["1"], ["2.one"], ["1", "2", "3"], ["1.one", "1.two", "3"], ["1", "1.one", "1.two"]],
    ids=["one", "inner", "all", "several", "nested"],
)
def test_the_simulated_curve_is_the_traced_one(modules: Sequence[str]) -> None:
    work = work_of(stack, lambda: torch.randn(8, 16))
    actions = [Checkpoint(modules=(module,)) for module in modules]
    plain = trace(work)
    simulated = edited(plain, checkpointing.simulate(plain, actions))
    with ExitStack() as applied:

        def model() -> nn.Module:
            net = stack()
            applied.enter_context(checkpointing.apply(net, actions))
            return net

        changed = replace(work, model=model)
        traced = trace(changed)
        assert traced.peak == true_peaks(changed).steady
    births = [sorted(set(t.curve[t.blocks.born].tolist())) for t in (simulated, traced)]
    assert simulated.peak == traced.peak
    assert births[0] == births[1]
