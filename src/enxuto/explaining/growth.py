"""Growth: what a generation keeps after every call of the model, such as a cache of keys and values."""

from __future__ import annotations

import numpy as np

from ..records import CATEGORY_CODE, STATIC, Growth, Timeline
from ..records.columns import Array
from .standing import modules_of

_CALLS = 4  # fewer calls of the model show no law


def growth(timeline: Timeline) -> tuple[Growth, ...]:
    """The modules whose kept bytes grow by the same amount with every call of the model, largest first.

    Looks at inference only, at the exits of the root module's calls. A module grows when the later half of
    the differences between exits (two at least) are all equal and positive.
    """
    exits = _root_exits(timeline)
    if timeline.facts.training or len(exits) < _CALLS:
        return ()
    modules, kept = _kept_at(timeline, exits)
    recent = np.diff(kept)[:, -max(2, (len(exits) - 1) // 2) :]
    steady = (recent == recent[:, :1]).all(axis=1) & (recent[:, 0] > 0)
    rows = [
        Growth(module=modules[row], nbytes=int(kept[row, -1]), per_token=int(recent[row, 0]))
        for row in np.flatnonzero(steady)
    ]
    return tuple(sorted(rows, key=lambda row: -row.nbytes))


def _root_exits(timeline: Timeline) -> Array:
    roots = [index for index, name in enumerate(timeline.names) if not name]
    exits: Array = np.sort(timeline.calls.exit[np.isin(timeline.calls.module, roots)])
    return exits


def _kept_at(timeline: Timeline, ticks: Array) -> tuple[list[str], Array]:
    """Bytes that are neither weights nor inputs, by module of birth (rows) and tick (columns)."""
    static = [CATEGORY_CODE[category] for category in STATIC]
    blocks = np.flatnonzero(~np.isin(timeline.blocks.category, static))
    modules, row = np.unique(np.array(list(modules_of(timeline, blocks)), object), return_inverse=True)
    change = np.zeros((len(modules), len(ticks) + 1), np.int64)
    sizes = timeline.blocks.nbytes[blocks]
    np.add.at(change, (row, np.searchsorted(ticks, timeline.blocks.born[blocks])), sizes)
    np.subtract.at(change, (row, np.searchsorted(ticks, timeline.ends[blocks])), sizes)
    return modules.tolist(), np.cumsum(change, axis=1)[:, :-1]
