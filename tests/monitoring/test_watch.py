"""The watch itself: what it sees of a run, that it changes nothing, that it never disturbs."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import enxuto as ex
from enxuto import _torch_private as private
from enxuto.devices import OpMemory, ScratchTable
from enxuto.errors import OutOfBudget, UsageError
from enxuto.monitoring.process import Process
from enxuto.monitoring.schedule import SHARE, Schedule
from enxuto.records import Ending, How, StepKind, from_json
from enxuto.verifying.memory import standing_bytes, true_peaks
from enxuto.workload import Workload
from tests.monitoring.watched import run_watched


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.Dropout(0.5), nn.ReLU(), nn.Linear(64, 4))


def work() -> Workload:
    return Workload(
        model=net,
        batch=lambda n=None: torch.ones(8, 16),
        loss=lambda model, x: model(x).square().mean(),
        optimizer=lambda parameters: torch.optim.Adam(parameters),
    )


def trained(steps: int, **options: Any) -> tuple[nn.Module, ex.Recording | None]:
    """The net after some steps, watched where options are given."""
    model = net()
    optimizer = torch.optim.Adam(model.parameters())

    def run() -> None:
        torch.manual_seed(1)
        batch = torch.ones(8, 16)
        for _ in range(steps):
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()

    if not options:
        run()
        return model, None
    with ex.watch(model, optimizer, **options) as watched:
        run()
    return model, watched.recording


def test_the_numbers_stay_the_same_to_the_bit() -> None:
    plain, _ = trained(8)
    watched, recording = trained(8, name="watched")
    assert recording is not None and recording.total_steps == 8
    for before, after in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(before, after)


def test_a_recorded_peak_has_the_scratch_that_the_table_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = 64 * 2**20  # so much that the peak is where the mean runs
    known = {"aten.mean.default": OpMemory(scratch, ())}
    monkeypatch.setattr(ScratchTable, "look_up", lambda self, call: known.get(json.loads(call)[0]))
    _, with_scratch = trained(4, name="watched")
    known.clear()
    _, without = trained(4, name="watched")
    assert with_scratch is not None and without is not None
    assert 0 < with_scratch.peak - scratch <= without.peak


def test_nothing_is_left_behind() -> None:
    call = nn.Module.__call__
    before = standing_bytes(trained(3)[0])
    model, _ = trained(3, name="watched")
    gc.collect()
    assert nn.Module.__call__ is call
    assert torch.autograd.graph._engine_run_backward is torch.autograd._engine_run_backward  # type: ignore[attr-defined]
    assert standing_bytes(model) == before
    assert all(not p._backward_hooks for p in model.parameters())
    assert [t for t in gc.get_objects() if type(t).__name__ == "Recorder"] == []


def test_a_recorded_peak_is_the_allocators() -> None:
    expected = true_peaks(work()).steps
    _, recording = trained(3, name="watched")
    assert recording is not None
    found = [(row.step, row.peak, row.peak_how) for row in recording.steps]
    assert [how for *_, how in found] == [How.RECORDED] * 3
    assert [peak for _, peak, _ in found][1:] == pytest.approx(expected[1:], rel=0.01)


def test_shares_sum_to_the_peak_and_the_record_travels() -> None:
    _, recording = trained(5, name="watched")
    assert recording is not None
    for step in recording.recorded:
        assert sum(share.nbytes for share in step.shares) == step.peak
        assert max(cost.peak for cost in step.phases) == step.peak
        assert (step.parameters, step.gradless) == (4, 0)
    assert from_json(recording.to_json()) == recording
    assert recording.ending is Ending.FINISHED


def test_other_steps_repeat_the_peak_of_their_shapes() -> None:
    _, recording = trained(40, name="watched", share=0.0)
    assert recording is not None
    hows = {row.step: row.peak_how for row in recording.steps}
    assert {step.step for step in recording.recorded} == {1, 2, 3, 6, 12, 24}
    assert How.REPEATED in hows.values()
    assert {row.peak for row in recording.steps if row.step > 1} == {recording.recorded[1].peak}


def test_training_and_validation_are_told_apart() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ex.watch(model, optimizer) as run:
        for _ in range(2):
            for _ in range(3):
                optimizer.zero_grad()
                model(torch.ones(8, 16)).square().mean().backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                for _ in range(4):
                    model(torch.ones(2, 16))
            model.train()
    counts = {kind: int(run.recording.steps.covers[run.recording.of_kind(kind)].sum()) for kind in StepKind}
    assert counts == {StepKind.UPDATE: 6, StepKind.CALL: 8}


def test_a_model_inside_of_checkpoints_is_recorded_from_update_to_update() -> None:
    body, head = nn.Sequential(nn.Linear(16, 16), nn.Tanh()), nn.Linear(16, 1)
    optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1)
    with ex.watch(name="checkpointed") as run:
        for _ in range(8):
            optimizer.zero_grad()
            head(checkpoint(body, torch.ones(4, 16), use_reentrant=False)).mean().backward()
            optimizer.step()
    assert run.recording.total_steps == 8
    assert run.recording.recorded


def test_the_budget_is_raised_where_it_is_passed_and_the_run_may_go_on() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ex.watch(model, optimizer, budget="512 KiB") as run:
        for size in (8, 4096, 8):
            optimizer.zero_grad()
            try:
                model(torch.ones(size, 16)).square().mean().backward()
            except OutOfBudget as error:
                assert "over the budget of 512.0 KiB at tests/monitoring/test_watch.py" in str(error)
                continue
            optimizer.step()
    (failure,) = run.recording.failures
    assert failure.handled and failure.budgeted
    assert (failure.updates, failure.batch) == (1, 4096)
    assert run.recording.ending is Ending.FINISHED


def test_a_refused_allocation_is_a_failure_with_an_autopsy(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="can't allocate memory"), ex.watch(model, optimizer) as run:
        for _ in range(3):
            model(torch.ones(8, 16)).square().mean().backward()
            optimizer.step()
        model(torch.empty(2**44, 16))
    assert run.recording.ending is Ending.OUT_OF_MEMORY
    (failure,) = run.recording.failures
    assert "DefaultCPUAllocator" in failure.message
    assert not failure.handled and not failure.budgeted
    found = run.autopsy(tmp_path / "died", plan=False)
    assert found is not None and found.no_plan == "not asked for"
    assert found.receipt is not None and found.receipt.peak == run.recording.peak
    assert sorted(path.name for path in (tmp_path / "died").iterdir()) == [
        "autopsy.json",
        "recording.json",
        "report.html",
    ]
    assert ex.read(tmp_path / "died" / "autopsy.json") == replace(found, files=found.files)


def test_an_autopsy_has_a_plan_that_would_have_fitted() -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(OutOfBudget), ex.watch(model, optimizer, budget="220 KiB") as run:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(512, 32)).square().mean().backward()
            optimizer.step()
    found = run.autopsy()
    assert found is not None and found.plan is not None
    assert found.plan.fits
    assert found.plan.after.peak <= 220 * 1024 < found.plan.before.peak
    assert [cause.id for cause in found.causes] == ["M01"]
    assert "a plan of that step that would have fitted" in ex.to_text(found).lower()


def test_a_callback_that_raises_is_dropped_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []

    def broken(step: Any) -> None:
        raise ValueError("no")

    _, recording = trained(4, on_step=[lambda step: seen.append(step.step), broken])
    assert recording is not None
    assert seen[:3] == [1, 2, 3]
    assert capsys.readouterr().err.count("a callback raised ValueError: no") == 1


def test_a_mistake_of_ours_ends_the_watching_not_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from enxuto.monitoring import watch as function
    from enxuto.monitoring.census import Census

    def breaks(*_: Any, **__: Any) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(Census, "step_over", breaks)
    said: list[str] = []
    model, recording = trained(4, say=said.append)
    assert function is ex.watch
    assert recording is not None and recording.total_steps == 0
    assert len(said) == 1 and "stopped watching at step" in said[0]
    plain, _ = trained(4)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))


def test_misuse() -> None:
    with pytest.raises(UsageError, match=r"takes a torch\.nn\.Module first, not a int"):
        ex.watch(3)  # type: ignore[arg-type]
    with ex.watch(), pytest.raises(UsageError, match="a run is being watched already"), ex.watch():
        pass


def test_the_schedule_stays_within_its_share() -> None:
    schedule, elapsed, spent, steps = Schedule(), 0.0, 0.0, 4000
    for _ in range(steps):
        elapsed += 1.0
        if schedule.wants(StepKind.UPDATE, "shapes", elapsed, 100):
            schedule.recorded("shapes", 1.5)
            spent += 1.5
            elapsed += 1.5
    assert 0.5 * SHARE * elapsed < spent <= SHARE * elapsed + 6 * 1.5
    assert schedule.wants(StepKind.UPDATE, "larger", elapsed, 1000)  # whatever it costs


def test_a_long_pause_is_not_followed_by_many_recordings() -> None:
    schedule = Schedule()
    for step in range(30):
        if schedule.wants(StepKind.UPDATE, "shapes", float(step), 100):
            schedule.recorded("shapes", 0.5)
    count = 0
    for step in range(100):  # the laptop slept for a day
        if schedule.wants(StepKind.UPDATE, "shapes", 86_400.0 + step, 100):
            schedule.recorded("shapes", 0.5)
            count += 1
    assert count <= 3 + 100 * SHARE / 0.5


def test_the_kernels_figures() -> None:
    process = Process()
    before = process.resident()
    process.take_peak()
    block = bytearray(64 * 2**20)
    high = process.take_peak()
    assert high >= before + 60 * 2**20
    del block
    process.take_peak()
    assert process.take_peak() < high
    assert process.workers() == 0
    process.close()


def test_an_inference_mode_may_begin_and_end_anywhere() -> None:
    """One that begins in a recorded step and ends after it: its end brings back the dispatch keys of its beginning."""
    source = """
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
seen = []

@torch.inference_mode()
def evaluate():
    model.eval()
    counts = torch.zeros(4)
    for _ in range(3):
        counts += model(torch.randn(8, 16)).sum(0)
    model.train()
    return counts

for _ in range(8):
    optimizer.zero_grad()
    model(torch.randn(8, 16)).square().mean().backward()
    optimizer.step()
    seen.append(evaluate().sum().item())
"""
    seen = run_watched(source, "/nowhere/evaluating.py")
    assert not seen.error
    assert not any("stopped watching" in line for line in seen.said)
    kinds = [step.kind for step in seen.recording.recorded]
    assert kinds.count(StepKind.UPDATE) > 2
    assert kinds.count(StepKind.CALL) > 2
    assert not private.dispatch_modes()
    assert private.saved_tensor_hooks() is None
