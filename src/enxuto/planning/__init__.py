"""Timelines + a budget -> a plan: which levers, at what cost, and why; it knows Timelines only."""

from .planner import NUMERICS, Base, Planner
from .replay import Replay
from .search import Explored, Point, explore
from .times import Speeds, op_seconds

__all__ = [
    "NUMERICS",
    "Base",
    "Explored",
    "Planner",
    "Point",
    "Replay",
    "Speeds",
    "explore",
    "op_seconds",
]
