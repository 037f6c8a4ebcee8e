"""A real cap: run a command under a memory limit that the kernel enforces, and see whether it lives.

A plan that promises to fit is checked by running it, and the run without it, in processes of their own under
one limit: the second has to die of it and the first to finish. The limit is a memory cgroup where this process
may make one (Linux, mostly as root), else RLIMIT_DATA. A limit counts the whole process, so it is
`process_base()` + the promised peak + a margin, both runs with the host allocator's thresholds fixed
(`enxuto.techniques.host_allocator.environment`); otherwise glibc keeps freed blocks and the limit measures that.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from ..errors import UndecidableError, UsageError
from .memory_groups import MemoryGroup, NoMemoryGroup, memory_group

_CHILD = Path(__file__).with_name("capped_child.py")
_TAIL = 8192  # bytes of output that are kept: a traceback ends with what matters
_NO_LIMIT = 0  # bytes: to measure only
_PATIENCE = 5.0  # seconds in which the output of killed processes has to end
#: What a process says when an allocation is refused to it: Python, torch's CPU allocator, C++, libc, threads.
_REFUSALS = (
    "MemoryError",
    "can't allocate memory",
    "std::bad_alloc",
    "Cannot allocate memory",
    "can't start new thread",
)


class Cap(StrEnum):
    """What enforces a memory limit, the best first."""

    CGROUP_V1 = "memory cgroup v1"
    CGROUP_V2 = "memory cgroup v2"
    RLIMIT_DATA = "RLIMIT_DATA"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class CapRun:
    """How a command fared under a memory limit. Everything in it was measured, nothing predicted.

    Attributes:
        how: what enforced the limit; `Cap.NONE` where nothing could, and then the command was not run.
        limit: the limit, in bytes of the whole process.
        finished: the command ended by itself with exit status 0.
        died_of_memory: it did not finish, and the kernel killed it for memory, or its output says that it was
            refused an allocation.
        returncode: exit status, negative for a signal; None if it was not run or was stopped by the timeout.
        peak: bytes at the most. In a cgroup all that the group held, memory of the kernel and cached files
            included, which under a low limit are dropped first; under RLIMIT_DATA the resident memory
            (VmHWM), libraries included, which the limit does not count. None if unknown.
        seconds: wall time.
        output: the end of what it printed, standard error included, at most 8 KiB.
        reason: in one line, why it did not finish; empty if it did.
    """

    how: Cap
    limit: int
    finished: bool
    died_of_memory: bool
    returncode: int | None
    peak: int | None
    seconds: float
    output: str
    reason: str


class _Refused(Exception):
    """A way of limiting memory is not to be had here; the message says why."""


def run_capped(
    command: Sequence[str],
    *,
    limit: int,
    timeout: float,
    env: Mapping[str, str] | None = None,
    how: Cap | None = None,
) -> CapRun:
    """Run a command under a memory limit that the kernel enforces, and tell how it ended.

    Everything that it starts counts too, in a cgroup together, under RLIMIT_DATA each by itself. Swap does not
    help it. When this returns or raises, its processes are gone, and so is the cgroup. What is left over: an empty
    cgroup `enxuto-*` if the calling process itself is killed by SIGKILL, and under RLIMIT_DATA a process
    that left the session of the command.

    Args:
        command: program and arguments.
        limit: bytes of the whole process, interpreter and libraries included (see `process_base`). In a cgroup
            the kernel rounds it to pages; RLIMIT_DATA counts private writable memory, touched or not.
        timeout: seconds after which the command is killed; it then counts as not finished.
        env: the command's whole environment; None hands on this process's own.
        how: insist on one way of limiting; None takes the first that works, in the order of `Cap`.

    Raises:
        UsageError: the limit is not positive, or there is no such program.

    Assumed and not checked: that the command does not move itself to another cgroup. Version 2 of cgroups is
    written after the kernel's documentation and was not run yet.

    >>> run = run_capped([sys.executable, "-c", "print('lean')"], limit=2**30, timeout=60)
    >>> run.finished or run.how is Cap.NONE
    True
    """
    if limit <= 0:
        raise UsageError(f"a memory limit must be positive, not {limit} bytes")
    path = None if env is None else env.get("PATH")
    if not command or shutil.which(command[0], path=path) is None:
        raise UsageError(f"there is no program {command[0] if command else ''!r} to run under a limit")
    return _first_way(command, limit=limit, timeout=timeout, env=env, how=how)


def process_base(
    imports: Sequence[str] = ("torch",),
    *,
    threads: int | None = None,
    env: Mapping[str, str] | None = None,
    how: Cap | None = None,
    timeout: float = 300.0,
) -> int:
    """The bytes that a limit counts for a fresh Python process before it does any work of its own.

    Modules are imported and, with torch among them, one training step of a net of a few KiB is run: threads
    start, and torch loads what it loads late. Measured as `run_capped` limits: in a cgroup its peak, the lower
    of two runs, since the first may read libraries from the disk into the cache; under RLIMIT_DATA the
    private writable memory at the end (VmData).

    What a larger net takes beyond its tensors is not in it: the code that kernels generate, and their caches.
    With fixed thresholds that was 8 MiB in a cgroup for a ResNet-18, a small GPT and a U-Net (measured); under
    RLIMIT_DATA, which counts it untouched as well, between 32 and 48 MiB for the ResNet. The margin has to hold it.

    Args:
        imports: names of modules to import.
        threads: torch's threads in the process; None for as many as torch uses in this one.
        env: the environment, as for `run_capped`; the same for both, or the sum is not true.
        how: as for `run_capped`.
        timeout: seconds for each of the runs.

    Raises:
        UndecidableError: no memory limit can be set here, so nothing counts either.
        UsageError: a module cannot be imported.
    """
    probe = [sys.executable, "-c", _PROBE, str(_threads(threads)), *imports]
    runs = [_first_way(probe, limit=_NO_LIMIT, timeout=timeout, env=env, how=how) for _ in range(2)]
    for run in runs:
        if run.how is Cap.NONE:
            raise UndecidableError(run.reason)
        if not run.finished or run.peak is None:
            *_, last = ["no output", *run.output.strip().splitlines()]
            raise UsageError(f"a process that imports {', '.join(imports)} {run.reason}: {last}")
    if runs[0].how is Cap.RLIMIT_DATA:
        return min(int(run.output.split()[-1]) for run in runs)
    return min(run.peak for run in runs if run.peak is not None)


_PROBE = """
import importlib, sys
threads, *imports = sys.argv[1:]
for name in imports:
    importlib.import_module(name)
torch = sys.modules.get("torch")
if torch is not None:
    torch.set_num_threads(int(threads))
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 8))
    optimizer = torch.optim.AdamW(net.parameters())
    torch.nn.functional.cross_entropy(net(torch.randn(2, 3, 8, 8)), torch.tensor([1, 2])).backward()
    optimizer.step()
    torch.ones(2**16).exp_()  # enough work to wake every thread
for line in open("/proc/self/status"):
    if line.startswith("VmData:"):
        print(int(line.split()[1]) * 1024)
"""


def _threads(asked: int | None) -> int:
    if asked is not None:
        return asked
    import torch

    return torch.get_num_threads()


def _first_way(
    command: Sequence[str], *, limit: int, timeout: float, env: Mapping[str, str] | None, how: Cap | None
) -> CapRun:
    """The run under the first kind of limit that works here."""
    refused = []
    for way in [how] if how else [cap for cap in Cap if cap is not Cap.NONE]:
        try:
            return _run(way, command, limit=limit, timeout=timeout, env=env)
        except (_Refused, NoMemoryGroup) as error:
            refused.append(f"{way}: {error}")
    return CapRun(
        how=Cap.NONE,
        limit=limit,
        finished=False,
        died_of_memory=False,
        returncode=None,
        peak=None,
        seconds=0.0,
        output="",
        reason="not run, since no memory limit can be set here: " + "; ".join(refused),
    )


def _run(
    how: Cap, command: Sequence[str], *, limit: int, timeout: float, env: Mapping[str, str] | None
) -> CapRun:
    """One run under one kind of limit."""
    if how is Cap.NONE:
        raise _Refused("nothing else was asked for")
    if not sys.platform.startswith("linux"):
        raise _Refused("only Linux has it")
    if how is Cap.RLIMIT_DATA:
        end = _launch(command, timeout=timeout, env=env, data_limit=limit)
        return _judged(how, limit, end, killed=False, peak=end.resident_peak)
    with memory_group(1 if how is Cap.CGROUP_V1 else 2, limit) as group:
        end = _launch(command, timeout=timeout, env=env, group=group)
        return _judged(how, limit, end, killed=group.kills() > 0, peak=group.peak() or end.resident_peak)


def _judged(how: Cap, limit: int, end: _End, *, killed: bool, peak: int | None) -> CapRun:
    """What an end means: finished, dead of memory, out of time, or failed by itself."""
    refused = next((text for text in _REFUSALS if text in end.output), "")
    finished = end.returncode == 0
    died = end.returncode not in (0, None) and (killed or bool(refused))
    if finished:
        reason = ""
    elif died:
        reason = "killed by the kernel at the limit" if killed else f"refused an allocation: {refused!r}"
    elif end.returncode is None:
        reason = f"stopped after {end.seconds:.1f} s, before it ended by itself"
    else:
        reason = f"failed by itself, not of memory: exit status {end.returncode}"
        if how is Cap.RLIMIT_DATA and end.returncode < 0:
            reason += "; or a library did not check that it was given memory, which cannot be told apart"
    return CapRun(
        how=how,
        limit=limit,
        finished=finished,
        died_of_memory=died,
        returncode=end.returncode,
        peak=peak,
        seconds=end.seconds,
        output=end.output,
        reason=reason,
    )


# ---- One process under a limit ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _End:
    """How a command ended; without a return code it was stopped by the timeout."""

    returncode: int | None
    resident_peak: int | None
    seconds: float
    output: str


def _launch(
    command: Sequence[str],
    *,
    timeout: float,
    env: Mapping[str, str] | None,
    group: MemoryGroup | None = None,
    data_limit: int = 0,
) -> _End:
    """Run a command behind `capped_child` and wait; afterwards its session, and its group, have no process."""
    began = time.monotonic()
    reading, writing = os.pipe()
    procs = "" if group is None else str(group.procs)
    try:
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_CHILD), str(writing), procs, str(data_limit), *command],
                env=None if env is None else dict(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(writing,),
                start_new_session=True,
            )
        finally:
            os.close(writing)
        with process:
            try:
                tail = _Tail(process.stdout)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout)
            finally:
                if process.poll() is None:  # ended by itself, it has taken its session along
                    os.killpg(process.pid, signal.SIGKILL)
                if group is not None:
                    group.kill_all()  # who left the session holds the output open
            output = tail.text()
        end = _report(reading)
    finally:
        os.close(reading)
    return _End(end.get("returncode"), end.get("resident_peak"), time.monotonic() - began, output)


def _report(reading: int) -> dict[str, Any]:
    """What `capped_child` wrote; nothing if it was killed before."""
    text = os.read(reading, 65536).decode()
    end: dict[str, Any] = json.loads(text.splitlines()[0]) if text else {}
    if "refused" in end:
        raise _Refused(end["refused"])
    return end


class _Tail:
    """Reads a pipe in a thread of its own and keeps its end."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        self._end = b""
        self._thread = threading.Thread(target=self._read, args=(pipe,), daemon=True)
        self._thread.start()

    def _read(self, pipe: IO[bytes] | None) -> None:
        with contextlib.suppress(ValueError):  # closed by who had waited long enough
            while pipe is not None and (chunk := os.read(pipe.fileno(), 65536)):
                self._end = (self._end + chunk)[-_TAIL:]

    def text(self) -> str:
        self._thread.join(_PATIENCE)  # a process that left the session may hold the pipe open
        return self._end.decode(errors="replace")
