"""For tests of code that reads or edits Timelines: random ones, and every law that a Timeline obeys."""

from .laws import check_timeline
from .random_timelines import random_timeline

__all__ = ["check_timeline", "random_timeline"]
