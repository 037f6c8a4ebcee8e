"""The memory curve at few ticks that miss no extreme: every bucket's maximum and minimum are kept."""

from __future__ import annotations

import numpy as np

from ..records import CATEGORIES, CategoryCurve, CurveSample, Timeline
from ..records.columns import Array
from .standing import Standing, op_name, op_site

#: At most this many ticks: about one per pixel of a wide chart.
LIMIT = 1500
_STARTS = 500  # phase starts kept at most: an optimizer inside the backward changes phase at every parameter


def curve_sample(standing: Standing) -> CurveSample:
    """The curve by category at the sampled ticks, and what ran at each."""
    timeline = standing.timeline
    ticks = sampled_ticks(standing)
    curves = timeline.curves()
    return CurveSample(
        ticks=tuple(ticks.tolist()),
        categories=tuple(
            CategoryCurve(category=category, nbytes=tuple(curves[category][ticks].tolist()))
            for category in CATEGORIES
            if category in curves
        ),
        labels=tuple(_label(timeline, tick) for tick in ticks.tolist()),
        phases=timeline.phases,
        total_ticks=timeline.ticks,
    )


def sampled_ticks(standing: Standing) -> Array:
    """Sorted ticks: the first, the last, the peak, the phase starts, each bucket's maximum and minimum."""
    curve = standing.curve
    if len(curve) <= LIMIT:
        return np.arange(len(curve))
    starts = [span.start for span in standing.timeline.phases]
    fixed = {0, len(curve) - 1, standing.tick, *starts[:: len(starts) // _STARTS + 1]}
    return np.unique(np.concatenate([sorted(fixed), _extremes(curve, (LIMIT - len(fixed)) // 2)]))


def _extremes(curve: Array, buckets: int) -> Array:
    """The first tick of the maximum and of the minimum of each of `buckets` equal stretches."""
    width = -(-len(curve) // buckets)
    rows = np.pad(curve, (0, -len(curve) % width), mode="edge").reshape(-1, width)
    starts = np.arange(len(rows)) * width
    # what was padded equals the last tick and comes after it, so the first extreme is never a padded one
    found: Array = np.concatenate([starts + rows.argmax(axis=1), starts + rows.argmin(axis=1)])
    return found


def _label(timeline: Timeline, tick: int) -> str:
    """What ran at a tick: op, module and source line, those that are known."""
    op = timeline.op_at(tick)
    if op < 0:
        return ""
    site = op_site(timeline, op)
    parts = (op_name(timeline, op), timeline.module_of(int(timeline.ops.call[op])), str(site) if site else "")
    return "  ".join(part for part in parts if part)
