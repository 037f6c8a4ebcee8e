"""Make a trained network small for deployment, and judge it in the runtime that will execute it.

Imports nothing heavy: the process that measures a runtime's memory starts from here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compression import answered_by, compress
    from .search import Effort

_HOMES = {"Effort": "search", "answered_by": "compression", "compress": "compression"}

__all__ = ["Effort", "answered_by", "compress"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
