"""A log that is being written, as what the page draws: read again when it has changed, thinned, in words."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from ..records import Cause, Ending, Recording
from ..records.log import read_log
from ..reporting import figures, recording_rows, wording
from ..reporting.palette import slug
from ..units import format_bytes

#: More points than a screen has columns show nothing more.
POINTS = 1000
_FILES = ("events.jsonl", "steps.jsonl", "earlier.jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One curve: bytes at each of the page's steps, and the same in words; None where nothing tells."""

    name: str
    colour: str
    values: list[int | None]
    texts: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A row with a bar."""

    name: str
    colour: str
    nbytes: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One finding."""

    id: str
    evidence: str
    notes: list[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """All that the page shows of a run; `version` changes with the log."""

    version: str
    name: str
    state: str
    ended: bool
    peak: str
    budget: int
    budget_text: str
    steps: list[int]
    lines: list[Line]
    ticks: list[tuple[int, str]]
    top: int
    summary: list[tuple[str, str]]
    parts_title: str
    parts: list[Part]
    findings: list[Found]


class Followed:
    """A log and the last that was read of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._version, self._answer = "", b""

    def news(self, have: str) -> bytes | None:
        """The run as JSON, None where it is what the page has already.

        Raises:
            RecordError: the log is gone or damaged.
        """
        version = _version(self._folder)
        if have == version:
            return None
        with self._lock:
            if version != self._version:
                shown_now = shown(_with_time(read_log(self._folder), self._folder), version=version)
                self._version, self._answer = version, msgspec.json.encode(shown_now)
            return self._answer


def shown(recording: Recording, *, version: str) -> Shown:
    """What the page shows of a recording."""
    curve = recording_rows.drawn(recording, points=POINTS)
    lines = [
        _line("tensors", "gradient", curve.peak),
        _line("process", "unexplained", curve.host),
        _line("workers", "saved-activation", curve.workers),
    ]
    drawn = [line for line in lines if any(value is not None for value in line.values)]
    budget = recording.source.budget
    top = max([budget, 1, *(value or 0 for line in drawn for value in line.values)])
    step = recording_rows.highest(recording)
    return Shown(
        version=version,
        name=wording.plain(recording.source.name),
        state=recording_rows.title(recording),
        ended=recording.ending is not Ending.LOST,
        peak=format_bytes(recording.peak) if recording.peak >= 0 else "–",
        budget=budget,
        budget_text=format_bytes(budget) if budget else "",
        steps=curve.step,
        lines=drawn,
        ticks=[(tick, figures.axis_text(tick)) for tick in figures.binary_ticks(top)],
        top=top,
        summary=recording_rows.summary(recording),
        parts_title=f"At the peak of step {step.step:,}, recorded" if step else "",
        parts=[
            Part(name=s.category.value, colour=slug(s.category), nbytes=s.nbytes, text=format_bytes(s.nbytes))
            for s in (step.shares if step else ())
            if s.nbytes
        ],
        findings=[_found(cause) for cause in recording.causes],
    )


def _line(name: str, colour: str, values: list[int | None]) -> Line:
    texts = ["" if value is None else format_bytes(value) for value in values]
    return Line(name=name, colour=colour, values=values, texts=texts)


def _found(cause: Cause) -> Found:
    return Found(id=cause.id, evidence=wording.plain(cause.evidence), notes=recording_rows.cause_notes(cause))


def _with_time(recording: Recording, folder: Path) -> Recording:
    """A run that goes on has taken as long as its log has been written to."""
    if recording.seconds or not recording.source.began:
        return recording
    written = max(path.stat().st_mtime for path in map(folder.joinpath, _FILES) if path.exists())
    return replace(recording, seconds=max(0.0, written - recording.source.began))


def _version(folder: Path) -> str:
    """What tells one state of the log from another: the size and time of each of its files."""
    parts = []
    for name in _FILES:
        try:
            status = (folder / name).stat()
        except FileNotFoundError:
            continue
        parts.append(f"{status.st_size:x}.{status.st_mtime_ns:x}")
    return "-".join(parts)
