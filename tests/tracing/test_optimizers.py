"""Every kind of optimizer: its state, its temporaries, its phase."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.allocator import true_peaks
from enxuto import Category, Phase
from enxuto.tracing import trace
from tests.tracing.small_steps import named, sizes, traced, work_of

Make = Callable[[Any], torch.optim.Optimizer]
WEIGHT = 16 * 32 * 4
STEP = 4  # Adam's count of steps is a tensor of its own

MAKERS: dict[str, tuple[Make, dict[str, int]]] = {
    "sgd": (lambda p: torch.optim.SGD(p, lr=0.1), {}),
    "momentum": (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), {"momentum_buffer": WEIGHT}),
    "adam": (torch.optim.Adam, {"step": STEP, "exp_avg": WEIGHT, "exp_avg_sq": WEIGHT}),
    "adam foreach": (
        lambda p: torch.optim.Adam(p, foreach=True),
        {"step": STEP, "exp_avg": WEIGHT, "exp_avg_sq": WEIGHT},
    ),
    "adamw fused": (
        lambda p: torch.optim.AdamW(p, fused=True),
        {"step": STEP, "exp_avg": WEIGHT, "exp_avg_sq": WEIGHT},
    ),
    "amsgrad": (
        lambda p: torch.optim.Adam(p, amsgrad=True),
        {"step": STEP, "exp_avg": WEIGHT, "exp_avg_sq": WEIGHT, "max_exp_avg_sq": WEIGHT},
    ),
    "rmsprop": (lambda p: torch.optim.RMSprop(p, lr=0.01), {"step": STEP, "square_avg": WEIGHT}),
    "adagrad": (torch.optim.Adagrad, {"step": STEP, "sum": WEIGHT}),
    "adafactor": (
        torch.optim.Adafactor,
        {"step": STEP, "row_var": 32 * 4, "col_var": 16 * 4},
    ),
}


@pytest.mark.parametrize("name", MAKERS)
def test_state_is_named_and_stands_before_a_steady_step(name: str) -> None:
    make, expected = MAKERS[name]
    timeline = traced(lambda: nn.Linear(16, 32, bias=False), optimizer=make)
    assert named(timeline, Category.OPTIMIZER_STATE) == {f"weight.{k}": v for k, v in expected.items()}
    states = [b for b in timeline.blocks if b.category is Category.OPTIMIZER_STATE]
    assert all((b.phase, b.born, b.natural) == (Phase.BEFORE, 0, timeline.ticks) for b in states)
    assert {op.phase for op in timeline.ops} >= {Phase.OPTIMIZER}


@pytest.mark.parametrize("name", MAKERS)
def test_peaks_of_all_steps_are_the_allocators(name: str) -> None:
    make, _ = MAKERS[name]
    work = work_of(lambda: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)), optimizer=make)
    assert trace(work).facts.step_peaks == true_peaks(work).steps


def test_state_is_born_in_the_first_step() -> None:
    work = work_of(lambda: nn.Linear(16, 32, bias=False), optimizer=torch.optim.Adam)
    first = trace(work, steps=1, calibrate=False)
    assert sorted(sizes(first, Category.OPTIMIZER_STATE)) == [STEP, WEIGHT, WEIGHT]
    born = [b for b in first.blocks if b.category is Category.OPTIMIZER_STATE]
    assert {b.phase for b in born} == {Phase.OPTIMIZER}


def test_a_fused_update_is_one_op_without_temporaries() -> None:
    timeline = traced(lambda: nn.Linear(16, 32), optimizer=lambda p: torch.optim.AdamW(p, fused=True))
    assert sizes(timeline, Category.TEMPORARY_OPTIMIZER) == []
    fused = [op for op in timeline.ops if timeline.text(op.name).startswith("aten._fused_adamw_")]
    assert len(fused) == 1


def test_an_update_inside_the_backward_frees_each_gradient_at_once() -> None:
    made: list[torch.optim.Optimizer] = []

    def model() -> nn.Module:
        net = nn.Sequential(nn.Linear(16, 32, bias=False), nn.Linear(32, 16, bias=False))
        for parameter in net.parameters():
            own = torch.optim.SGD([parameter], lr=0.1)
            made.append(own)

            def update(p: torch.Tensor, own: torch.optim.Optimizer = own) -> None:
                own.step()
                own.zero_grad()

            parameter.register_post_accumulate_grad_hook(update)
        return net

    timeline = traced(model, step=lambda m, o, x: m(x).sum().backward())
    gradients = [b for b in timeline.blocks if b.category is Category.GRADIENT]
    assert [timeline.phase_at(b.natural) for b in gradients] == [Phase.BACKWARD] * 2
    assert gradients[0].natural < gradients[1].born


def test_lbfgs_needs_a_step_of_its_own() -> None:
    def closure_step(model: nn.Module, optimizer: Any, x: torch.Tensor) -> None:
        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = model(x).pow(2).sum()
            loss.backward()
            return loss

        optimizer.step(closure)

    timeline = traced(lambda: nn.Linear(16, 4), optimizer=torch.optim.LBFGS, step=closure_step)
    assert timeline.facts.dry_refused.startswith("DataDependentOutputException: ")
    assert timeline.peak > 0
