"""Memory cgroups of Linux, both versions: make one with a limit and without swap, read it, take it away."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PATIENCE = 5.0  # seconds in which killed processes have to leave their group


class NoMemoryGroup(Exception):
    """A memory cgroup cannot be had here; the message says why."""


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """A memory cgroup with a limit: its folder, and the version of the kernel's interface, 1 or 2."""

    folder: Path
    version: int

    @property
    def procs(self) -> Path:
        """The file by which a process enters."""
        return self.folder / "cgroup.procs"

    def kills(self) -> int:
        """How many of its processes the kernel has killed for memory."""
        events = _read(self.folder / ("memory.oom_control" if self.version == 1 else "memory.events"))
        return int(dict(line.split() for line in events.splitlines()).get("oom_kill", 0))

    def peak(self) -> int | None:
        """The most bytes that it held at a time; None from kernels before 5.19 in version 2."""
        text = _read(self.folder / ("memory.max_usage_in_bytes" if self.version == 1 else "memory.peak"))
        return int(text) if text else None

    def kill_all(self) -> None:
        """Kill every process in it that can be seen from here."""
        for pid in map(int, _read(self.procs).split()):
            if (
                pid > 0
            ):  # the kernel writes 0 for a process of another namespace, and kill(0) would hit our own
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def memory_group(version: int, limit: int) -> Iterator[MemoryGroup]:
    """A new memory cgroup, below this process's own (version 2: beside it), so that limits above still hold.

    Whatever happens inside, its processes are killed and it is removed at the end.

    Args:
        version: 1 or 2.
        limit: bytes, which the kernel rounds down to pages; 0 for none, to measure only.

    Raises:
        NoMemoryGroup: it cannot be made, or a lower limit stands already and would be the one that is met.
    """
    own, top = own_folder(version)
    if limit:
        _check_no_lower(version, own, top, limit)
    folder = _parent(version, own, top) / f"enxuto-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir()
    except OSError as error:
        raise NoMemoryGroup(f"no cgroup can be made: {error}") from error
    group = MemoryGroup(folder, version)
    try:
        if limit:
            _set_limit(group, limit)
        yield group
    finally:
        _remove(group)


def own_folder(version: int, proc: Path = Path("/proc/self")) -> tuple[Path, Path]:
    """The folder of this process's memory cgroup, and the mount point above it.

    Args:
        version: 1 or 2.
        proc: the process's folder under `/proc`.

    Raises:
        NoMemoryGroup: the kernel or the container shows none.
    """
    name = _own_name(version, _read(proc / "cgroup"))
    for line in _read(proc / "mountinfo").splitlines():
        fields, _, system = line.partition(" - ")
        root, mount = fields.split()[3:5]  # what of the hierarchy is mounted, and where
        kind, _, options = system.split(maxsplit=2)
        if kind == ("cgroup2" if version == 2 else "cgroup") and (
            version == 2 or "memory" in options.split(",")
        ):
            folder = Path(mount) / name.removeprefix(root.rstrip("/")).strip("/")
            if folder.is_dir():
                return folder, Path(mount)
    raise NoMemoryGroup("it is not mounted")


def _own_name(version: int, groups: str) -> str:
    """The path of a process's group, from its `/proc` file: lines of `number:controllers:path`."""
    for line in groups.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" if version == 2 else "memory" in controllers.split(","):
            return path
    raise NoMemoryGroup("this process is in no such group")


def _parent(version: int, own: Path, top: Path) -> Path:
    """Where a new group can limit memory: in version 2 a group that has processes hands no controller down."""
    if version == 1:
        return own
    for folder in (own,) if own == top else (own, own.parent):
        if "memory" in _read(folder / "cgroup.subtree_control").split():
            return folder
    raise NoMemoryGroup("the memory controller is not handed down to groups here")


def _check_no_lower(version: int, own: Path, top: Path, limit: int) -> None:
    for folder in (own, *own.parents):
        standing = _read(folder / _limit_file(version)).strip()
        if standing.isdigit() and int(standing) < limit:
            raise NoMemoryGroup(f"a lower limit stands already: {standing} bytes")
        if folder == top:
            return


def _limit_file(version: int) -> str:
    return "memory.limit_in_bytes" if version == 1 else "memory.max"


def _set_limit(group: MemoryGroup, limit: int) -> None:
    """Limit memory and keep swap out, with what the kernel has for that."""
    folder = group.folder
    try:
        (folder / _limit_file(group.version)).write_text(str(limit))
        if group.version == 2:
            if (folder / "memory.swap.max").exists():
                (folder / "memory.swap.max").write_text("0")
            elif len(_read(Path("/proc/swaps")).splitlines()) > 1:
                raise NoMemoryGroup("the kernel does not count swap, so it would help")
            return
        (folder / "memory.oom_control").write_text(
            "0"
        )  # inherited: a 1 would let processes hang at the limit
        (folder / "memory.swappiness").write_text("0")
        if (folder / "memory.memsw.limit_in_bytes").exists():  # memory and swap together
            (folder / "memory.memsw.limit_in_bytes").write_text(str(limit))
    except OSError as error:
        raise NoMemoryGroup(f"no limit can be set: {error}") from error


def _remove(group: MemoryGroup) -> None:
    """Kill what is in a group, and in groups that it made itself, and take them away."""
    until = time.monotonic() + _PATIENCE
    while group.folder.is_dir():
        for inner in group.folder.iterdir():
            if inner.is_dir():
                _remove(MemoryGroup(inner, group.version))
        group.kill_all()
        with contextlib.suppress(OSError):  # busy until the last process is really gone
            group.folder.rmdir()
            return
        if time.monotonic() > until:
            warnings.warn(f"the cgroup {group.folder} is still busy; rmdir it later", stacklevel=2)
            return
        time.sleep(0.01)


def _read(path: Path) -> str:
    """A kernel file's text, empty where there is none."""
    try:
        return path.read_text()
    except OSError:
        return ""
