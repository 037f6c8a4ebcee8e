"""The state of a run in a line or two: what `enxuto run` shows while a script trains."""

from __future__ import annotations

import io
from collections import deque

from ..records import How, Step, StepKind
from ..units import format_bytes
from .recording_rows import BARS, sparkline

_BAR = 20
_HISTORY = 400


class Live:
    """Takes steps and tells the last of them.

    Args:
        budget: bytes, 0 for none.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._last: Step | None = None
        self._known: Step | None = None  # the last with a peak
        self._first_host = -1
        self._updates = self._calls = 0
        self._levels: deque[int] = deque(maxlen=_HISTORY)

    def add(self, step: Step) -> None:
        """A step is over."""
        self._last = step
        if step.peak >= 0:
            self._known = step
        if step.kind is StepKind.UPDATE:
            self._updates += step.covers
        else:
            self._calls += step.covers
        if self._first_host < 0:
            self._first_host = step.host
        self._levels.append(step.peak if step.peak_how is How.ALLOCATOR else step.host_peak)

    def line(self) -> str:
        """One line without colour."""
        return "  ".join(self._parts())

    def rows(self, width: int) -> list[str]:
        """Two rows for a terminal of this width, with its colour codes."""
        from rich.console import Console
        from rich.text import Text

        bar = self._bar()
        first = Text.assemble(("enxuto ", "bold"), "  ".join(self._parts()[:2]), " ", bar)
        what = "tensors" if self._known and self._known.peak_how is How.ALLOCATOR else "process"
        rest = "  ".join(self._parts()[2:])
        room = max(width - len(rest) - len(what) - 4, 0)
        second = Text.assemble(
            (f"{what} ", "dim"), (sparkline(list(self._levels), room), "cyan"), f"  {rest}"
        )
        rows = []
        for text in (first, second):
            text.truncate(width - 1, overflow="ellipsis")
            draft = io.StringIO()
            console = Console(file=draft, width=width, force_terminal=True, legacy_windows=False)
            console.print(text, end="", no_wrap=True, crop=True)
            rows.append(draft.getvalue())
        return rows

    def _bar(self) -> str:
        if not self._budget or self._known is None:
            return ""
        full = min(round(_BAR * self._known.peak / self._budget), _BAR)
        return f"{BARS[0] * full}{BARS[1] * (_BAR - full)}| {format_bytes(self._budget)} budget"

    def _parts(self) -> list[str]:
        last, known = self._last, self._known
        if last is None:
            return ["no step yet", ""]
        calls = f" + {self._calls:,} calls" if self._calls else ""
        parts = [f"step {self._updates:,}{calls}"]
        if known is None:
            parts.append("peak not recorded yet")
        else:
            share = f", {100 * known.peak / self._budget:.0f} % of the budget" if self._budget else ""
            parts.append(f"peak {format_bytes(known.peak)} ({known.peak_how.value}{share})")
        if last.reserved >= 0:
            parts.append(f"reserved {format_bytes(last.reserved)}")
        if last.retries > 0:
            parts.append(f"retries {last.retries}")
        grown = last.host - self._first_host
        parts.append(f"process {format_bytes(last.host)} ({'+' if grown >= 0 else ''}{format_bytes(grown)})")
        if last.workers > 0:
            parts.append(f"workers {format_bytes(last.workers)}")
        return parts
