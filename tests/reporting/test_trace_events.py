"""Trace events of a Timeline: the counters are its curves, the slices its calls and ops."""

from __future__ import annotations

import json
import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from enxuto import Workload, trace
from enxuto.errors import UsageError
from enxuto.records import (
    Category,
    Failure,
    How,
    RecordedStep,
    Recording,
    Share,
    Source,
    Step,
    StepKind,
    Steps,
    read_snapshot,
)
from enxuto.records.log import Rows
from enxuto.reporting import to_perfetto
from enxuto.reporting.trace_events import trace_events
from enxuto.testing import random_timeline
from tests.records.snapshots import played
from tests.reporting.samples import explanation


@pytest.mark.parametrize("seed", range(8))
def test_the_counters_step_along_the_curves(seed: int) -> None:
    timeline = random_timeline(seed)
    counters = [e for e in trace_events(timeline) if e["ph"] == "C" and e["name"] == "bytes"]
    ticks = np.array([e["ts"] for e in counters])
    assert ticks[0] == 0 and (np.diff(ticks) > 0).all()
    latest = np.searchsorted(ticks, np.arange(timeline.ticks), side="right") - 1
    alive = np.array([e["args"]["alive"] for e in counters])
    assert np.array_equal(alive[latest], timeline.curve)
    assert max(e["args"]["alive"] for e in counters) == timeline.peak
    parts = [e for e in trace_events(timeline) if e["name"] == "bytes by category"]
    assert [sum(e["args"].values()) for e in parts] == [e["args"]["alive"] for e in counters]


def test_a_traced_step_has_its_modules_and_ops(tmp_path: Path) -> None:
    work = Workload(
        model=lambda: torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU()),
        batch=lambda n=None: torch.ones(n or 2, 4),
        loss=lambda model, x: model(x).sum(),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    )
    timeline = trace(work, calibrate=False)
    to_perfetto(timeline, tmp_path / "step.json")
    events = json.loads((tmp_path / "step.json").read_bytes())["traceEvents"]
    slices = [e for e in events if e["ph"] == "X"]
    assert {"the model", "0", "1", "forward", "backward"} <= {e["name"] for e in slices}
    assert sum(e["tid"] == 3 for e in slices) == len(timeline.ops)
    outer, inner = (next(e for e in slices if e["name"] == name) for name in ("the model", "0"))
    assert outer["ts"] <= inner["ts"] and inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"]


def test_what_has_no_clock_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no clock.*--timeline"):
        to_perfetto(explanation(), tmp_path / "step.json")
    assert not list(tmp_path.iterdir())


def recording(seed: int, steps: int = 40) -> Recording:
    """A run of random figures, its earlier rows summed up."""
    chance = np.random.default_rng(seed)
    rows = Rows(recent=4, history=8)
    for step in range(1, steps + 1):
        peak = int(chance.integers(1, 2**40)) if step % 3 else -1
        rows.add(
            Step(
                step=step,
                covers=1,
                kind=StepKind.UPDATE,
                seconds=float(chance.random()),
                peak=peak,
                peak_how=How.RECORDED,
                host=int(chance.integers(2**30)),
            )
        )
    share = Share(category=Category.PARAMETER, nbytes=5, blocks=1)
    seen = RecordedStep(
        step=3,
        kind=StepKind.UPDATE,
        signature=0,
        seconds=1.0,
        cost=0.1,
        peak=5,
        end=5,
        shares=(share,),
        phases=(),
    )
    failure = Failure(step=steps + 1, updates=steps, kind=StepKind.UPDATE, message="refused")
    return Recording(
        source=Source(name="train.py", torch="2"),
        steps=Steps.of(list(rows)),
        recorded=(seen,),
        failures=(failure,),
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_run_has_its_steps_end_to_end(seed: int, tmp_path: Path) -> None:
    run = recording(seed)
    to_perfetto(run, tmp_path / "run.json")
    events = json.loads((tmp_path / "run.json").read_bytes())["traceEvents"]
    slices = [e for e in events if e["ph"] == "X"]
    assert sum(e["args"]["steps"] for e in slices) == run.total_steps == 40
    for before, after in pairwise(slices):
        assert after["ts"] == before["ts"] + before["dur"]
    assert slices[-1]["ts"] + slices[-1]["dur"] == round(run.steps.seconds.sum() * 1e6)
    peaks = [e for e in events if e["name"] == "peak of tensors"]
    assert max(e["args"]["bytes"] for e in peaks) == run.peak
    assert [e["ts"] for e in peaks] == sorted({e["ts"] for e in peaks})
    assert not [e for e in events if e["name"] == "reserved on the device"]  # nobody told it
    assert all(value >= 0 for e in events if e["ph"] == "C" for value in e["args"].values())
    (failed,) = [e for e in events if e["ph"] == "i"]
    assert failed["ts"] == slices[-1]["ts"] + slices[-1]["dur"]


@pytest.mark.parametrize("timed", [True, False])
def test_a_snapshot_has_its_curves(timed: bool, tmp_path: Path) -> None:
    dump = played(4).dump()
    refusal = {"action": "oom", "size": 77, "frames": [], **({"time_us": 2 * 10**15} if timed else {})}
    dump["device_traces"][0].append(refusal)
    path = tmp_path / "snapshot.pickle"
    path.write_bytes(pickle.dumps(dump))
    snapshot = read_snapshot(path)
    events = list(trace_events(snapshot))
    asked = [e for e in events if e["name"] == "bytes asked for"]
    assert [e["args"]["bytes"] for e in asked] == snapshot.lives(0).curve.tolist()
    held = [e["args"]["bytes"] for e in events if e["name"] == "bytes reserved"]
    assert held == snapshot.reserved_curve(0).tolist()
    when = [e["ts"] for e in asked]
    assert when == sorted(when) and when[:3] == ([0, 0, 7] if timed else [0, 1, 2])
    (refused,) = [e for e in events if e["ph"] == "i"]
    assert refused["args"] == {"bytes": 77} and refused["ts"] == when[-1]
