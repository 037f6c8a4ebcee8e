"""Pruning: what is removed is gone from every tensor; after training, or while it runs."""

from .during import Cubic, Ranking, Shrinking
from .groups import Group, Kind, Slice
from .importance import Importance
from .removal import apply_shapes
from .selection import Scope, Size
from .structured import Limit, Prunable, Pruned, Pruning, prunable, prune, size_of
from .unstructured import Magnitude, NOfM, Zeroed, ZerosRow, measure_zeros, zeroed

__all__ = [
    "Cubic",
    "Group",
    "Importance",
    "Kind",
    "Limit",
    "Magnitude",
    "NOfM",
    "Prunable",
    "Pruned",
    "Pruning",
    "Ranking",
    "Scope",
    "Shrinking",
    "Size",
    "Slice",
    "Zeroed",
    "ZerosRow",
    "apply_shapes",
    "measure_zeros",
    "prunable",
    "prune",
    "size_of",
    "zeroed",
]
