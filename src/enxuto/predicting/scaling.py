"""Scaling: two traces of the same work at two batch sizes give the Timeline at any other, block by block.

A step that treats the samples of a batch alike does the same things in the same order at every batch size, and
each of its blocks holds a + c·n bytes for whole a and c. Two traces show both. Batch size 1 is the exception:
there PyTorch leaves out some ops and adds others, so it is always traced by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from ..errors import UndecidableError, UsageError
from ..records import CATEGORY_CODE, Blocks, Category, Facts, Ops, Site, Timeline, World, intern
from ..records.columns import Array, same_values

SMALLEST = 2  # the smallest batch size that follows the line

_SCRATCH = CATEGORY_CODE[Category.SCRATCH]
_TABLES = {"name": "names", "node": "names", "module": "names", "site": "sites"}  # what a column indexes
_SCALED = frozenset({"nbytes", "flops", "scratch", "signature"})  # everything else must be equal


@dataclass(frozen=True, slots=True, kw_only=True)
class Superlinear:
    """A block whose bytes are on no line a + c·n with whole a, c >= 0: `low` and `high` bytes at the two sizes.

    Bytes that grow with the square of the batch look like this, as do those of a loss that compares every
    sample with every other. `op`, `module` and `site` say where the block was made, empty or None if unknown.
    """

    block: int
    op: str
    module: str
    site: Site | None
    low: int
    high: int


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """The line through every block of one work, from its Timelines at two batch sizes.

    Args:
        low: a trace at a batch size of at least 2 (`facts.batch_size`).
        high: a trace of the same work, made the same way, at a larger batch size.

    Raises:
        UsageError: the batch sizes are not known, below 2 or in the wrong order.
        UndecidableError: the two steps are not the same but for sizes; the message says where they part.

    Two points cannot show a bend that starts from a non-negative a: what rests on a Scaling is confirmed by a
    trace, as `largest_batch` does.

    Example:
        >>> from dataclasses import replace
        >>> from enxuto.testing import random_timeline
        >>> low = random_timeline(7)
        >>> two, six = (replace(low, facts=replace(low.facts, batch_size=n)) for n in (2, 6))
        >>> bool((Scaling(two, six).at(9).curve == low.curve).all())
        True
    """

    low: Timeline
    high: Timeline

    def __post_init__(self) -> None:
        small, large = self.sizes
        if not SMALLEST <= small < large:
            raise UsageError(
                f"scaling needs two batch sizes, the smaller first and at least {SMALLEST}, not {small} and {large}"
            )
        why = mismatch(self.low, self.high)
        if why:
            raise UndecidableError(
                f"the steps of {self.low.facts.workload} at batch sizes {small} and {large} do not match: {why}; "
                "trace each batch size by itself"
            )

    @property
    def sizes(self) -> tuple[int, int]:
        """The two batch sizes that were traced."""
        return self.low.facts.batch_size, self.high.facts.batch_size

    def at(self, size: int) -> Timeline:
        """The Timeline at another batch size.

        Args:
            size: a batch size of at least 2.

        Returns:
            What a trace at that size would give, where every block is on its line; `facts.step_peaks` is empty,
            since earlier steps are not known. Blocks in `superlinear` are on the line through their two sizes
            all the same: `facts.notes` then says so.

        Raises:
            UndecidableError: the size is 1, which has to be traced.
            UsageError: the size is below 1.
        """
        if size < 1:
            raise UsageError(f"a batch size must be at least 1, not {size}")
        if size < SMALLEST:
            raise UndecidableError("batch size 1 runs other ops than larger ones: trace it by itself")
        signatures, of_op = self._signatures(size)
        ops = replace(
            self.low.ops,
            flops=self._line(self.low.ops.flops, self.high.ops.flops, size),
            scratch=self._line(self.low.ops.scratch, self.high.ops.scratch, size),
            signature=of_op,
        )
        nbytes = self._line(_held(self.low).nbytes, _held(self.high).nbytes, size)
        blocks = _with_scratch(replace(_held(self.low), nbytes=nbytes), ops)
        return replace(self.low, blocks=blocks, ops=ops, signatures=signatures, facts=self._facts(size))

    def largest(self, budget: int) -> int | None:
        """The largest batch size whose peak is within `budget` bytes, by the line; None where nothing grows.

        Below 2 the line says nothing: any such answer means that 2 does not fit.
        """
        small, large = self.sizes
        room, growth = budget - self.low.curve, self.high.curve - self.low.curve
        rising = growth > 0
        if not rising.any():
            return None
        # at each tick: low + (n - small) · growth / (large - small) <= budget
        return small + int((room[rising] * (large - small) // growth[rising]).min())

    def peak_at(self, size: int) -> int:
        """The peak in bytes at a batch size of at least 2: that of `at(size)`, at less cost."""
        return int(self._line(self.low.curve, self.high.curve, size).max(initial=0))

    @property
    def superlinear(self) -> tuple[Superlinear, ...]:
        """The blocks that no line with whole, non-negative coefficients explains, in order of birth."""
        held = _held(self.low)
        return tuple(
            self._superlinear(int(block))
            for block in np.flatnonzero(self._bent(held.nbytes, _held(self.high).nbytes))
        )

    @property
    def caveats(self) -> tuple[str, ...]:
        """What the line does not vouch for."""
        return tuple(self._caveats())

    def _caveats(self) -> Iterator[str]:
        small, large = self.sizes
        bent = self.superlinear
        if bent:
            made = " at ".join(filter(None, (bent[0].op, str(bent[0].site or ""))))
            yield (
                f"{_counted(len(bent), 'block')} on no line{f', the first made by {made}' if made else ''}: their "
                "bytes grow faster than the batch, as where samples are compared with each other, or in steps"
            )
        low, high = self.low.ops, self.high.ops
        scratch = int(self._bent(low.scratch, high.scratch).sum())
        if scratch:
            yield (
                f"kernel scratch of {_counted(scratch, 'op call')} on no line: kernels choose by size how to compute"
            )
        elif (low.scratch != high.scratch).any():
            yield f"kernel scratch is extended along a line from batch sizes {small} and {large}"
        flops = int(self._bent(low.flops, high.flops).sum())
        if flops:
            yield f"flops of {_counted(flops, 'op call')} on no line"
        if self.low.world is not World.DRY:
            yield "the traces are of real tensors, whose values may decide sizes"

    def _line(self, low: Array, high: Array, size: int) -> Array:
        """The line through two columns, in whole numbers and never below 0."""
        small, large = self.sizes
        line: Array = np.maximum(low + (size - small) * (high - low) // (large - small), 0)
        return line

    def _bent(self, low: Array, high: Array) -> Array:
        """Which rows are on no line a + c·n with whole a, c >= 0."""
        small, large = self.sizes
        slope, rest = np.divmod(high - low, large - small)
        bent: Array = (rest != 0) | (slope < 0) | (low < slope * small)
        return bent

    def _superlinear(self, block: int) -> Superlinear:
        row = self.low.blocks[block]
        return Superlinear(
            block=block,
            op=self.low.text(self.low.ops[row.op].name) if row.op >= 0 else "",
            module=self.low.module_of(row.call),
            site=self.low.site_of(row.site),
            low=row.nbytes,
            high=self.high.blocks[block].nbytes,
        )

    def _signatures(self, size: int) -> tuple[tuple[str, ...], Array]:
        """The calls' descriptions at a size, and each op's index of its own; views have none."""
        small, large = self.sizes
        pairs = np.stack([self.low.ops.signature, self.high.ops.signature])
        distinct, of_op = np.unique(pairs, axis=1, return_inverse=True)
        texts = [
            json.dumps(
                _between(
                    json.loads(self.low.signatures[a]),
                    json.loads(self.high.signatures[b]),
                    (size - small, large - small),
                )
            )
            for a, b in distinct.T.tolist()
            if a >= 0
        ]
        table, indices = intern(texts)
        views = int((distinct[0] < 0).sum())  # -1 sorts first
        index = np.array([-1] * views + indices, np.int32)
        return table, index[of_op.ravel()]

    def _facts(self, size: int) -> Facts:
        small, large = self.sizes
        facts, extended = self.low.facts, bool((self.low.ops.scratch != self.high.ops.scratch).any())
        return replace(
            facts,
            batch_size=size,
            step_peaks=(),
            scratch="partly assumed" if extended else facts.scratch,
            notes=(*facts.notes, f"scaled from traces at batch sizes {small} and {large}", *self.caveats),
        )


def mismatch(low: Timeline, high: Timeline) -> str:
    """Where two steps differ in more than sizes, in words; empty where they match block by block."""
    return next(_mismatches(low, high), "")


def _mismatches(low: Timeline, high: Timeline) -> Iterator[str]:
    for name, of_low, of_high in (
        ("worlds", low.world.value, high.world.value),
        ("workloads", low.facts.workload, high.facts.workload),
    ):
        if of_low != of_high:
            yield f"their {name} are {of_low} and {of_high}"
    ops = [[timeline.text(name) for name in timeline.ops.name.tolist()] for timeline in (low, high)]
    for number, (one, other) in enumerate(zip(*ops, strict=False)):
        if one != other:
            yield f"op {number} is {one} in one and {other} in the other"
    if len(low.ops) != len(high.ops):
        yield f"one runs {_counted(len(low.ops), 'op')} and the other {len(high.ops):,}"
    if low.ticks != high.ticks:
        yield f"their clocks have {low.ticks:,} and {high.ticks:,} ticks"
    for timeline in (low, high):
        if (timeline.blocks.category[: len(_held(timeline))] == _SCRATCH).any():
            yield "kernel scratch stands among the other blocks"
    for name in ("phases", "accumulations"):
        if getattr(low, name) != getattr(high, name):
            yield f"their {name} differ"
    for group in ("blocks", "saves", "calls", "ops"):
        one, other = _columns(low, group), _columns(high, group)
        yield from (
            f"the {group} differ in {name}" for name in one if not same_values(one[name], other[name])
        )
    if not np.array_equal(low.ops.signature < 0, high.ops.signature < 0):
        yield "an op is a view in one of them only"


def _columns(timeline: Timeline, group: str) -> dict[str, Any]:
    """The columns that must be equal, with texts and source lines for their indices: tables may differ in order."""
    rows = _held(timeline) if group == "blocks" else getattr(timeline, group)
    columns = {c.name: getattr(rows, c.name) for c in fields(rows) if c.name not in _SCALED}
    for name in columns.keys() & _TABLES.keys():
        table = getattr(timeline, _TABLES[name])
        columns[name] = [table[index] if index >= 0 else None for index in columns[name].tolist()]
    return columns


def _held(timeline: Timeline) -> Blocks:
    """The blocks that tensors hold; kernel scratch stands after them."""
    count = int((timeline.blocks.category != _SCRATCH).sum())
    return Blocks(**{c.name: getattr(timeline.blocks, c.name)[:count] for c in fields(Blocks)})


def _with_scratch(held: Blocks, ops: Ops) -> Blocks:
    """The blocks with those of the ops' scratch after them, each alive for its op's tick."""
    op = np.flatnonzero(ops.scratch)
    none = np.full(len(op), -1)
    scratch = {
        "nbytes": ops.scratch[op],
        "category": np.full(len(op), _SCRATCH),
        "phase": ops.phase[op],
        "born": ops.tick[op],
        "natural": ops.tick[op] + 1,
        "name": none,
        "op": op,
        "call": ops.call[op],
        "site": ops.site[op],
    }
    columns = {name: getattr(held, name) for name in scratch}
    return Blocks(
        **{
            name: np.concatenate([columns[name], scratch[name]]).astype(columns[name].dtype)
            for name in scratch
        }
    )


def _between(low: Any, high: Any, at: tuple[int, int]) -> Any:
    """A call's description on the line through two, number by number: `at` is how far along, over how far apart.

    What is on no line stays as in the first: a float such as 1/n, on which no kernel's memory depends.
    """
    if isinstance(low, list) and isinstance(high, list) and len(low) == len(high):
        return [_between(a, b, at) for a, b in zip(low, high, strict=True)]
    if isinstance(low, dict) and isinstance(high, dict):
        return {key: _between(value, high.get(key), at) for key, value in low.items()}
    if type(low) is int and type(high) is int:
        return low + at[0] * (high - low) // at[1]
    return low


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
