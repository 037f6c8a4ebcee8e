"""One file per lever on training memory: where it can act, what it changes in a Timeline, how it is applied."""

from .checkpointing import Candidate
from .edits import (
    NOTHING,
    Births,
    Edit,
    Rerun,
    edited,
    first_difference,
    joined,
    position,
    rerun_ops,
    tick_of,
)
from .regions import Lives, Refused, Region

__all__ = [
    "NOTHING",
    "Births",
    "Candidate",
    "Edit",
    "Lives",
    "Refused",
    "Region",
    "Rerun",
    "edited",
    "first_difference",
    "joined",
    "position",
    "rerun_ops",
    "tick_of",
]
