"""What a card and a page say of a watched run, as names and values; figures keep how they were come by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..records import (
    HOWS,
    UNKNOWN,
    Autopsy,
    Cause,
    Ending,
    Failure,
    How,
    Phase,
    RecordedStep,
    Recording,
    Source,
    StepKind,
)
from ..units import format_bytes, format_signed_bytes
from . import wording

BARS = ("█", "░")
_HEIGHTS = "▁▂▃▄▅▆▇█"
_ENDINGS = {
    Ending.FINISHED: "to its end",
    Ending.RAISED: "until it raised",
    Ending.OUT_OF_MEMORY: "until memory was out",
    Ending.INTERRUPTED: "until it was interrupted",
    Ending.LOST: "so far; its log has no end: it goes on, or was killed",
}


def sparkline(values: Sequence[int], width: int) -> str:
    """The latest values as one line of blocks, the lowest to the highest.

    >>> sparkline([1, 2, 3], 5), sparkline([5, 5], 5), sparkline([], 5)
    ('▁▅█', '▁▁', '')
    """
    if not values or width <= 0:
        return ""
    buckets = [max(part) for part in np.array_split(np.array(values), min(width, len(values)))]
    low, high = min(buckets), max(buckets)
    top = len(_HEIGHTS) - 1
    return "".join(_HEIGHTS[round((v - low) * top / (high - low)) if high > low else 0] for v in buckets)


def bytes_or_nothing(nbytes: int) -> str:
    """Bytes as text; nothing where they are not known."""
    return "" if nbytes == UNKNOWN else format_bytes(nbytes)


def title(recording: Recording) -> str:
    """What ran, and how it ended."""
    return f"{wording.counted(recording.total_steps, 'step')} in {seconds(recording.seconds)}, {_ended(recording)}"


def _ended(recording: Recording) -> str:
    return _ENDINGS[recording.ending]


def seconds(value: float) -> str:
    """A duration.

    >>> seconds(0.0421), seconds(12.3), seconds(754.0), seconds(9000.0)
    ('42 ms', '12.3 s', '12 min 34 s', '2 h 30 min')
    """
    if value < 1:
        return f"{1000 * value:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    if value < 3600:
        return f"{value // 60:.0f} min {value % 60:.0f} s"
    return f"{value // 3600:.0f} h {value % 3600 // 60:.0f} min"


def summary(recording: Recording) -> list[tuple[str, str]]:
    """The figures of a run, as name and value."""
    steps = recording.steps
    rows = [
        ("Peak", peak(recording)),
        ("Budget", format_bytes(recording.source.budget) if recording.source.budget else ""),
        ("Process", _process(recording)),
        ("Reserved", bytes_or_nothing(int(steps.reserved.max(initial=UNKNOWN)))),
        ("Retries", str(int(steps.retries.max(initial=0))) if steps.retries.max(initial=UNKNOWN) > 0 else ""),
        ("Workers", _workers(recording)),
        ("Steps", _steps(recording)),
        ("Recorded", _recorded(recording)),
        ("Left out", _left_out(recording)),
    ]
    return [row for row in rows if row[1]]


def peak(recording: Recording) -> str:
    """The highest peak with where it comes from, or the kernel's word where no step was recorded."""
    steps = recording.steps
    if recording.peak == UNKNOWN:
        if not len(steps):
            return "no step was seen"
        return f"not recorded; the process had at most {format_bytes(recording.host_peak)} (kernel)"
    row = int(steps.peak.argmax())
    how = HOWS[steps.peak_how[row]]
    where = "of tensors" if how is not How.ALLOCATOR else f"on {wording.plain(recording.source.device)}"
    step = highest(recording)
    at = f", at {wording.place(step.site)}" if step and step.site and step.peak == recording.peak else ""
    return f"{format_bytes(recording.peak)} {where}, {how.value}, in step {int(steps.step[row]):,}{at}"


def highest(recording: Recording) -> RecordedStep | None:
    """The recorded step with the highest peak."""
    return max(recording.recorded, key=lambda step: step.peak, default=None)


def _process(recording: Recording) -> str:
    steps = recording.steps
    known = steps.host[steps.host >= 0]
    if not len(known):
        return ""
    grown = int(known[-1] - known[min(3, len(known) - 1)])
    return (
        f"at most {format_bytes(recording.host_peak)} (kernel), "
        f"{format_signed_bytes(grown)} from step {int(steps.step[min(3, len(known) - 1)])} to the end"
    )


def _workers(recording: Recording) -> str:
    most = int(recording.steps.workers.max(initial=0))
    return f"at most {format_bytes(most)} in other processes of this run" if most > 0 else ""


def _steps(recording: Recording) -> str:
    covers = recording.steps.covers
    updates = int(covers[recording.of_kind(StepKind.UPDATE)].sum())
    calls = int(covers[recording.of_kind(StepKind.CALL)].sum())
    parts = [wording.counted(updates, "update")] if updates else []
    parts += [f"{wording.counted(calls, 'call')} without an update"] if calls else []
    return ", ".join(parts)


def _recorded(recording: Recording) -> str:
    if not recording.recorded:
        return ""
    cost = sum(step.cost for step in recording.recorded)
    share = f", {100 * cost / recording.seconds:.1f} % of the time" if recording.seconds else ""
    return f"{wording.counted(len(recording.recorded), 'step')} in full, which took {seconds(cost)}{share}"


def _left_out(recording: Recording) -> str:
    """Kernel scratch that is in no recorded peak: nothing is measured inside of a run."""
    unknown = max((each.facts.scratch_unknown for each in recording.explanations), default=0)
    if not unknown:
        return ""
    calls = wording.counted(unknown, "op call")
    return f"scratch of {calls} that `enxuto explain` has not measured on this machine yet"


def phases(recording: Recording) -> list[tuple[str, int]]:
    """The highest memory of each phase in the highest recorded step."""
    step = highest(recording)
    return (
        [] if step is None else [(p.phase.value, p.peak) for p in step.phases if p.phase is not Phase.BEFORE]
    )


def cause_line(cause: Cause) -> str:
    """A cause in one line: what the live view says of it."""
    return f"{cause.id}: {wording.plain(cause.evidence)}; fix: {wording.plain(cause.fix)}"


def cause_notes(cause: Cause) -> list[tuple[str, str]]:
    """What stands under a cause's evidence."""
    notes = [("fix", wording.plain(cause.fix))]
    if cause.frees > 0:
        notes.append(("frees", f"{format_bytes(cause.frees)} (by calculation)"))
    notes += [("ruled out", wording.plain(each)) for each in cause.ruled_out]
    notes.append(("page", f"enxuto explain {cause.id}"))
    return notes


def conditions(source: Source) -> list[tuple[str, str]]:
    """What was watched, and how."""
    rank = f"{source.rank} of {source.world_size}" if source.rank >= 0 else ""
    rows = [
        ("script", wording.plain(source.name)),
        ("arguments", wording.plain(" ".join(source.arguments))),
        ("device", wording.plain(source.device)),
        ("torch", wording.plain(source.torch)),
        ("process", str(source.process) if source.process else ""),
        ("rank", rank),
        ("before the first step", bytes_or_nothing(source.base)),
    ]
    return [row for row in rows if row[1]] + [("note", wording.plain(note)) for note in source.notes]


def failure_rows(failure: Failure) -> list[tuple[str, str]]:
    """What is known of the moment at which memory was out."""
    rows = [
        ("Where", f"step {failure.step:,}" + (f", {wording.place(failure.site)}" if failure.site else "")),
        ("Said", wording.plain(failure.message)),
        ("Asked", bytes_or_nothing(failure.asked)),
        ("Alive", bytes_or_nothing(failure.alive)),
        ("Reserved", bytes_or_nothing(failure.reserved)),
        ("Free", bytes_or_nothing(failure.free)),
        ("Device", bytes_or_nothing(failure.device)),
    ]
    return [row for row in rows if row[1]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A run's steps for drawing: at most so many points, the highest of each bucket; `host` is what the process
    has beyond its start."""

    step: list[int]
    peak: list[int | None]
    host: list[int | None]
    workers: list[int | None]


def drawn(recording: Recording, *, points: int) -> Drawn:
    """The curve of a run in at most `points` points; of each bucket the row with the highest figure."""
    steps = recording.steps
    top = np.maximum(steps.peak, steps.host_peak)
    chosen = [
        int(part[top[part].argmax()])
        for part in np.array_split(np.arange(len(steps)), max(1, min(points, len(steps))))
        if len(part)
    ]

    def column(values: np.ndarray) -> list[int | None]:
        return [int(values[i]) if values[i] >= 0 else None for i in chosen]

    return Drawn(
        step=[int(steps.step[i]) for i in chosen],
        peak=column(steps.peak),
        host=column(_beyond(np.maximum(steps.host_peak, steps.host), recording.source.base)),
        workers=column(np.where(steps.workers > 0, steps.workers, UNKNOWN)),
    )


def _beyond(host: np.ndarray, base: int) -> np.ndarray:
    """Bytes of the process beyond what it had before the first step, where both are known."""
    beyond: np.ndarray = np.where(host >= 0, np.maximum(host - max(base, 0), 0), UNKNOWN)
    return beyond


def autopsy_title(autopsy: Autopsy) -> str:
    """Why and where a run died."""
    failure = autopsy.failure
    at = f" at {wording.place(failure.site)}" if failure.site else ""
    what = "over its budget" if failure.budgeted else "out of memory"
    return f"{what} in step {failure.step:,}{at}"
