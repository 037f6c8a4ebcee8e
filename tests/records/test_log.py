"""The log of a run: what is written is read, whatever cut it off; long runs stay small."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enxuto.errors import RecordError
from enxuto.records import Ending, How, Retained, Source, Step, StepKind
from enxuto.records.log import LogWriter, Rows, is_log, read_log, thinned

rows_of_runs = st.lists(
    st.builds(
        Step,
        step=st.just(0),
        covers=st.integers(1, 3),
        kind=st.sampled_from(StepKind),
        seconds=st.integers(0, 64).map(lambda eighths: eighths / 8),  # sums of these are exact
        peak=st.integers(-1, 1000),
        peak_how=st.sampled_from(How),
        retries=st.integers(-1, 3),
        host_peak=st.integers(0, 1000),
    ),
    max_size=200,
).map(
    lambda rows: [
        Step(**{name: getattr(row, name) for name in Step.__slots__} | {"step": place})
        for place, row in enumerate(rows, 1)
    ]
)


@given(rows_of_runs, st.integers(2, 16), st.booleans())
@settings(max_examples=60, deadline=None)
def test_thinning_keeps_sums_and_maxima(rows: list[Step], stride: int, news: bool) -> None:
    less = thinned(rows, stride, news=news)
    assert len(less) <= len(rows)
    assert [row.step for row in less] == sorted(row.step for row in less)
    for kind in StepKind:
        before, after = ([row for row in all_ if row.kind is kind] for all_ in (rows, less))
        assert sum(row.covers for row in after) == sum(row.covers for row in before)
        assert sum(row.seconds for row in after) == sum(row.seconds for row in before)
        for name in ("peak", "host_peak", "retries"):
            highest = max((getattr(row, name) for row in before), default=None)
            assert max((getattr(row, name) for row in after), default=None) == highest
    if rows:
        assert less[-1].step == rows[-1].step
    if news and rows and max(row.peak for row in rows) > 0:
        top = max(rows, key=lambda row: row.peak)
        assert any(row.peak == top.peak and row.step <= top.step + stride for row in less)


def a_step(number: int) -> Step:
    return Step(
        step=number,
        covers=1,
        kind=StepKind.CALL if number % 5 == 0 else StepKind.UPDATE,
        seconds=0.125,
        peak=10**9 + number % 7,
        peak_how=How.REPEATED,
        host=2 * 10**9,
    )


def written(folder: Path, steps: int, rows: Rows | None = None) -> Rows:
    log, rows = LogWriter(folder, Source(name="train.py", torch="2"), print), rows or Rows()
    for number in range(1, steps + 1):
        log.step(a_step(number))
        if rows.add(a_step(number)):
            log.thin(rows)
    log.close()
    return rows


def test_a_run_of_any_length_is_small_and_whole(tmp_path: Path) -> None:
    rows = written(tmp_path / "log", 5000, Rows(recent=64, history=128))
    recording = read_log(tmp_path / "log")
    assert list(recording.steps) == list(rows)
    assert recording.total_steps == 5000
    assert len(recording.steps) <= 128 + 2 * 64
    assert sum(file.stat().st_size for file in (tmp_path / "log").iterdir()) < 200 * (128 + 2 * 64)
    assert [row.step for row in recording.steps][-64:] == list(
        range(5000 - 63, 5001)
    )  # the latest one by one


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_line_that_was_cut_off_counts_for_nothing(tmp_path: Path, cut: int) -> None:
    written(tmp_path / "log", 10)
    file = tmp_path / "log" / "steps.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    assert read_log(tmp_path / "log").total_steps == 9
    assert read_log(tmp_path / "log").ending is Ending.LOST


def test_between_two_renames_nothing_counts_twice(tmp_path: Path) -> None:
    rows = Rows(recent=8, history=64)
    log = LogWriter(tmp_path / "log", Source(name="train.py", torch="2"), print)
    for number in range(1, 17):
        log.step(a_step(number))
        thinning = rows.add(a_step(number))
    assert thinning
    latest = (tmp_path / "log" / "steps.jsonl").read_bytes()
    log.thin(rows)
    (tmp_path / "log" / "steps.jsonl").write_bytes(latest)  # killed after the first of the two
    assert read_log(tmp_path / "log").total_steps == 16


def test_a_full_disk_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    log = LogWriter(tmp_path / "log", Source(name="train.py", torch="2"), said.append)
    log.step(a_step(1))

    def full(file: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        for number in range(2, 9):
            log.step(a_step(number))
        log.event("signature", "x")
        log.thin(Rows())
        log.end(Ending.FINISHED, "", 1.0)
    assert len(said) == 1
    assert "No space left" in said[0] and "the run goes on" in said[0]
    assert read_log(tmp_path / "log").total_steps == 1


def test_events_are_read_back(tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "log", Source(name="train.py", torch="2"), print)
    kept = Retained(
        owner="kept",
        place="x",
        what="list",
        kind=StepKind.CALL,
        first=1,
        last=2,
        per_step=3,
        total=6,
        tensors=2,
    )
    log.event("retained", kept)
    log.event("signature", "Net(3×4)")
    log.event("a later version's", {"unknown": 1})
    log.end(Ending.RAISED, "ValueError: x", 2.5)
    log.close()
    recording = read_log(tmp_path / "log")
    assert recording.retained == (kept,)
    assert recording.signatures == ("Net(3×4)",)
    assert (recording.ending, recording.error, recording.seconds) == (Ending.RAISED, "ValueError: x", 2.5)


def test_what_is_no_log_says_so(tmp_path: Path) -> None:
    assert not is_log(tmp_path)
    with pytest.raises(RecordError, match="is no log of enxuto: it has no events"):
        read_log(tmp_path)
    (tmp_path / "events.jsonl").write_text('["log",99]\n')
    with pytest.raises(RecordError, match="this log has format 99, and this enxuto reads 1"):
        read_log(tmp_path)
    (tmp_path / "events.jsonl").write_text("{}\n")
    with pytest.raises(RecordError, match="first lines are damaged"):
        read_log(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot write the log"):
        LogWriter(tmp_path / "file" / "log", Source(name="x", torch="2"), print)
