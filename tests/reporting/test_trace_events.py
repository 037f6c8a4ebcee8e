"""Trace events of a Timeline: the counters are its curves, the slices its calls and ops."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from enxuto import Workload, trace
from enxuto.errors import UsageError
from enxuto.reporting.trace_events import trace_events, write_trace_events
from enxuto.testing import random_timeline
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
    write_trace_events(timeline, tmp_path / "step.json")
    events = json.loads((tmp_path / "step.json").read_bytes())["traceEvents"]
    slices = [e for e in events if e["ph"] == "X"]
    assert {"the model", "0", "1", "forward", "backward"} <= {e["name"] for e in slices}
    assert sum(e["tid"] == 3 for e in slices) == len(timeline.ops)
    outer, inner = (next(e for e in slices if e["name"] == name) for name in ("the model", "0"))
    assert outer["ts"] <= inner["ts"] and inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"]


def test_what_has_no_clock_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--timeline"):
        write_trace_events(explanation(), tmp_path / "step.json")
    assert not list(tmp_path.iterdir())
