"""What people write in their models, each with an exact expectation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from enxuto import Category, Phase, Timeline, Workload, trace
from enxuto.errors import UsageError, UserCodeError


def traced(
    model: Callable[[], nn.Module],
    *,
    loss: Callable[[nn.Module, Any], Any] | None = None,
    step: Callable[..., Any] | None = None,
) -> Timeline:
    work = Workload(
        model=model,
        batch=lambda n=None: torch.randn(n or 8, 16),
        loss=loss or (lambda m, x: m(x).sum()),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        step=step,
    )
    return trace(work, calibrate=False)


def blocks(timeline: Timeline, category: Category) -> list[int]:
    return [block.nbytes for block in timeline.blocks if block.category is category]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16, bias=False)
        self.second = nn.Linear(16, 16, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.body, x.relu(), use_reentrant=False)


class Rectified(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class ReadsValues(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum().item() > 0 else -x)


class TruncatedInit(nn.Linear):
    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)


def test_tied_weights_are_one_block() -> None:
    assert blocks(traced(Tied), Category.PARAMETER) == [16 * 16 * 4]


def test_a_checkpointed_module_runs_again_in_the_backward() -> None:
    timeline = traced(Checkpointed)
    phases = [call.phase for call in timeline.calls if timeline.text(call.module) == "body"]
    assert phases == [Phase.FORWARD, Phase.BACKWARD]


def test_frozen_parameters_get_no_gradient() -> None:
    timeline = traced(lambda: nn.Sequential(nn.Linear(16, 4).requires_grad_(False), nn.Linear(4, 2)))
    assert sorted(blocks(timeline, Category.GRADIENT)) == sorted(
        [2 * 4 * 4, 2 * 4] * 2
    )  # the last step's too


def test_gradients_kept_between_steps_live_before_the_step() -> None:
    def accumulate(model: nn.Module, optimizer: Any, batch: Tensor) -> None:
        model(batch).sum().backward()

    timeline = traced(lambda: nn.Linear(16, 4), step=accumulate)
    kept = [b for b in timeline.blocks if b.category is Category.GRADIENT and b.phase is Phase.BEFORE]
    assert sorted(b.nbytes for b in kept) == [4 * 4, 16 * 4 * 4]


def test_torch_func_is_traced_without_hooks_and_says_so() -> None:
    def loss(model: nn.Module, x: Tensor) -> Tensor:
        slope = torch.func.grad(lambda v: model(v).pow(2).sum())(x)
        return model(x).sum() + slope.detach().sum()

    timeline = traced(lambda: nn.Linear(16, 4), loss=loss)
    assert any("torch.func" in note for note in timeline.facts.notes)
    assert {call.hooked for call in timeline.calls} == {True, False}


def test_a_model_that_reads_values_runs_for_real_and_says_why() -> None:
    timeline = traced(lambda: ReadsValues(16, 4))
    assert timeline.world.value == "cpu"
    assert "DataDependentOutputException" in timeline.facts.dry_refused


def test_a_constructor_that_reads_values_still_runs_dry() -> None:
    timeline = traced(lambda: TruncatedInit(16, 4))
    assert timeline.world.value == "dry"
    assert "on the meta device first" in timeline.facts.notes[0]


def test_copies_made_by_a_constructor_have_parameters_of_their_own() -> None:
    layer = nn.TransformerEncoderLayer
    timeline = traced(
        lambda: nn.TransformerEncoder(layer(16, 2, 32, batch_first=True), 3),
        loss=lambda m, x: m(x[None]).sum(),
    )
    real = nn.TransformerEncoder(layer(16, 2, 32, batch_first=True), 3)
    assert sum(blocks(timeline, Category.PARAMETER)) == sum(p.nbytes for p in real.parameters())


def test_ops_carry_the_users_line_and_backward_ops_that_of_their_forward() -> None:
    timeline = traced(lambda: Rectified(16, 4))
    relu = [
        op
        for op in timeline.ops
        if timeline.text(op.name).startswith(("aten.relu", "aten.threshold_backward"))
    ]
    lines = {timeline.site_of(op.site).line for op in relu}
    assert lines == {Rectified.forward.__code__.co_firstlineno + 1}
    assert timeline.text(relu[-1].node) == "ReluBackward0"


def test_timelines_travel_as_json() -> None:
    timeline = traced(Tied)
    assert Timeline.from_json(timeline.to_json()) == timeline


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda m, x: m(x), "must return a scalar tensor, not a tensor of shape"),
        (lambda m, x: 3.0, "must return a scalar tensor, not float"),
        (lambda m, x: m(x).detach().sum(), "does not depend on any parameter"),
        (lambda m, x: m(x.to("meta")).sum(), None),
    ],
)
def test_a_wrong_loss_is_said_in_one_line(loss: Any, message: str | None) -> None:
    with pytest.raises(UserCodeError if message is None else UsageError, match=message):
        traced(lambda: nn.Linear(16, 4), loss=loss)
