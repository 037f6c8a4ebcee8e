"""The largest batch within a budget is the one that trying every size would find."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import enxuto
from enxuto import LargestBatch, Timeline, Workload, World
from enxuto.devices import ScratchTable
from enxuto.errors import UndecidableError, UsageError, UserCodeError
from enxuto.predicting import largest, largest_batch
from enxuto.records import from_json, to_json
from enxuto.reporting import to_text
from enxuto.tracing import trace
from tests.predicting import works

MIB = 2**20

LOOP = works.training(partial(works.Loop, 256, 64), name="loop")
READER = works.training(partial(works.Reader, 256, 64), name="reader")
TOWERS = works.training(works.Towers, loss=works.contrast, name="towers")
LINEAR = works.training(works.linear, name="linear")
WARMED_UP = works.training(works.linear, step=works.warmed_up, name="warmed up")


_TRACES: dict[tuple[str, int | None, bool], Timeline] = {}


def traced_once(work: Workload, **how: Any) -> Timeline:
    """`trace`, once for each work (by its name) and batch size: the searches below ask again and again."""
    key = work.name, work.batch_size, work.training
    if key not in _TRACES:
        _TRACES[key] = trace(work, **how)
    return _TRACES[key]


@pytest.fixture(autouse=True)
def each_size_is_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(largest, "trace", traced_once)


def found(work: Workload, budget: int) -> LargestBatch:
    """The answer with kernel scratch 0, checked for what is always true of one."""
    answer = largest_batch(work, budget, scratch=ScratchTable({}), calibrate=False)
    peaks = {run.batch_size: run.peak for run in answer.traces}
    assert answer.peak <= budget < answer.next_peak
    assert peaks[answer.next_size] == answer.next_peak
    assert answer.fits == (answer.batch_size > 0)
    assert list(peaks) == sorted(peaks)
    if answer.fits:
        assert peaks[answer.batch_size] == answer.peak
        assert answer.facts.batch_size == answer.batch_size
    else:
        assert answer.peak == 0
        assert answer.facts.batch_size == answer.next_size
    assert from_json(to_json(answer), expect=LargestBatch) == answer
    assert LargestBatch.from_json(answer.to_json()) == answer
    return answer


def peak(work: Workload, size: int) -> int:
    timeline = traced_once(work.at_batch(size), scratch=ScratchTable({}), calibrate=False)
    return max(timeline.facts.step_peaks)


@pytest.mark.parametrize("work", [LINEAR, LOOP, TOWERS, WARMED_UP], ids=lambda w: w.name)
def test_it_is_what_trying_every_size_finds(work: Workload) -> None:
    peaks = {size: peak(work, size) for size in range(1, 10)}
    for size in (1, 2, 3, 5, 8):
        for budget in (peaks[size], peaks[size + 1] - 1):
            answer = found(work, budget)
            assert (answer.batch_size, answer.peak, answer.next_peak) == (size, peaks[size], peaks[size + 1])
            assert answer.next_size == size + 1
    nothing = found(work, peaks[1] - 1)
    assert (nothing.batch_size, nothing.next_size, nothing.next_peak) == (0, 1, peaks[1])


def test_two_small_traces_tell_and_two_confirm() -> None:
    answer = found(works.NETS["gpt"], 32 * MIB)
    assert answer.predicted == answer.peak == answer.fixed + answer.per_item * answer.batch_size
    assert answer.next_peak == answer.peak + answer.per_item
    assert [run.batch_size for run in answer.traces] == [4, 6, answer.batch_size, answer.batch_size + 1]
    assert answer.notes == ()
    assert answer.world is World.DRY


def test_a_line_that_is_wrong_is_not_believed() -> None:
    answer = found(TOWERS, 64 * MIB)
    assert answer.predicted is not None and answer.predicted < answer.peak // 10
    assert len(answer.traces) < 12
    assert answer.notes[0].startswith("4 blocks on no line, the first made by aten.mm.default at ")


def test_the_first_step_counts() -> None:
    steady = found(LINEAR, 8 * MIB)
    assert found(WARMED_UP, 8 * MIB).batch_size < steady.batch_size // 4


def test_without_a_match_traces_search_alone() -> None:
    answer = found(LOOP, MIB // 4)
    assert answer.predicted is None
    assert answer.notes[0].startswith("searched by traces alone: batch sizes 4 and 6 do not match, op ")
    assert len(answer.traces) < 12


def test_a_model_that_reads_values_runs_for_real() -> None:
    answer = found(READER, 4 * MIB)
    assert answer.world is World.CPU
    assert answer.facts.dry_refused
    assert answer.batch_size == found(LINEAR, 4 * MIB).batch_size
    assert "recorded on real CPU tensors" in to_text(answer)


def test_a_real_run_never_takes_more_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    room = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=2 * MIB))
    monkeypatch.setattr(largest, "psutil", room)
    with pytest.raises(UndecidableError, match=r"reader cannot run dry, .* with 2\.0 MiB free here"):
        found(READER, 8 * MIB)


def test_a_work_that_needs_two_samples() -> None:
    normed = works.training(works.normed, name="normed")
    least = peak(normed, 2)
    assert found(normed, least).batch_size == 2
    answer = found(normed, least - 1)
    assert (answer.batch_size, answer.next_size, answer.next_peak) == (0, 2, least)
    assert answer.notes[0].startswith(
        "the work cannot run at batch size 1: normed raised ValueError: Expected more"
    )


@pytest.mark.parametrize(("samples", "sizes"), [(4, "48 than at 4"), (99, r"[\d,]+ than at [\d,]+")])
def test_a_batch_that_does_not_grow_is_refused(samples: int, sizes: str) -> None:
    work = works.training(
        works.linear, lambda n=None: torch.zeros(min(n or 2, samples), 256), name=f"{samples} samples"
    )
    with pytest.raises(
        UsageError, match=rf"allocates no more at batch size {sizes}: its batch\(n\) must give"
    ):
        found(work, 4 * MIB)


def test_batches_in_steps_of_eight() -> None:
    padded = works.training(
        works.linear, lambda n=None: torch.zeros(-(-(n or 2) // 8) * 8, 256), name="padded"
    )
    assert found(padded, peak(padded, 24)).batch_size == 24


def test_user_code_that_fails_says_at_which_size() -> None:
    def batch(n: int | None = None) -> torch.Tensor:
        if n and n > 6:
            raise ValueError("that is all there is")
        return torch.zeros(n or 2, 256)

    with pytest.raises(UserCodeError, match=r"at batch size [\d,]+: work raised ValueError: that is all"):
        found(works.training(works.linear, batch, name="work"), 4 * MIB)


@pytest.mark.parametrize("budget", [0, -1, "2GiB", 2.0**30])
def test_a_budget_is_a_positive_whole_number_of_bytes(budget: Any) -> None:
    with pytest.raises(UsageError, match=r"a budget is a positive whole number of bytes, not "):
        largest_batch(LOOP, budget)


def test_live_objects_are_refused() -> None:
    with pytest.raises(UsageError, match="needs a Workload, whose batch"):
        largest_batch(nn.Linear(2, 2), MIB)  # type: ignore[arg-type]


def test_inference_and_progress() -> None:
    lines: list[str] = []
    work = LINEAR.inference()
    answer = enxuto.largest_batch(work, MIB, calibrate=False, progress=lines.append)
    # weights and bias of float32, and for each sample 256 inputs and 64 outputs
    assert (answer.fixed, answer.per_item) == (4 * (256 * 64 + 64), 4 * (256 + 64 + 64))
    assert not answer.facts.training
    assert [line for line in lines if line.startswith("linear at")] == [
        f"linear at batch size {run.batch_size:,}" for run in answer.traces
    ]
