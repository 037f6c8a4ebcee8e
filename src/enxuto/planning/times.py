"""How long ops take, by a roofline: an op needs its FLOPs or its bytes, whichever takes longer.

Williams, Waterman, Patterson, "Roofline: an insightful visual performance model" (2009). The figures are
predictions: only ratios of them are shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..records import CATEGORY_CODE, Category, Device, Timeline

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """FLOPs and bytes a second, and the seconds that starting any op takes; `basis` says whose they are."""

    flops: float = 5e10
    bytes: float = 1e10
    start: float = 4e-6
    basis: str = "assumed: 50 Gflop/s, 10 GB/s, 4 us an op"

    @classmethod
    def of(cls, device: Device) -> Speeds:
        """A device's own where it knows them."""
        flops, moved = device.flops_per_second, device.bytes_per_second
        if not flops.value or not moved.value:
            return cls()
        return cls(flops=flops.value, bytes=moved.value, basis=f"{flops.basis.value}: {device.name}")


def op_seconds(timeline: Timeline, speeds: Speeds) -> Array:
    """Predicted seconds of every op; views take none."""
    ops, blocks = timeline.ops, timeline.blocks
    moved = np.zeros(len(ops))
    for lists in (ops.reads, ops.writes):
        np.add.at(moved, lists.owners(), blocks.nbytes[lists.values].astype(float))
    made = (blocks.op >= 0) & (blocks.category != CATEGORY_CODE[Category.SCRATCH])
    np.add.at(moved, blocks.op[made], blocks.nbytes[made].astype(float))
    seconds = np.maximum(ops.flops / speeds.flops, moved / speeds.bytes) + speeds.start
    return np.where(ops.signature < 0, 0.0, seconds)
