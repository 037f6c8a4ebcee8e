"""Jupyter: a card under the cell that follows the run while it trains."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ...records import Step
from ...records.log import Rows
from ...reporting.fragment import live_fragment
from ...units import parse_bytes
from .session import required


def live_card(*, budget: str | int | None = None, seconds: float = 0.5) -> Callable[[Step], None]:
    """`with ex.watch(model, on_step=[live_card()]):` in a notebook.

    Args:
        budget: drawn as a line; "8 GiB" or bytes.
        seconds: the least time between two drawings.

    Raises:
        MissingDependency: IPython is not installed.
    """
    display = required("IPython.display", install="ipython")
    return _Card(display, 0 if budget is None else parse_bytes(budget), seconds)


class _Card:
    """Keeps the steps, thinned, and draws them at times."""

    def __init__(self, display: Any, budget: int, seconds: float) -> None:
        self._display, self._budget, self._seconds = display, budget, seconds
        self._rows = Rows(recent=64, history=256)
        self._handle: Any = None
        self._next = 0.0

    def __call__(self, step: Step) -> None:
        self._rows.add(step)
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._seconds
        page = self._display.HTML(self._repr_html_())
        if self._handle is None:
            self._handle = self._display.display(page, display_id=True)
        else:
            self._handle.update(page)

    def _repr_html_(self) -> str:
        return live_fragment(list(self._rows), budget=self._budget)
