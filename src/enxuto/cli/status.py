"""The live view: in a terminal two rows at its bottom, the script's own output scrolling above; else plain lines.

The rows are kept free by the terminal's scroll region, as apt keeps its progress bar, so nothing that the script
prints is touched: neither its streams nor what they show.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable

from ..records import Step
from ..reporting.live import Live

_SECONDS = 0.25  # between two drawings
_LINE_SECONDS = 30.0  # between two plain lines
_ROWS = 2


class Status:
    """Shows the last step; `close` leaves the terminal as it was."""

    def __init__(self, budget: int) -> None:
        self._live = Live(budget)
        self._drawn = 0.0
        self._process = os.getpid()
        self._size: os.terminal_size | None = None
        self._in_terminal = _is_terminal()
        self._show: Callable[[], None] = self._draw if self._in_terminal else self._line
        self._pause = _SECONDS if self._in_terminal else _LINE_SECONDS

    def __call__(self, step: Step) -> None:
        """Take in a step, and show it unless the last one was shown just now."""
        self._live.add(step)
        now = time.monotonic()
        if now - self._drawn >= self._pause and os.getpid() == self._process:
            self._drawn = now
            with contextlib.suppress(OSError, ValueError):  # a stream that the script has closed
                self._show()

    def say(self, line: str) -> None:
        """A line of advice, above the live view."""
        with contextlib.suppress(OSError, ValueError):
            print(f"enxuto: {line}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Give the rows back."""
        if self._size is None or os.getpid() != self._process:
            return
        height = self._size.lines
        with contextlib.suppress(OSError, ValueError):
            free = "".join(f"\x1b[{height - row};1H\x1b[2K" for row in range(_ROWS))
            self._write(f"\x1b7\x1b[r{free}\x1b8")
        self._size = None

    def _line(self) -> None:
        print(f"enxuto: {self._live.line()}", file=sys.stderr, flush=True)

    def _draw(self) -> None:
        size = os.get_terminal_size(sys.stderr.fileno())
        if size.lines < _ROWS + 4:
            return
        if size != self._size:
            self._reserve(size)
        first = size.lines - _ROWS + 1
        rows = self._live.rows(size.columns)
        drawn = "".join(f"\x1b[{first + i};1H\x1b[2K{row}" for i, row in enumerate(rows))
        self._write(f"\x1b7{drawn}\x1b8")

    def _reserve(self, size: os.terminal_size) -> None:
        """Scroll what is there up by our rows, and let only what is above them scroll from now on."""
        self._size = size
        self._write("\n" * _ROWS + f"\x1b[{_ROWS}A\x1b7\x1b[1;{size.lines - _ROWS}r\x1b8")

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    except ValueError:  # closed
        return False
