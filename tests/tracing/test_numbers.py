"""Numbers in a formula: torch makes a tensor of the 2 in `x * 2`, and autograd may keep it until the backward."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.allocator import true_peaks
from enxuto import Category, Timeline, Workload
from enxuto.testing import check_timeline
from enxuto.tracing import trace
from tests.tracing.small_steps import Forward, ops_of, traced, work_of

WORLDS = ["dry", "cpu"]


def kept_numbers(timeline: Timeline) -> list[int]:
    """Bytes of the saved blocks that are no tensor of the workload: its tensors all have 64 B or more."""
    saved = [b for b in timeline.blocks if b.category is Category.SAVED_ACTIVATION]
    return [block.nbytes for block in saved if block.nbytes < 64]


def formula(function: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: Forward(lambda weight, x: function(weight))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("function", "kept"),
    [
        (lambda w: w * 2, [8]),
        (lambda w: w / 3.0, [8]),
        (lambda w: 2.0 * w / 3, [8, 8]),
        (lambda w: w * True, [1]),
        (lambda w: 1 / w, [8]),  # a reciprocal, times the number
        (lambda w: w.exp().mul_(0.5), [8]),
        (lambda w: w + 2, []),
        (lambda w: w.detach() * 2 + w, []),
        (lambda w: w**2.5, []),  # the exponent is kept as a number
    ],
    ids=["mul", "div", "two", "bool", "reciprocal", "in place", "add", "no gradient", "pow"],
)
def test_a_node_keeps_the_numbers_that_its_backward_needs(
    function: Callable[[Tensor], Tensor], kept: list[int], world: str
) -> None:
    assert kept_numbers(traced(formula(function), world=world)) == kept


def test_without_gradients_no_number_is_kept() -> None:
    work = Workload(
        model=lambda: Forward(lambda weight, x: weight * 2),
        batch=lambda n=None: torch.randn(8, 16),
        loss=lambda model, x: model(x).sum(),
    )
    assert kept_numbers(trace(work, calibrate=False)) == []


def half_doubled(weight: Tensor) -> Tensor:
    out = weight + 0
    out[:8].mul_(2)
    return out


@pytest.mark.parametrize("world", WORLDS)
def test_the_number_of_a_view_changed_in_place_is_out_of_sight(world: str) -> None:
    """Its node hides in another; asking a view for its node while torch makes that node would never return."""
    assert kept_numbers(traced(formula(half_doubled), world=world)) == []


@pytest.mark.parametrize("world", WORLDS)
def test_a_number_lives_from_its_op_to_the_end_of_its_node(world: str) -> None:
    t = traced(formula(lambda w: (w * 2).sin()), world=world)
    (save,) = [save for save in t.saves if t.blocks[save.block].nbytes == 8]
    forward, *_, backward = ops_of(t, "aten.mul.Tensor")
    block = t.blocks[save.block]
    assert (block.born, block.op) == (forward.tick, t.ops.tick.tolist().index(forward.tick))
    assert (save.pack, block.natural) == (block.born, block.born + 1)  # then autograd alone holds it
    assert t.text(save.node) == "MulBackward0"
    assert t.text(t.calls.module[save.call]) == ""
    (unpack,) = save.unpacks
    assert unpack < backward.tick < save.release < t.ticks


@pytest.mark.parametrize("world", WORLDS)
def test_a_number_stays_a_number_in_the_backward(world: str) -> None:
    t = traced(formula(lambda w: w * 2), world=world)
    *_, backward = ops_of(t, "aten.mul.Tensor")
    _, (gradient, number), _ = json.loads(t.signatures[backward.signature])
    assert (gradient[0], number) == ("tensor", 2)


def chain(weight: Tensor) -> Tensor:
    for step in range(1, 6):
        weight = (weight * 1.5).sin() / step
    return weight


def checkpointed(weight: Tensor) -> Tensor:
    return checkpoint(chain, checkpoint(chain, weight, use_reentrant=False), use_reentrant=False)


def tangent(weight: Tensor) -> Tensor:
    """GELU, spelt out."""
    return 0.5 * weight * (1 + torch.tanh(0.79 * (weight + 0.044 * weight**3)))


def unkept(weight: Tensor) -> Tensor:
    """Results that are dropped, or changed where no gradient is recorded."""
    weight * 2
    tripled = weight * 3
    with torch.no_grad():
        tripled.mul_(2)
    return tripled + (weight * 5).detach()


def penalised(model: nn.Module, x: Tensor) -> Tensor:
    """A backward within the forward, whose nodes keep numbers in turn."""
    out = (model(x) * 2).sin().sum()
    (gradient,) = torch.autograd.grad(out, list(model.parameters()), create_graph=True)
    return out + 10 * (gradient * 3).square().sum()


def twice(model: Any, optimizer: Any, x: Tensor) -> None:
    """Two backward passes through one graph."""
    optimizer.zero_grad()
    loss = model(x).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    "work",
    [
        work_of(formula(chain)),
        work_of(lambda: Forward(lambda weight, x: chain(weight), 1)),
        work_of(formula(checkpointed)),
        work_of(formula(tangent)),
        work_of(formula(unkept)),
        work_of(formula(chain), loss=penalised),
        work_of(formula(chain), step=twice),
        work_of(lambda: nn.Sequential(formula(chain)(), Forward(lambda weight, x: chain(weight * x)))),
    ],
    ids=[
        "chain",
        "one element",
        "checkpointed",
        "tangent",
        "unkept",
        "double backward",
        "retained",
        "modules",
    ],
)
def test_peaks_with_numbers_equal_the_allocators(work: Workload, world: str) -> None:
    timeline = trace(work, world=world)
    check_timeline(timeline)
    assert timeline.facts.step_peaks == true_peaks(work).steps


def test_a_number_is_counted_once_at_the_op_that_made_it() -> None:
    """Kernel scratch is measured with it: 8 B, and the 4 B of its cast."""
    work = Workload(
        model=formula(lambda w: w * 2.0),
        batch=lambda n=None: torch.randn(8, 16),
        loss=lambda model, x: model(x).sum(),
        grad=True,
    )
    timeline = trace(work)
    check_timeline(timeline)
    (double,) = ops_of(timeline, "aten.mul.Tensor")
    assert (timeline.peak_tick, double.scratch) == (double.tick, 4)
    assert timeline.peak == true_peaks(work).steady
