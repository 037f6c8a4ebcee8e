"""A Timeline for https://ui.perfetto.dev and chrome://tracing: the bytes alive as counters, calls and ops as slices.

The clock of a Timeline counts events; here one of them takes a microsecond, so lengths are no durations.

Source: "Trace Event Format", Google, 2016: phases C (counter), X (complete) and M (metadata).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from ..errors import UsageError
from ..records import Timeline, write_atomically

_PHASES, _MODULES, _OPS = range(1, 4)
_THREADS = {_PHASES: "phases", _MODULES: "modules", _OPS: "ops"}


def write_trace_events(record: Any, path: str | os.PathLike[str]) -> None:
    """Write a Timeline as trace events, whole or not at all.

    Raises:
        UsageError: the record is no Timeline, or the file cannot be written.
    """
    if not isinstance(record, Timeline):
        raise UsageError(
            f"only a timeline has an instant for each event, not a {getattr(record, 'kind', 'record')}: "
            "save one with `enxuto explain TARGET --timeline step.json`"
        )
    write_atomically(path, msgspec.json.encode({"traceEvents": list(trace_events(record))}))


def trace_events(timeline: Timeline) -> Iterator[dict[str, Any]]:
    """The events: names first, then counters at each change, then slices from outer to inner."""
    name = f"{timeline.facts.workload}: one step, a microsecond for each event"
    yield {"ph": "M", "name": "process_name", "pid": 0, "args": {"name": name}}
    for thread, called in _THREADS.items():
        yield {"ph": "M", "name": "thread_name", "pid": 0, "tid": thread, "args": {"name": called}}
    yield from _counters(timeline)
    for span in timeline.phases:
        yield _slice(_PHASES, span.phase.value, span.start, span.stop)
    calls = timeline.calls
    for call in np.lexsort((-calls.exit, calls.enter)).tolist():
        title = timeline.module_of(call) or "the model"
        yield _slice(_MODULES, title, int(calls.enter[call]), int(calls.exit[call]))
    ops = timeline.ops
    for op in range(len(ops)):
        at = int(ops.tick[op])
        site = timeline.site_of(int(ops.site[op]))
        facts = {"flops": int(ops.flops[op]), "line": "" if site is None else str(site)}
        yield _slice(_OPS, timeline.text(int(ops.name[op])), at, at + 1, facts)


def _counters(timeline: Timeline) -> Iterator[dict[str, Any]]:
    """Bytes by category, and in all, wherever one of them changes."""
    curves = {category.value: curve for category, curve in timeline.curves().items()}
    if not curves:
        return
    table = np.stack(list(curves.values()))
    changes = np.flatnonzero(np.any(np.diff(table, prepend=-1) != 0, axis=0))
    for tick in changes.tolist():
        alive = {name: int(curve[tick]) for name, curve in curves.items()}
        yield {"ph": "C", "name": "bytes by category", "pid": 0, "ts": tick, "args": alive}
        yield {"ph": "C", "name": "bytes", "pid": 0, "ts": tick, "args": {"alive": sum(alive.values())}}


def _slice(thread: int, name: str, start: int, stop: int, facts: Any = None) -> dict[str, Any]:
    event = {"ph": "X", "name": name, "pid": 0, "tid": thread, "ts": start, "dur": max(stop - start, 1)}
    return {**event, "args": facts} if facts else event
