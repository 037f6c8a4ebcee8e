"""The host allocator's own waste: memory that was freed and that the process still holds.

glibc serves large blocks with mmap and gives them back at once, until the first of them is freed: then it raises
its threshold to that block's size (up to 32 MiB), and from there on keeps blocks of tens of MiB in a heap that
shrinks only from its top (`mallopt(3)`, "dynamic mmap threshold"). Setting a threshold ends the adjustment, and
freed tensors leave the process, at the price of new pages for each tensor: on four nets with one thread the peak over
the tensors fell from 22-40 % to 2-4 %, and a step took 1.4 to 3.4 times the processor time. jemalloc is the middle
way (5-15 %, 1.1 to 1.9 times). `benchmarks/host_allocator.py` measures all three. Numerics are untouched.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ..errors import MissingDependency, UsageError

_M_TRIM_THRESHOLD = -1  # the parameters' numbers in glibc's malloc.h
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

#: Bytes. Smaller blocks than the first stay in the heap: a step has thousands, and together they are little.
MMAP_THRESHOLD = 65536
TRIM_THRESHOLD = 131072


class AllocatorKind(StrEnum):
    """Who serves a process's CPU memory, and how."""

    DEFAULT = "default"
    THRESHOLDS = "thresholds"
    JEMALLOC = "jemalloc"


@dataclass(frozen=True, slots=True)
class Mallopt:
    """What came of `set_mallopt`.

    Attributes:
        applied: every parameter was set.
        allocator: who serves malloc in this process: "glibc", "jemalloc", or the name of its library.
        reason: why nothing, or not all, was set; empty if all was.
    """

    applied: bool
    allocator: str
    reason: str


def set_mallopt(
    *,
    mmap_threshold: int = MMAP_THRESHOLD,
    trim_threshold: int = TRIM_THRESHOLD,
    arena_max: int | None = None,
) -> Mallopt:
    """Fix glibc's thresholds in this process, from now on.

    This cannot be undone: the thresholds can be set again, the automatic adjustment that they had before does
    not come back, and nothing tells what its values were. Where that matters, give `environment(kind)` to a
    child process instead. What was allocated before stays where it is.

    Args:
        mmap_threshold: bytes from which a block gets pages of its own.
        trim_threshold: bytes of free memory at the heap's top above which they go back to the system.
        arena_max: the most heaps for threads that are not started yet; None leaves it.

    Returns:
        Whether it was applied. With another allocator than glibc nothing is set, and the reason says so.

    Raises:
        UsageError: a value is negative or does not fit the 32-bit integer that mallopt takes.
    """
    for value in (mmap_threshold, trim_threshold, arena_max or 0):
        if not 0 <= value < 2**31:
            raise UsageError(f"mallopt takes 0 to {2**31 - 1}, not {value}")
    allocator = malloc_library()
    if allocator != "glibc":
        return Mallopt(False, allocator, f"mallopt is glibc's; malloc is served here by {allocator}")
    wanted = {_M_MMAP_THRESHOLD: mmap_threshold, _M_TRIM_THRESHOLD: trim_threshold}
    if arena_max is not None:
        wanted[_M_ARENA_MAX] = arena_max
    mallopt = ctypes.CDLL(None).mallopt
    refused = [value for parameter, value in wanted.items() if not mallopt(parameter, value)]
    reason = f"glibc refused the value {', '.join(map(str, refused))}" if refused else ""
    return Mallopt(not refused, allocator, reason)


def environment(kind: AllocatorKind | str) -> dict[str, str]:
    """The environment variables that give a child process this allocator; merge them into its own.

    Args:
        kind: an `AllocatorKind` or its value. "default" needs none.

    Returns:
        For "thresholds" the variables of `mallopt(3)`, which other allocators than glibc ignore; for "jemalloc"
        LD_PRELOAD, before what this process preloads already.

    Raises:
        UsageError: there is no such kind.
        MissingDependency: jemalloc is not installed where the system looks for libraries.

    >>> environment("thresholds")["MALLOC_MMAP_THRESHOLD_"]
    '65536'
    """
    try:
        kind = AllocatorKind(kind)
    except ValueError:
        raise UsageError(f"there is no allocator {kind!r}; known: {', '.join(AllocatorKind)}") from None
    if kind is AllocatorKind.DEFAULT:
        return {}
    if kind is AllocatorKind.THRESHOLDS:
        return {
            "MALLOC_MMAP_THRESHOLD_": str(MMAP_THRESHOLD),
            "MALLOC_TRIM_THRESHOLD_": str(TRIM_THRESHOLD),
            "MALLOC_ARENA_MAX": "1",
        }
    library = ctypes.util.find_library("jemalloc")
    if library is None:
        raise MissingDependency("jemalloc is not installed: apt install libjemalloc2 (Debian, Ubuntu)")
    preloaded = [
        name for name in os.environ.get("LD_PRELOAD", "").replace(":", " ").split() if name != library
    ]
    return {"LD_PRELOAD": ":".join([library, *preloaded])}


def malloc_library() -> str:
    """Who serves malloc in this process: "glibc", "jemalloc", else its library's file name, or "unknown"."""
    try:
        libc = ctypes.CDLL(None)
        found = _DlInfo()
        if not libc.dladdr(ctypes.cast(libc.malloc, ctypes.c_void_p), ctypes.byref(found)):
            return "unknown"
    except (AttributeError, OSError, TypeError):  # no dladdr, or no such handle: not a Unix
        return "unknown"
    name = Path(os.fsdecode(found.file)).name
    if name.startswith("libc") and hasattr(libc, "gnu_get_libc_version"):
        return "glibc"
    return "jemalloc" if "jemalloc" in name else name


class _DlInfo(ctypes.Structure):
    """What `dladdr(3)` tells of an address."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )
