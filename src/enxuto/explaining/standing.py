"""Standing: a Timeline at the instant of its peak, with the lookups that every part of the receipt needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..records import CATEGORY_CODE, Category, Site, Timeline
from ..records.columns import Array

#: Blocks whose name is that of a parameter or buffer, which tells their module.
_NAMED = frozenset(
    CATEGORY_CODE[category]
    for category in (Category.PARAMETER, Category.BUFFER, Category.GRADIENT, Category.OPTIMIZER_STATE)
)
_STATE = CATEGORY_CODE[Category.OPTIMIZER_STATE]
_INPUT = CATEGORY_CODE[Category.INPUT]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Standing:
    """What stands at the peak: `blocks` are the ids alive at `tick`, `modules` the module path of each.

    `op` is the op at the peak or the last one before it, -1 before the first; `running` tells which.
    `reads_now` and `next_read` are by block id: whether the op at the peak reads the block, and the first
    later op that does within the block's life (-1 for none). A view moves no bytes and counts as no read.
    """

    timeline: Timeline
    tick: int
    curve: Array
    ends: Array
    blocks: Array
    modules: tuple[str, ...]
    op: int
    running: bool
    reads_now: Array
    next_read: Array

    def nbytes(self, blocks: Array) -> int:
        """Bytes of some blocks together."""
        return int(self.timeline.blocks.nbytes[blocks].sum())

    def of(self, *categories: Category) -> Array:
        """Ids of the blocks alive at the peak that have one of these categories."""
        codes = [CATEGORY_CODE[category] for category in categories]
        return self.blocks[np.isin(self.timeline.blocks.category[self.blocks], codes)]


def stand(timeline: Timeline) -> Standing:
    """Go to the peak of a Timeline and look around once."""
    curve, ends = timeline.curve, timeline.ends
    tick = int(curve.argmax()) if len(curve) else 0
    blocks = np.flatnonzero((timeline.blocks.born <= tick) & (tick < ends))
    op = timeline.op_at(tick)
    running = op >= 0 and int(timeline.ops.tick[op]) == tick
    return Standing(
        timeline=timeline,
        tick=tick,
        curve=curve,
        ends=ends,
        blocks=blocks,
        modules=tuple(modules_of(timeline, blocks)),
        op=op,
        running=running,
        reads_now=_read_by(timeline, op if running else -1),
        next_read=_next_reads(timeline, tick, ends),
    )


def op_name(timeline: Timeline, op: int) -> str:
    """The name of an op without its overload; empty for -1."""
    return short_name(timeline.text(int(timeline.ops.name[op]))) if op >= 0 else ""


def short_name(name: str) -> str:
    """An op's name without its overload.

    >>> short_name("aten.add.Tensor"), short_name("")
    ('aten.add', '')
    """
    return ".".join(name.split(".")[:2])


def op_place(timeline: Timeline, op: int) -> str:
    """An op with the source line that it ran for: `aten.mul (model.py:31)`."""
    site = op_site(timeline, op)
    return f"{op_name(timeline, op)} ({site})" if site else op_name(timeline, op)


def op_site(timeline: Timeline, op: int) -> Site | None:
    """The source line of an op, None where there is none."""
    return timeline.site_of(int(timeline.ops.site[op])) if op >= 0 else None


def modules_of(timeline: Timeline, blocks: Array) -> Iterable[str]:
    """The module path of each block: its owner's where it has the name of a parameter or buffer, else that
    of the call in which it was born; empty for inputs and outside every module."""
    table = timeline.blocks
    parameters = _parameter_names(timeline)
    known: dict[tuple[int, int], str] = {}
    for category, name, call in zip(
        table.category[blocks].tolist(), table.name[blocks].tolist(), table.call[blocks].tolist(), strict=True
    ):
        key = (category, name if category in _NAMED else call)
        if key not in known:
            known[key] = _module(timeline, *key, parameters)
        yield known[key]


def _module(timeline: Timeline, category: int, index: int, parameters: frozenset[str]) -> str:
    if category == _INPUT:
        return ""
    if category not in _NAMED:
        return timeline.module_of(index)
    name = timeline.text(index)
    if category == _STATE:
        name = _owner_of_state(name, parameters)
    return name.rpartition(".")[0]


def _owner_of_state(name: str, parameters: frozenset[str]) -> str:
    """The parameter that `conv.weight.exp_avg` belongs to, empty if there is none."""
    while name and name not in parameters:
        name = name.rpartition(".")[0]
    return name


def _parameter_names(timeline: Timeline) -> frozenset[str]:
    named = timeline.blocks.name[timeline.blocks.category == CATEGORY_CODE[Category.PARAMETER]]
    return frozenset(timeline.text(name) for name in np.unique(named).tolist())


def _read_by(timeline: Timeline, op: int) -> Array:
    read = np.zeros(len(timeline.blocks), bool)
    if op >= 0:
        read[list(timeline.ops.reads[op])] = True
    return read


def _next_reads(timeline: Timeline, tick: int, ends: Array) -> Array:
    """By block, the first op after a tick that reads it within its life, -1 for none."""
    ops = timeline.ops
    start = int(np.searchsorted(ops.tick, tick, side="right"))
    first = int(ops.reads.offsets[start])
    block, reader = ops.reads.values[first:], ops.reads.owners()[first:]
    counts = (ops.signature[reader] >= 0) & (ops.tick[reader] < ends[block])  # a view has no signature
    read, where = np.unique(block[counts], return_index=True)
    following = np.full(len(timeline.blocks), -1, np.int64)
    following[read] = reader[counts][where]
    return following


def last_reads(standing: Standing, blocks: Array) -> dict[int, int]:
    """By block, of those asked for, the last op up to the peak that read it; absent where there is none."""
    ops = standing.timeline.ops
    stop = int(ops.reads.offsets[standing.op + 1])
    block, reader = ops.reads.values[:stop], ops.reads.owners()[:stop]
    asked = np.isin(block, blocks) & (ops.signature[reader] >= 0)
    return dict(zip(block[asked].tolist(), reader[asked].tolist(), strict=True))  # the last one stays
