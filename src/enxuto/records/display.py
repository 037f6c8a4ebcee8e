"""Where a record finds its notebook rendering: `reporting` registers it, records only ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_HTML: dict[str, Callable[[Any], str]] = {}


def register_html(kind: str, renderer: Callable[[Any], str]) -> None:
    """Let `renderer` draw every record of this kind in notebooks."""
    _HTML[kind] = renderer


def html(record: Any) -> str | None:
    """The record as an HTML fragment, or None where no renderer is loaded (Jupyter then shows the repr)."""
    renderer = _HTML.get(record.kind)
    return renderer(record) if renderer else None
