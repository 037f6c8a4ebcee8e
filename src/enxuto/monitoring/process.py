"""What the operating system says of this process and its children: resident bytes now, and at the most."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import time

import psutil

_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_HIGHEST = re.compile(rb"VmHWM:\s+(\d+) kB")
_WORKERS_RATIO = 0.003  # of the time may go into asking for the children
_EARLY = 16  # so many times half of it may, where there are any: what grows, grows from the start
_EARLY_RATIO = 0.5
_RESET = b"5"  # proc(5), clear_refs: the peak resident set starts again from what is resident now


class Process:
    """This process, as the kernel sees it. Files of `/proc` stay open, since they are read after every step.

    Where the kernel lets the high-water mark be reset (Linux, one's own process), `take_peak` tells the peak since
    it was last called; elsewhere the peak of the whole life, or nothing.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._statm = _opened("/proc/self/statm", os.O_RDONLY)
        self._status = _opened("/proc/self/status", os.O_RDONLY)
        self._clear = _opened("/proc/self/clear_refs", os.O_WRONLY)
        self._workers, self._asked, self._pause, self._early = 0, 0.0, 0.0, _EARLY

    def resident(self) -> int:
        """Bytes of this process that are in memory now."""
        if self._statm is None:
            return int(self._process.memory_info().rss)
        return int(os.pread(self._statm, 128, 0).split()[1]) * _PAGE

    def take_peak(self) -> int:
        """The most resident bytes since the last call."""
        if self._status is None:
            return self.resident()
        found = _HIGHEST.search(os.pread(self._status, 8192, 0))
        highest = int(found[1]) * 1024 if found else self.resident()
        if self._clear is not None:
            try:
                os.write(self._clear, _RESET)
            except OSError:  # not allowed here: the mark then only rises
                os.close(self._clear)
                self._clear = None
        return highest

    def give_back(self) -> None:
        """Return to the kernel what the C allocator holds and nobody uses (glibc only)."""
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)

    def workers(self) -> int:
        """Bytes that the children take, shared pages by their part (PSS); asked as often as it is cheap."""
        now = time.perf_counter()
        if now - self._asked >= self._pause:
            self._workers = self._of_children()
            self._asked = time.perf_counter()
            early = self._workers > 0 and self._early > 0
            self._early -= early
            self._pause = (self._asked - now) / (_EARLY_RATIO if early else _WORKERS_RATIO)
        return self._workers

    def close(self) -> None:
        """Let go of the files."""
        for file in (self._statm, self._status, self._clear):
            if file is not None:
                os.close(file)
        self._statm = self._status = self._clear = None

    def _of_children(self) -> int:
        total = 0
        for child in self._process.children(recursive=True):
            with contextlib.suppress(psutil.Error, OSError):
                memory = child.memory_full_info()
                total += int(getattr(memory, "pss", memory.rss))
        return total


def _opened(path: str, flags: int) -> int | None:
    try:
        return os.open(path, flags)
    except OSError:
        return None
