"""Nets side by side in the user's own scenario, and nets to take instead of one that does not fit."""

from .compare import compare
from .suggesting import has_others, suggest

__all__ = ["compare", "has_others", "suggest"]
