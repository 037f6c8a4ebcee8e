"""`fit` end to end on small nets: what it promises is measured, what it cannot promise it names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enxuto import Workload
from enxuto.devices import OpMemory, ScratchTable
from enxuto.errors import UsageError
from enxuto.fitting import Fit, fit
from enxuto.records import (
    Budget,
    Checkpoint,
    Fitted,
    FrozenBatchNorm,
    MicroBatches,
    Numerics,
    Outcome,
    SingleTensorStep,
    SmallerBatch,
    Status,
    from_json,
)
from tests.techniques.nets import NETS


def deep(norm: type[nn.Module] = nn.LayerNorm) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Sequential(norm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)) for _ in range(4)]
    return nn.Sequential(*layers, nn.Linear(32, 4))


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


WORK = Workload(
    model=deep,
    batch=lambda n=None: (torch.ones(n or 64, 32), torch.zeros(n or 64, dtype=torch.int64)),
    loss=loss,
    optimizer=partial(torch.optim.AdamW, lr=1e-3),
    batch_size=64,
    name="deep",
)


@pytest.fixture(scope="module", autouse=True)
def few_pieces() -> Iterator[None]:
    """At most 4 pieces: 8 and 16 take most of the time, and show nothing more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["enxuto.fitting.fit"], "_MOST_PIECES", 4)
        yield


@cache
def fitter() -> Fit:
    return Fit(WORK, calibrate=False, exact=False)


def full() -> int:
    return fitter().planner().bases[0].timeline.peak


@pytest.mark.parametrize("share", [95, 80, 70])
def test_a_promise_is_kept(share: int) -> None:
    fitted = fitter().within(full() * share // 100)
    assert fitted.plan.fits
    assert fitted.verdict.passed
    assert fitted.verdict["dry trace"].got == fitted.plan.after.peak
    assert fitted.verdict["memory"].outcome is Outcome.PASSED
    assert fitted.verdict["memory"].got <= fitted.plan.budget.bytes
    assert fitted.verdict["undo"].outcome is Outcome.PASSED
    assert max(fitted.after_curve) == fitted.plan.after.peak
    assert max(fitted.before_curve) == fitted.plan.before.peak
    assert from_json(_json(fitted)) == fitted


def _json(fitted: Fitted) -> bytes:
    from enxuto.records import codec

    return codec.to_json(fitted)


def test_identical_levers_alone_are_compared_to_the_bit() -> None:
    lowest = min(
        p.peak for p in fitter().within(1, measure=False).plan.frontier if p.numerics is Numerics.IDENTICAL
    )
    fitted = fitter().within(Budget(bytes=lowest, allow=(Numerics.IDENTICAL,)))
    assert {lever.numerics for lever in fitted.plan.levers} == {Numerics.IDENTICAL}
    assert fitted.verdict.passed
    compared = [fitted.verdict[name] for name in ("gradients", "update")]
    assert any(check.outcome is Outcome.PASSED and check.tolerance == 0 for check in compared)


def test_an_impossible_budget_is_an_answer() -> None:
    fitted = fitter().within("1 KiB")
    assert fitted.plan.status is Status.INFEASIBLE
    assert fitted.plan.floor_holds
    assert fitted.verdict["memory"].outcome is Outcome.NOT_CHECKED
    assert "no plan fits" in fitted.verdict["memory"].how


def test_a_saved_plan_is_applied_again() -> None:
    plan = fitter().within(full() * 8 // 10, measure=False).plan
    again = Fit(WORK, calibrate=False, exact=False).again(plan)
    assert again.plan == plan
    assert again.verdict.passed
    assert again.verdict["dry trace"].got == plan.after.peak


def test_batch_norm_keeps_its_batch() -> None:
    work = replace(WORK, model=partial(deep, nn.BatchNorm1d))
    fitted = fit(work, 1, calibrate=False, measure=False, exact=False)
    assert not any(isinstance(a, MicroBatches) for point in fitted.plan.frontier for a in point.actions)
    assert "takes its statistics over the whole batch" in fitted.plan.why(MicroBatches(pieces=2))


FOUR = replace(  # in 2 and 4 pieces only
    WORK,
    batch=lambda n=None: (torch.ones(n or 4, 32), torch.zeros(n or 4, dtype=torch.int64)),
    batch_size=4,
)


def test_batch_norm_frozen_with_consent_runs_in_pieces() -> None:
    work = replace(WORK, model=partial(deep, nn.BatchNorm1d))
    fitter = Fit(work, calibrate=False, exact=False)
    allowed = Budget(bytes=1, allow=tuple(Numerics), fixed=("smaller-batch", "checkpoint"))
    floor = fitter.within(allowed, measure=False).plan
    frozen = [point for point in floor.frontier if FrozenBatchNorm() in point.actions]
    assert frozen
    assert all(any(isinstance(a, MicroBatches) for a in point.actions) for point in frozen)
    fitted = fitter.within(replace(allowed, bytes=frozen[-1].peak))
    assert fitted.verdict.passed
    assert FrozenBatchNorm() not in fitter.within(floor.before.peak, measure=False).plan.actions


def test_foreach_is_turned_off_where_it_makes_the_peak() -> None:
    work = replace(FOUR, optimizer=partial(torch.optim.AdamW, lr=1e-3, foreach=True))
    fitter = Fit(work, calibrate=False, exact=False)
    only = Budget(bytes=10**9, fixed=("fused-step", "checkpoint"))
    frontier = fitter.within(only, measure=False).plan.frontier
    single = [point for point in frontier if SingleTensorStep() in point.actions]
    assert single
    assert single[0].peak < fitter.planner().bases[0].timeline.peak
    spare = 1000  # what unmeasured scratch may take
    assert fitter.within(replace(only, bytes=single[0].peak + spare)).verdict.passed


def test_a_loss_within_the_batch_keeps_its_batch() -> None:
    def contrastive(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x = model(batch[0])
        return F.cross_entropy(x @ x.T, torch.arange(len(x)))

    fitted = fit(replace(WORK, loss=contrastive), 1, calibrate=False, measure=False, exact=False)
    assert "see each other" in fitted.plan.why(MicroBatches(pieces=2))


def test_a_smaller_batch_needs_consent() -> None:
    budget = Budget(bytes=1)
    assert not _smaller(fitter().within(budget, measure=False))
    assert _smaller(
        fit(WORK, replace(budget, allow=tuple(Numerics)), calibrate=False, measure=False, exact=False)
    )


def _smaller(fitted: Fitted) -> bool:
    return any(isinstance(a, SmallerBatch) for point in fitted.plan.frontier for a in point.actions)


@pytest.mark.parametrize("name", ["gpt", "unet"])
def test_dropout_and_checkpoints_on_real_nets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["enxuto.fitting.fit"], "_MOST_PIECES", 1)  # pieces are fixed below
    fitter = Fit(NETS[name], exact=False)  # kernel scratch is part of a convolution's promise
    only = ("micro-batches", "optimizer-in-backward", "fused-step")
    peak = fitter.planner().bases[0].timeline.peak
    lowest = min(p.peak for p in fitter.within(Budget(bytes=1, fixed=only), measure=False).plan.frontier)
    fitted = fitter.within(Budget(bytes=(peak + lowest) // 2, fixed=only))
    assert any(isinstance(a, Checkpoint) for a in fitted.plan.actions)
    assert fitted.verdict.passed
    assert fitted.verdict["gradients"].outcome is Outcome.PASSED
    assert fitted.verdict["gradients"].tolerance == 0


def test_wrong_calls_say_what_to_do() -> None:
    with pytest.raises(UsageError, match="is inference"):
        fit(WORK.inference(), "1 GiB")
    with pytest.raises(UsageError, match="at least 1 byte"):
        fit(WORK, 0)
    with pytest.raises(UsageError, match="is no size"):
        fit(WORK, "two apples")


def test_another_process_may_fill_this_machines_table_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The promise and the step that is traced again are of one table: the first difference is a bug of ours."""
    read: list[ScratchTable] = []

    def look_up(self: ScratchTable, call: str) -> OpMemory | None:
        places = [place for place, table in enumerate(read, 1) if table is self]
        return OpMemory(4096 * sum(places), ())  # later, more is known

    def of_this_machine() -> ScratchTable:
        read.append(ScratchTable({}, None))
        return read[-1]

    monkeypatch.setattr(ScratchTable, "of_this_machine", of_this_machine)
    monkeypatch.setattr(ScratchTable, "look_up", look_up)
    fitted = fit(WORK, int(0.7 * full()), calibrate=False, exact=False, measure=False)
    (dry,) = (check for check in fitted.verdict.checks if check.name == "dry trace")
    assert fitted.plan.actions
    assert dry.outcome is Outcome.PASSED
