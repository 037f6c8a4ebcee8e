"""Small training steps, and short questions about their Timelines, shared by the tests of tracing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from enxuto import Category, Timeline, Workload
from enxuto.records import Call, Op
from enxuto.testing import check_timeline
from enxuto.tracing import trace


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def work_of(
    model: Callable[[], nn.Module],
    batch: Callable[[], Any] = lambda: torch.randn(8, 16),
    *,
    loss: Callable[[nn.Module, Any], Any] = lambda model, x: model(x).sum(),
    optimizer: Callable[[Any], Any] | None = sgd,
    step: Callable[..., Any] | None = None,
) -> Workload:
    return Workload(model=model, batch=lambda n=None: batch(), loss=loss, optimizer=optimizer, step=step)


def traced(model: Callable[[], nn.Module], *args: Any, world: str = "dry", **kwargs: Any) -> Timeline:
    """One step's Timeline without calibration, its laws checked."""
    timeline = trace(work_of(model, *args, **kwargs), world=world, calibrate=False)
    check_timeline(timeline)
    return timeline


def sizes(timeline: Timeline, category: Category) -> list[int]:
    return [block.nbytes for block in timeline.blocks if block.category is category]


def named(timeline: Timeline, category: Category) -> dict[str, int]:
    return {timeline.text(b.name): b.nbytes for b in timeline.blocks if b.category is category}


def calls_of(timeline: Timeline, module: str) -> list[Call]:
    return [call for call in timeline.calls if timeline.text(call.module) == module]


def ops_of(timeline: Timeline, name: str) -> list[Op]:
    return [op for op in timeline.ops if timeline.text(op.name) == name]


class Forward(nn.Module):
    """A module that computes `function(weight, x)` with one parameter."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape or (16,)))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.weight, x)
