"""One file per lever on training memory: where it can act, what it changes in a Timeline, how it is applied."""

from .edits import NOTHING, Births, Edit, Rerun, edited, joined, position, tick_of
from .regions import Lives, Refused, Region

__all__ = [
    "NOTHING",
    "Births",
    "Edit",
    "Lives",
    "Refused",
    "Region",
    "Rerun",
    "edited",
    "joined",
    "position",
    "tick_of",
]
"""The levers on training memory, one file each."""
