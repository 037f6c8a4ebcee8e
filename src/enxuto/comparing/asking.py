"""Many nets examined at once: one child process a core, and answers kept between runs."""

from __future__ import annotations

import hashlib
import importlib.metadata
import queue
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from types import TracebackType

import msgspec
import torch

from ..devices.scratch import cache_folder, fingerprint
from ..errors import RecordError
from ..records import write_atomically
from .examining import Answer, Inquiry, answer

#: Nets that a TARGET and the versions of these packages say all about; a user's own file may change at any time.
_KEPT_SCHEMES = {"zoo": "torch", "timm": "timm", "torchvision": "torchvision"}
_CHILD = "enxuto.comparing.examining"


def answers(inquiries: Sequence[Inquiry], *, jobs: int, say: Callable[[str], None]) -> list[Answer]:
    """The answer to each inquiry, from the cache or from as many child processes as `jobs` says.

    A child that dies takes one net with it: its answer says so.
    """
    known = {place: found for place, inquiry in enumerate(inquiries) if (found := _kept(inquiry))}
    missing = [place for place in range(len(inquiries)) if place not in known]
    if len(missing) == 1:
        say(f"tracing {inquiries[missing[0]].target}")
        fresh = {place: answer(inquiries[place]) for place in missing}
    else:
        fresh = _asked_of_children(inquiries, missing, jobs, say)
    for place, found in fresh.items():
        _keep(inquiries[place], found)
    return [(known | fresh)[place] for place in range(len(inquiries))]


def _asked_of_children(
    inquiries: Sequence[Inquiry], missing: Sequence[int], jobs: int, say: Callable[[str], None]
) -> dict[int, Answer]:
    found: dict[int, Answer] = {}
    with ExitStack() as stack:
        idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()
        for _ in range(min(jobs, len(missing))):
            idle.put(stack.enter_context(_Child()))

        def ask(place: int) -> tuple[int, Answer]:
            child = idle.get()
            try:
                return place, child.ask(inquiries[place])
            finally:
                idle.put(child)

        with ThreadPoolExecutor(max(min(jobs, len(missing)), 1)) as pool:
            for done in as_completed([pool.submit(ask, place) for place in missing]):
                place, found[place] = done.result()
                say(f"{len(found)} of {len(missing)} nets traced: {inquiries[place].target}")
    return found


class _Child:
    """A process that examines one net after the other; a new one takes its place where it dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._end(self._process)

    def ask(self, inquiry: Inquiry) -> Answer:
        """What it answers, or that it died."""
        process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        line = b""
        with suppress(BrokenPipeError):
            process.stdin.write(msgspec.json.encode(inquiry) + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        if line:
            return msgspec.json.decode(line, type=Answer)
        self._process = None
        return Answer(failed=f"the process that traced it ended with {self._end(process)}")

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            [sys.executable, "-m", _CHILD, str(torch.get_num_threads())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        return self._process

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> int:
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):  # what was written last was never read
                stream.close()
        return process.wait()


# ---- Answers kept ------------------------------------------------------------------------------------------


def _place(inquiry: Inquiry) -> Path | None:
    """Where the answer to an inquiry is kept, None if it must not be: it may depend on more than its key says."""
    scheme = inquiry.target.partition(":")[0]
    if scheme not in _KEPT_SCHEMES or not inquiry.asked.calibrate:
        return None
    machine = fingerprint(torch.get_num_threads())
    parts = (inquiry, machine, _version(_KEPT_SCHEMES[scheme]), _own_code())
    key = hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
    return cache_folder() / "compare" / f"{key[:32]}.json"


def _kept(inquiry: Inquiry) -> Answer | None:
    place = _place(inquiry)
    if place is None:
        return None
    try:
        return msgspec.json.decode(place.read_bytes(), type=Answer)
    except (OSError, msgspec.MsgspecError):  # not asked yet, or not one of ours
        return None


def _keep(inquiry: Inquiry, found: Answer) -> None:
    place = _place(inquiry)
    if place is None or found.figures is None:  # what failed may not fail again
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, msgspec.json.encode(found))
    except (OSError, RecordError):
        return  # a read-only home costs the same traces next time, nothing else


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


@cache
def _own_code() -> str:
    """A digest of this package's source: an answer of another enxuto is none of ours."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
