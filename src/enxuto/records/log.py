"""The log of a running Recording: append-only lines, flushed one by one, from which every report is rebuilt.

A folder with three files. `events.jsonl` has what happens seldom, one tagged line each, the source first;
`steps.jsonl` the latest steps, one line each; `earlier.jsonl` the steps before them, thinned, so that a run of any
length stays within a few megabytes. `earlier.jsonl` is replaced by renaming and the lines that went into it are
known by their step, so whenever the process is killed, what is there reads as a Recording. A last line that was
not finished is passed over.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from ..errors import RecordError
from . import codec
from .explanation import Explanation
from .recording import (
    HOW_CODE,
    HOWS,
    KIND_CODE,
    KINDS,
    Cause,
    Copied,
    Ending,
    Failure,
    ModelFacts,
    PythonObjects,
    RecordedStep,
    Recording,
    Retained,
    Source,
    Step,
    StepKind,
    Steps,
)

FORMAT = 1
_EVENTS, _STEPS, _EARLIER = "events.jsonl", "steps.jsonl", "earlier.jsonl"
_RECENT = 4096  # steps kept one by one
_HISTORY = 16_384  # thinned rows at the most
_NEWS = 1.01  # a peak this much above all before it is kept as a row of its own

_TYPES: dict[str, type] = {
    "source": Source,
    "signature": str,
    "recorded": RecordedStep,
    "retained": Retained,
    "failure": Failure,
    "model": ModelFacts,
    "copied": Copied,
    "objects": PythonObjects,
    "cause": Cause,
}


class _End(msgspec.Struct):
    ending: Ending
    error: str
    seconds: float


class Rows:
    """The rows of a run as it goes on: the latest one by one, the earlier ones thinned more and more.

    A thinned row sums up a power of two of steps of one kind and keeps their highest figures. A peak above all
    before it and a step with a new allocator retry stay rows of their own.
    """

    def __init__(self, *, recent: int = _RECENT, history: int = _HISTORY) -> None:
        self.earlier: list[Step] = []
        self.latest: list[Step] = []
        self._recent, self._most, self._stride = recent, history, 2

    def add(self, row: Step) -> bool:
        """Add a row; whether earlier ones were thinned for it."""
        self.latest.append(row)
        if len(self.latest) < 2 * self._recent:
            return False
        old, self.latest = self.latest[: -self._recent], self.latest[-self._recent :]
        self.earlier += thinned(old, self._stride)
        while len(self.earlier) > self._most:
            self._stride *= 2
            before = len(self.earlier)
            self.earlier = thinned(self.earlier, self._stride)
            if len(self.earlier) > 0.9 * before:  # nothing but news: then it is none
                self.earlier = thinned(self.earlier, self._stride, news=False)
        return True

    def __iter__(self) -> Iterator[Step]:
        yield from self.earlier
        yield from self.latest


def thinned(rows: list[Step], stride: int, *, news: bool = True) -> list[Step]:
    """Rows summed up by up to `stride` steps of one kind; with `news`, what is new stays a row of its own."""
    result: list[Step] = []
    highest, retries = 0, -1
    open_row: dict[StepKind, int] = {}  # where the row of each kind is that may take in more
    for row in rows:
        is_news = news and (row.peak > _NEWS * highest or row.retries > retries >= 0)
        highest, retries = max(highest, row.peak), max(retries, row.retries)
        place = open_row.pop(row.kind, None)
        if place is not None and not is_news and result[place].covers + row.covers <= stride:
            result[place] = _joined(result[place], row)
            open_row[row.kind] = place
        else:
            result.append(row)
            if not is_news:
                open_row[row.kind] = len(result) - 1
    return sorted(result, key=lambda row: row.step)


def _joined(first: Step, second: Step) -> Step:
    higher = second if second.peak > first.peak else first
    return replace(
        second,
        covers=first.covers + second.covers,
        seconds=first.seconds + second.seconds,
        peak=higher.peak,
        peak_how=higher.peak_how,
        signature=higher.signature,
        reserved=max(first.reserved, second.reserved),
        retries=max(first.retries, second.retries),
        host_peak=max(first.host_peak, second.host_peak),
        workers=max(first.workers, second.workers),
    )


class LogWriter:
    """Writes a Recording's log as it goes on. Where it can no longer write it says so once, and is silent then.

    Args:
        folder: made if it is not there; a log that is there is replaced.
        source: what is watched.
        warn: takes the one line that says why there is no log any more.

    Raises:
        RecordError: the folder cannot be made or written to at the beginning.
    """

    def __init__(self, folder: Path, source: Source, warn: Callable[[str], None]) -> None:
        self.folder, self._warn = folder.absolute(), warn  # the script may change directory
        self._files: dict[str, int] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / _EARLIER).unlink(missing_ok=True)
            for name in (_EVENTS, _STEPS):
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
                self._files[name] = os.open(self.folder / name, flags, 0o644)
        except OSError as error:
            raise RecordError(f"cannot write the log {folder}: {error.strerror or error}") from None
        self._append(_EVENTS, codec_line("log", FORMAT))
        self.event("source", source)

    def step(self, row: Step) -> None:
        """Append a step."""
        self._append(_STEPS, msgspec.json.encode(_packed(row)))

    def event(self, name: str, value: Any) -> None:
        """Append something that happened."""
        self._append(_EVENTS, msgspec.json.encode([name, value]))

    def explanation(self, explanation: Explanation) -> None:
        """Append the receipt of a step."""
        self._append(_EVENTS, b'["explanation",' + codec.to_json(explanation) + b"]")

    def end(self, ending: Ending, error: str, seconds: float) -> None:
        """Append how the run ended. More may follow."""
        self.event("end", _End(ending, error, seconds))

    def thin(self, rows: Rows) -> None:
        """Replace what was written one by one by what the rows are now."""
        if not self._files:
            return
        try:
            lines = b"".join(msgspec.json.encode(_packed(row)) + b"\n" for row in rows.earlier)
            codec.write_atomically(self.folder / _EARLIER, lines)
            # from here on a reader knows which lines of steps.jsonl are in it already
            latest = b"".join(msgspec.json.encode(_packed(row)) + b"\n" for row in rows.latest)
            codec.write_atomically(self.folder / _STEPS, latest)
            os.close(self._files[_STEPS])
            self._files[_STEPS] = os.open(self.folder / _STEPS, os.O_WRONLY | os.O_APPEND)
        except (OSError, RecordError) as error:
            self._lost(error)

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files.values():
            with contextlib.suppress(OSError):
                os.close(file)
        self._files = {}

    def _append(self, name: str, line: bytes) -> None:
        if not self._files:
            return
        line += b"\n"
        try:
            written = os.write(self._files[name], line)
            if written < len(line):
                raise OSError("no space left")
        except OSError as error:
            self._lost(error)

    def _lost(self, error: Exception) -> None:
        self.close()
        why = getattr(error, "strerror", None) or error
        self._warn(f"the log {self.folder} ends here ({why}); the run goes on")


def codec_line(kind: str, version: int) -> bytes:
    """The first line of a log."""
    return msgspec.json.encode([kind, version])


def is_log(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is the log of a run."""
    return (Path(path) / _EVENTS).is_file()


def read_log(folder: str | os.PathLike[str]) -> Recording:
    """The Recording that a log tells of, also of a run that was killed or still goes on.

    Raises:
        RecordError: the folder is no log, or one of a newer enxuto.
    """
    path = Path(folder)
    found = _Events()
    for line in _lines(path / _EVENTS, missing=f"{path} is no log of enxuto: it has no {_EVENTS}"):
        found.read(line, path)
    if found.source is None:
        raise RecordError(f"{path / _EVENTS}: this is no log of enxuto, or its first lines are damaged")
    return Recording(
        source=found.source,
        steps=Steps.of(_rows(path)),
        signatures=tuple(found.values["signature"]),
        recorded=tuple(found.values["recorded"]),
        explanations=tuple(_by_kind(found.explanations)),
        retained=_last(found.values["retained"], lambda r: (r.owner, r.place, r.kind, r.made)),
        failures=_last(found.values["failure"], lambda f: (f.step, f.message)),
        models=_last(found.values["model"], lambda m: m.name),
        copies=_last(found.values["copied"], lambda c: (c.owner, c.place)),
        objects=_last(found.values["objects"], lambda o: o.owner),
        causes=_last(found.values["cause"], lambda c: (c.id, c.owner)),
        ending=found.end.ending,
        error=found.end.error,
        seconds=found.end.seconds,
    )


class _Events:
    """What the lines of events.jsonl say."""

    def __init__(self) -> None:
        self.values: dict[str, list[Any]] = {name: [] for name in _TYPES}
        self.explanations: list[Explanation] = []
        self.end = _End(Ending.LOST, "", 0.0)

    @property
    def source(self) -> Source | None:
        sources = self.values["source"]
        return sources[-1] if sources else None

    def read(self, line: bytes, path: Path) -> None:
        """Take in one line; one that is damaged counts for nothing."""
        try:
            name, value = msgspec.json.decode(line, type=tuple[str, msgspec.Raw])
        except msgspec.MsgspecError:
            return
        if name == "log" and msgspec.json.decode(value) != FORMAT:
            raise RecordError(
                f"{path}: this log has format {bytes(value).decode()}, and this enxuto reads {FORMAT}: "
                "read it with the enxuto that wrote it"
            )
        with contextlib.suppress(msgspec.MsgspecError, RecordError):
            if name == "explanation":
                self.explanations.append(codec.from_json(bytes(value), expect=Explanation))
            elif name == "end":
                self.end = msgspec.json.decode(value, type=_End)
            elif name in _TYPES:
                self.values[name].append(msgspec.json.decode(value, type=_TYPES[name]))


def _rows(path: Path) -> list[Step]:
    earlier = [row for line in _lines(path / _EARLIER) if (row := _unpacked(line))]
    thinned_to = earlier[-1].step if earlier else 0
    latest = [row for line in _lines(path / _STEPS) if (row := _unpacked(line))]
    return [*earlier, *(row for row in latest if row.step > thinned_to)]


def _lines(path: Path, *, missing: str = "") -> Iterator[bytes]:
    try:
        with open(path, "rb") as stream:
            for line in stream:
                if line.endswith(b"\n"):  # else it was cut off
                    yield line
    except FileNotFoundError:
        if missing:
            raise RecordError(missing) from None
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror or error}") from None


def _packed(row: Step) -> tuple[Any, ...]:
    return (
        row.step,
        row.covers,
        KIND_CODE[row.kind],
        round(row.seconds, 6),
        row.peak,
        HOW_CODE[row.peak_how],
        row.current,
        row.reserved,
        row.retries,
        row.host,
        row.host_peak,
        row.workers,
        row.signature,
    )


_Packed = tuple[int, int, int, float, int, int, int, int, int, int, int, int, int]


def _unpacked(line: bytes) -> Step | None:
    try:
        step, covers, kind, seconds, peak, how, *rest = msgspec.json.decode(line, type=_Packed)
        current, reserved, retries, host, host_peak, workers, signature = rest
        return Step(
            step=step,
            covers=covers,
            kind=KINDS[kind],
            seconds=seconds,
            peak=peak,
            peak_how=HOWS[how],
            current=current,
            reserved=reserved,
            retries=retries,
            host=host,
            host_peak=host_peak,
            workers=workers,
            signature=signature,
        )
    except (msgspec.MsgspecError, IndexError):
        return None


def _last(values: list[Any], key: Callable[[Any], Any]) -> tuple[Any, ...]:
    """Of values that tell of the same thing, the last one."""
    return tuple({key(value): value for value in values}.values())


def _by_kind(explanations: list[Explanation]) -> list[Explanation]:
    """Of the receipts, the highest in training and the highest outside of it."""
    highest: dict[bool, Explanation] = {}
    for each in explanations:
        training = each.facts.training
        if training not in highest or each.peak >= highest[training].peak:
            highest[training] = each
    return list(highest.values())
