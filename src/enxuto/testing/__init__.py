"""For tests of code that reads or edits Timelines: random ones, every law that one obeys, the law of levers."""

from typing import Any

from .laws import check_timeline
from .random_timelines import random_timeline

__all__ = ["check_technique", "check_timeline", "random_timeline"]


def __getattr__(name: str) -> Any:
    if name != "check_technique":
        raise AttributeError(f"module 'enxuto.testing' has no attribute {name!r}")
    from .techniques import check_technique  # needs torch, which the others do not

    return check_technique
