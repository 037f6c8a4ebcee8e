"""Records with a clock for https://ui.perfetto.dev and chrome://tracing: bytes as counters, what ran as slices.

The clock of a Timeline counts events; there one of them takes a microsecond, so lengths are no durations. The steps
of a Recording are laid end to end, each as long as it took; the time between steps is not in it. The events of a
Snapshot are at their own times, or a microsecond apart where the file does not tell them.

Source: "Trace Event Format", Google, 2016: phases C (counter), X (complete), i (instant) and M (metadata).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np

from ..errors import UsageError
from ..records import (
    HOWS,
    KINDS,
    AllocatorAction,
    Recording,
    Snapshot,
    Timeline,
    write_atomically,
)
from ..records.columns import Array
from . import wording

_PHASES, _MODULES, _OPS = range(1, 4)
_THREADS = {_PHASES: "phases", _MODULES: "modules", _OPS: "ops"}
_STEPS = 1
_LEVELS = {
    "peak": "peak of tensors",
    "current": "tensors after the step",
    "reserved": "reserved on the device",
    "host": "process",
    "host_peak": "highest of the process",
    "workers": "other processes of the run",
}

Event = dict[str, Any]


def to_perfetto(record: Timeline | Recording | Snapshot, path: str | os.PathLike[str]) -> None:
    """Write a record as trace events (JSON), whole or not at all; https://ui.perfetto.dev opens the file.

    Args:
        record: a Timeline, the Recording of a run, or a Snapshot.
        path: of the file, replaced if it is there.

    Raises:
        UsageError: the record has no clock, or the file cannot be written.
    """
    write_atomically(path, msgspec.json.encode({"traceEvents": list(trace_events(record))}))


def trace_events(record: Timeline | Recording | Snapshot) -> Iterator[Event]:
    """The events of a record, names first.

    Raises:
        UsageError: the record has no clock.
    """
    events = _CLOCKED.get(getattr(record, "kind", ""))
    if events is None:
        raise UsageError(
            f"a {getattr(record, 'kind', type(record).__name__)} has no clock; these have one: the timeline of "
            "`enxuto explain TARGET --timeline step.json`, the log of `enxuto run --log DIR`, a memory snapshot"
        )
    return events(record)


def _of_timeline(timeline: Timeline) -> Iterator[Event]:
    """Counters at each change, then slices from outer to inner."""
    yield from _names(f"{timeline.facts.workload}: one step, a microsecond for each event", _THREADS)
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


def _counters(timeline: Timeline) -> Iterator[Event]:
    """Bytes by category, and in all, wherever one of them changes."""
    curves = {category.value: curve for category, curve in timeline.curves().items()}
    if not curves:
        return
    table = np.stack(list(curves.values()))
    changes = np.flatnonzero(np.any(np.diff(table, prepend=-1) != 0, axis=0))
    for tick in changes.tolist():
        alive = {name: int(curve[tick]) for name, curve in curves.items()}
        yield _counter("bytes by category", tick, alive)
        yield _counter("bytes", tick, {"alive": sum(alive.values())})


def _of_recording(recording: Recording) -> Iterator[Event]:
    """Each row as a slice with its figures, then what was recorded, what grows and what failed."""
    yield from _names(f"{recording.source.name}: steps end to end", {_STEPS: "steps"})
    ends = np.rint(np.cumsum(recording.steps.seconds) * 1e6).astype(np.int64)
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    yield from _step_slices(recording, starts, ends)
    yield from _levels(recording, starts)
    for step in recording.recorded:
        alive = {share.category.value: share.nbytes for share in step.shares}
        yield _counter("bytes by category, recorded steps", _when(recording, starts, step.step), alive)
    for found in recording.retained:
        facts = {"bytes a step": found.per_step, "line": str(found.held or found.made or "")}
        yield _instant(f"{wording.plain(found.owner)} grows", _when(recording, starts, found.first), facts)
    for failure in recording.failures:
        yield _instant("out of memory", _when(recording, starts, failure.step), {"said": failure.message})


def _step_slices(recording: Recording, starts: Array, ends: Array) -> Iterator[Event]:
    steps, shapes = recording.steps, recording.signatures
    for row, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        last, covers, signature = int(steps.step[row]), int(steps.covers[row]), int(steps.signature[row])
        name = f"step {last}" if covers == 1 else f"steps {last - covers + 1} to {last}"
        facts = {
            "ended by": KINDS[steps.kind[row]].value,
            "steps": covers,
            "peak is": HOWS[steps.peak_how[row]].value,
            "shapes": shapes[signature] if 0 <= signature < len(shapes) else "",
        }
        yield _slice(_STEPS, name, start, end, facts)


def _levels(recording: Recording, starts: Array) -> Iterator[Event]:
    for field, name in _LEVELS.items():
        values = getattr(recording.steps, field)
        for row in np.flatnonzero(values >= 0).tolist():
            yield _counter(name, int(starts[row]), {"bytes": int(values[row])})


def _when(recording: Recording, starts: Array, step: int) -> int:
    """When a step began; the end of the run for one that is in no row."""
    row = int(np.searchsorted(recording.steps.step, step))
    if row < len(starts):
        return int(starts[row])
    return int(np.rint(recording.steps.seconds.sum() * 1e6))


def _of_snapshot(snapshot: Snapshot) -> Iterator[Event]:
    """For each device what is asked for and what is reserved, and the requests that were refused."""
    for device in snapshot.devices:
        yield from _names(f"{snapshot.name}: cuda:{device}", {}, process=device)
        chosen = snapshot.events.device == device
        when = _clock(snapshot.events.microseconds[chosen])
        asked, reserved = snapshot.lives(device).curve, snapshot.reserved_curve(device)
        for at, alive, held in zip(when.tolist(), asked.tolist(), reserved.tolist(), strict=True):
            yield _counter("bytes asked for", at, {"bytes": alive}, process=device)
            yield _counter("bytes reserved", at, {"bytes": held}, process=device)
        events = (snapshot.events[index] for index in np.flatnonzero(chosen).tolist())
        for at, event in zip(when[1:].tolist(), events, strict=True):
            if event.action is AllocatorAction.OOM:
                yield _instant("refused", at, {"bytes": event.nbytes}, process=device)


def _clock(microseconds: Array) -> Array:
    """A time for every instant, from 0: the events' own where they have one and never go back."""
    count = len(microseconds)
    if count and microseconds.min() > 0 and (np.diff(microseconds) >= 0).all():
        return np.concatenate([[0], microseconds - microseconds[0]])
    return np.arange(count + 1)


def _names(process_name: str, threads: dict[int, str], *, process: int = 0) -> Iterator[Event]:
    yield {"ph": "M", "name": "process_name", "pid": process, "args": {"name": process_name}}
    for thread, name in threads.items():
        yield {"ph": "M", "name": "thread_name", "pid": process, "tid": thread, "args": {"name": name}}


def _counter(name: str, at: int, values: dict[str, int], *, process: int = 0) -> Event:
    return {"ph": "C", "name": name, "pid": process, "ts": at, "args": values}


def _instant(name: str, at: int, facts: dict[str, Any], *, process: int = 0) -> Event:
    return {"ph": "i", "name": name, "pid": process, "tid": _STEPS, "ts": at, "s": "p", "args": facts}


def _slice(thread: int, name: str, start: int, stop: int, facts: Any = None) -> Event:
    event = {"ph": "X", "name": name, "pid": 0, "tid": thread, "ts": start, "dur": max(stop - start, 1)}
    return {**event, "args": facts} if facts else event


_CLOCKED: dict[str, Callable[[Any], Iterator[Event]]] = {
    Timeline.kind: _of_timeline,
    Recording.kind: _of_recording,
    Snapshot.kind: _of_snapshot,
}
