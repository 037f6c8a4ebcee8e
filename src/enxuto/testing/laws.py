"""Every law of a Timeline, checked without torch: what may be relied on by whoever reads or edits one.

The laws are those that traces really keep. Where one is weaker than expected, the reason stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import numpy as np

from ..records import (
    CATEGORIES,
    CATEGORY_CODE,
    PHASE_CODE,
    PHASES,
    STATIC,
    Category,
    Phase,
    Ragged,
    Timeline,
)

Array = np.ndarray[Any, np.dtype[Any]]

_TRAVELLING = {"|i1", "|b1", "<i4", "<i8"}  # the array types that a Timeline's JSON holds
_MOST_CELLS = 10**8  # blocks x ticks; above, the curve is compared at a sample of ticks
_BEFORE = PHASE_CODE[Phase.BEFORE]
_SCRATCH = CATEGORY_CODE[Category.SCRATCH]
_TEMPORARY = [CATEGORY_CODE[category] for category in CATEGORIES if category.value.startswith("temporary")]
# a gradient that shares memory with an input keeps that name: a block has one category
_MAY_HOLD_GRADIENTS = [CATEGORY_CODE[category] for category in (*STATIC, Category.GRADIENT)]


def check_timeline(timeline: Timeline) -> None:
    """Check every law of the record.

    Args:
        timeline: traced, edited or made up. The curve is compared with the slow sum over blocks at every
            tick up to 10^8 blocks x ticks, and at 1,000 ticks beyond.

    Raises:
        AssertionError: a law is broken; the message says which one, and where.

    Example:
        >>> from dataclasses import replace
        >>> from enxuto.testing import random_timeline
        >>> check_timeline(random_timeline(7))
        >>> timeline = random_timeline(7)
        >>> late = replace(timeline.blocks, born=timeline.blocks.natural + 1)
        >>> check_timeline(replace(timeline, blocks=late))
        Traceback (most recent call last):
        ...
        AssertionError: block 0: born 401, after its natural death 400
    """
    for law in (
        _check_columns,
        _check_indices,
        _check_phases,
        _check_blocks,
        _check_saves,
        _check_calls,
        _check_ops,
        _check_births,
        _check_scratch,
        _check_accumulations,
        _check_holders,
        _check_curve,
        _check_facts,
    ):
        law(timeline)


# -- shape ---------------------------------------------------------------------------------------------------


def _check_columns(t: Timeline) -> None:
    """Columns of a group have one length and travel as JSON; ragged ones are well formed."""
    for group, name, column in _columns(t):
        where = f"{type(group).__name__}.{name}"
        parts = [column.offsets, column.values] if isinstance(column, Ragged) else [column]
        for part in parts:
            _claim(part.ndim == 1, f"{where}: not one-dimensional")
            _claim(part.dtype.str in _TRAVELLING, f"{where}: {part.dtype} does not travel as JSON")
        _claim(
            len(column) == len(group), f"{where}: {len(column)} rows, and {len(group)} in its first column"
        )
        if isinstance(column, Ragged):
            ends = column.offsets[[0, -1]].tolist()
            _claim(ends == [0, len(column.values)], f"{where}: offsets run from {ends[0]} to {ends[1]}")
            _each(np.diff(column.offsets) >= 0, lambda i, w=where: f"{w}: offsets fall after row {i}")  # type: ignore[misc]


def _check_indices(t: Timeline) -> None:
    """Every index is within its table; -1 stands for none where there may be none."""
    none, some = -1, 0
    tables = {"block": len(t.blocks), "call": len(t.calls), "op": len(t.ops), "name": len(t.names)}
    tables |= {"site": len(t.sites), "signature": len(t.signatures)}
    b, s, c, o = t.blocks, t.saves, t.calls, t.ops
    for column, where, table, least in (
        (b.name, "blocks.name", "name", none),
        (b.op, "blocks.op", "op", none),
        (b.call, "blocks.call", "call", none),
        (b.site, "blocks.site", "site", none),
        (s.block, "saves.block", "block", some),
        (s.call, "saves.call", "call", none),
        (s.node, "saves.node", "name", none),
        (c.module, "calls.module", "name", some),
        (c.parent, "calls.parent", "call", none),
        (c.returns, "calls.returns", "block", none),
        (c.arguments.values, "calls.arguments", "block", some),
        (o.name, "ops.name", "name", some),
        (o.call, "ops.call", "call", none),
        (o.site, "ops.site", "site", none),
        (o.node, "ops.node", "name", none),
        (o.signature, "ops.signature", "signature", none),
        (o.reads.values, "ops.reads", "block", some),
        (o.writes.values, "ops.writes", "block", some),
    ):
        _within(column, where, least, tables[table])
    _within(b.category, "blocks.category", 0, len(CATEGORIES))
    for phase, where in ((b.phase, "blocks.phase"), (c.phase, "calls.phase"), (o.phase, "ops.phase")):
        _within(phase, where, 0, len(PHASES))
    _claim(len(set(t.names)) == len(t.names), "names: a text has two indices")
    _claim(len(set(t.signatures)) == len(t.signatures), "signatures: a text has two indices")


def _check_phases(t: Timeline) -> None:
    """Phases cover the clock from 0 to its end without gap or overlap, and neighbours differ."""
    clock = 0
    for number, span in enumerate(t.phases):
        _claim(
            span.start == clock, f"phase {number} ({span.phase.value}): starts at {span.start}, not {clock}"
        )
        _claim(
            span.start < span.stop, f"phase {number} ({span.phase.value}): empty, {span.start} to {span.stop}"
        )
        if number:
            _claim(
                t.phases[number - 1].phase is not span.phase, f"phase {number}: the same as the one before"
            )
        clock = span.stop
    _claim(clock == t.ticks, f"phases end at {clock}, and the clock at {t.ticks}")


# -- lives ---------------------------------------------------------------------------------------------------


def _check_blocks(t: Timeline) -> None:
    """0 <= born <= natural <= ticks; what stood before the step is there from tick 0."""
    b = t.blocks
    _each(b.nbytes >= 0, lambda i: f"block {i}: {b.nbytes[i]} bytes")
    _each(b.born >= 0, lambda i: f"block {i}: born {b.born[i]}")
    _each(
        b.born <= b.natural, lambda i: f"block {i}: born {b.born[i]}, after its natural death {b.natural[i]}"
    )
    _each(
        b.natural <= t.ticks,
        lambda i: f"block {i}: natural death {b.natural[i]}, the clock ends at {t.ticks}",
    )
    before = b.phase == _BEFORE
    _each(~before | (b.born == 0), lambda i: f"block {i}: stood before the step, and is born at {b.born[i]}")
    spoken = before | (b.phase == _phase_codes(t, b.born))
    _each(
        spoken,
        lambda i: f"block {i}: born {b.born[i]} in phase {PHASES[b.phase[i]].value}, which does not run",
    )


def _check_saves(t: Timeline) -> None:
    """born <= pack <= each unpack <= its local end; unpack and pack <= release; packed while alive."""
    s, b = t.saves, t.blocks
    _each(s.pack >= 0, lambda i: f"save {i}: packed at {s.pack[i]}")
    _each(s.pack <= s.release, lambda i: f"save {i}: packed at {s.pack[i]}, after its release {s.release[i]}")
    _each(s.release <= t.ticks, lambda i: f"save {i}: released {s.release[i]}, the clock ends at {t.ticks}")
    same = s.unpacks.offsets == s.local_ends.offsets
    _claim(bool(same.all()), "saves: an unpack has no local end, or a local end no unpack")
    owner, unpack, end = s.unpacks.owners(), s.unpacks.values, s.local_ends.values
    _each(s.pack[owner] <= unpack, lambda i: f"save {owner[i]}: unpacked at {unpack[i]}, before its pack")
    _each(
        unpack <= s.release[owner], lambda i: f"save {owner[i]}: unpacked at {unpack[i]}, after its release"
    )
    _each(unpack <= end, lambda i: f"save {owner[i]}: unpacked at {unpack[i]}, after its local end {end[i]}")
    _each(end <= t.ticks, lambda i: f"save {owner[i]}: local end {end[i]}, the clock ends at {t.ticks}")
    _each(
        b.born[s.block] <= s.pack,
        lambda i: f"save {i}: packed at {s.pack[i]}, before block {s.block[i]} is born",
    )
    _check_packed_alive(t)
    _check_open(t, s.call, s.pack, "save")
    temporary = np.isin(b.category[s.block], _TEMPORARY)
    _each(~temporary, lambda i: f"save {i}: block {s.block[i]} is saved, and called temporary")


def _check_packed_alive(t: Timeline) -> None:
    """A block is packed while something else keeps it: its natural life, or an earlier save of it.

    The latter is real: a double backward packs again what the first backward was lent.
    """
    s = t.saves
    until = t.blocks.natural.copy()
    for row in np.argsort(s.pack, kind="stable").tolist():
        block, pack = s.block[row], s.pack[row]
        _claim(
            pack <= until[block], f"save {row}: packed at {pack}, block {block} was gone at {until[block]}"
        )
        until[block] = max(until[block], s.release[row], *s.local_ends[row])


def _check_calls(t: Timeline) -> None:
    """Calls are ordered by entry and nested like a stack; the parent is the innermost open call."""
    c = t.calls
    _each(c.enter < c.exit, lambda i: f"call {i}: enters at {c.enter[i]}, exits at {c.exit[i]}")
    _each(c.exit <= t.ticks, lambda i: f"call {i}: exits at {c.exit[i]}, the clock ends at {t.ticks}")
    _each(np.diff(c.enter) > 0, lambda i: f"call {i + 1}: enters before call {i}")
    stack: list[int] = []
    for call, (enter, leave, parent) in enumerate(
        zip(c.enter.tolist(), c.exit.tolist(), c.parent.tolist(), strict=True)
    ):
        while stack and c.exit[stack[-1]] <= enter:
            stack.pop()
        inner = stack[-1] if stack else -1
        _claim(
            parent == inner,
            f"call {call}: parent {parent}, and call {inner} is open when it enters at {enter}",
        )
        if stack:
            _claim(leave <= c.exit[inner], f"call {call}: exits at {leave}, after its parent {inner}")
        stack.append(call)
    spoken = c.phase == _phase_codes(t, c.enter)
    _each(spoken, lambda i: f"call {i}: phase {PHASES[c.phase[i]].value} does not run at {c.enter[i]}")
    _check_alive(t, c.arguments, c.enter, "call", "argument")


def _check_ops(t: Timeline) -> None:
    """Op ticks strictly increase; phase, call and blocks are those of their tick."""
    o = t.ops
    _within(o.tick, "ops.tick", 0, max(t.ticks, 1))
    _each(np.diff(o.tick) > 0, lambda i: f"op {i + 1}: tick {o.tick[i + 1]} is not after {o.tick[i]}")
    spoken = o.phase == _phase_codes(t, o.tick)
    _each(spoken, lambda i: f"op {i}: phase {PHASES[o.phase[i]].value} does not run at tick {o.tick[i]}")
    _each(o.flops >= 0, lambda i: f"op {i}: {o.flops[i]} flops")
    _check_alive(t, o.reads, o.tick, "op", "read")
    _check_alive(t, o.writes, o.tick, "op", "written")
    called = np.flatnonzero(o.call >= 0)
    entered = t.calls.enter[o.call[called]] < o.tick[called]
    _each(entered, lambda i: f"op {called[i]}: runs for call {o.call[called[i]]}, which has not begun")
    forward = np.where(o.node < 0, o.call, -1)  # an op of a backward node belongs to a call that may be over
    _check_open(t, forward, o.tick, "op")


def _check_births(t: Timeline) -> None:
    """A block that an op made is born at its tick, in its phase, call and line."""
    b, o = t.blocks, t.ops
    made = np.flatnonzero(b.op >= 0)
    op = b.op[made]
    for name, own, its in (
        ("tick", b.born[made], o.tick[op]),
        ("phase", b.phase[made], o.phase[op]),
        ("call", b.call[made], o.call[op]),
        ("site", b.site[made], o.site[op]),
    ):
        _each(own == its, lambda i, n=name: f"block {made[i]}: made by op {op[i]}, and not at its {n}")  # type: ignore[misc]


def _check_scratch(t: Timeline) -> None:
    """Scratch lives for exactly its op's tick, is never saved, and is the op's `scratch`, one block an op."""
    b, o = t.blocks, t.ops
    scratch = np.flatnonzero(b.category == _SCRATCH)
    one = t.ends[scratch] == b.born[scratch] + 1
    _each(
        one, lambda i: f"block {scratch[i]}: scratch lives from {b.born[scratch[i]]} to {t.ends[scratch[i]]}"
    )
    _each(b.op[scratch] >= 0, lambda i: f"block {scratch[i]}: scratch of no op")
    _claim(not np.isin(t.saves.block, scratch).any(), "saves: a scratch block is saved")
    held = np.zeros(len(o), np.int64)
    np.add.at(held, b.op[scratch], b.nbytes[scratch])
    _each(held == o.scratch, lambda i: f"op {i}: scratch {o.scratch[i]}, and its blocks hold {held[i]}")
    count = np.bincount(b.op[scratch], minlength=len(o))
    _each(count <= 1, lambda i: f"op {i}: {count[i]} scratch blocks")


def _check_accumulations(t: Timeline) -> None:
    """A gradient and its parameter are alive when it is accumulated; ticks strictly increase."""
    ends, last = t.ends, -1
    for number, row in enumerate(t.accumulations):
        where = f"accumulation {number}"
        _claim(last < row.tick < t.ticks, f"{where}: tick {row.tick}, after {last} and before {t.ticks}")
        last = row.tick
        for what, block in (("parameter", row.parameter), ("gradient", row.gradient)):
            _claim(0 <= block < len(t.blocks), f"{where}: {what} {block} is no block")
            alive = t.blocks.born[block] <= row.tick < ends[block]
            _claim(bool(alive), f"{where}: {what} {block} is not alive at tick {row.tick}")
        _claim(
            t.blocks[row.parameter].category is Category.PARAMETER,
            f"{where}: {row.parameter} is no parameter",
        )
        held = t.blocks.category[row.gradient] in _MAY_HOLD_GRADIENTS
        _claim(held, f"{where}: {row.gradient} is no gradient")


def _check_holders(t: Timeline) -> None:
    """A holder holds a block that is in its natural life at that tick; at most one a block and tick; in words."""
    seen = set()
    for number, row in enumerate(t.holders):
        where = f"holder {number}"
        _claim(0 <= row.block < len(t.blocks), f"{where}: {row.block} is no block")
        alive = t.blocks.born[row.block] <= row.tick < t.blocks.natural[row.block]
        _claim(bool(alive), f"{where}: block {row.block} is held by saves alone, or dead, at tick {row.tick}")
        _claim((row.block, row.tick) not in seen, f"{where}: block {row.block} has another at {row.tick}")
        _claim(bool(row.text), f"{where}: no text")
        seen.add((row.block, row.tick))


# -- sums ----------------------------------------------------------------------------------------------------


def _check_curve(t: Timeline) -> None:
    """The curve is the sum of the blocks alive, by category too; peak, `alive` and `op_at` agree with it."""
    b, curve = t.blocks, t.curve
    _claim(curve.shape == (t.ticks,), f"curve: {curve.shape} for {t.ticks} ticks")
    ends = _slow_ends(t)
    _each(ends == t.ends, lambda i: f"block {i}: ends at {t.ends[i]}, and its lives at {ends[i]}")
    for tick in _ticks_to_compare(t):
        alive = (b.born <= tick) & (tick < ends)
        total = int(b.nbytes[alive].sum())
        _claim(total == curve[tick], f"tick {tick}: curve {curve[tick]}, and the blocks alive hold {total}")
    parts = np.zeros(t.ticks, np.int64)
    for part in t.curves().values():
        parts += part
    _each(parts == curve, lambda i: f"tick {i}: categories sum to {parts[i]}, and the curve is {curve[i]}")
    _claim(t.peak == max(curve.tolist(), default=0), f"peak {t.peak} is not the curve's maximum")
    if t.ticks:
        tick = t.peak_tick
        _claim(curve[tick] == t.peak, f"tick {tick}: the peak's, and the curve is {curve[tick]}")
        _claim(bool((curve[:tick] < t.peak).all()), f"tick {tick}: the peak is reached before")
        total = int(b.nbytes[t.alive(tick)].sum())
        _claim(total == t.peak, f"tick {tick}: blocks alive hold {total}, and the peak is {t.peak}")


def _check_facts(t: Timeline) -> None:
    """Facts speak their closed vocabularies, and the last step's peak is this Timeline's."""
    facts = t.facts
    _claim(facts.deaths in ("natural", "last"), f"facts.deaths is {facts.deaths!r}")
    words = ("measured", "partly assumed", "assumed 0")
    _claim(facts.scratch in words, f"facts.scratch is {facts.scratch!r}")
    if facts.step_peaks:
        last = facts.step_peaks[-1]
        _claim(last == t.peak, f"facts.step_peaks ends with {last}, and the peak is {t.peak}")


# -- small things --------------------------------------------------------------------------------------------


def _claim(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _each(holds: Array, message: Callable[[int], str]) -> None:
    """Raise with the message of the first row that breaks the law."""
    if not holds.all():
        raise AssertionError(message(int(np.argmin(holds))))


def _within(column: Array, where: str, least: int, stop: int) -> None:
    inside = (column >= least) & (column < stop)
    _each(inside, lambda i: f"{where}: row {i} is {column[i]}, outside {least} to {stop - 1}")


def _columns(t: Timeline) -> Iterator[tuple[Any, str, Any]]:
    for group in (t.blocks, t.saves, t.calls, t.ops):
        for field in fields(group):
            yield group, field.name, getattr(group, field.name)


def _phase_codes(t: Timeline, ticks: Array) -> Array:
    """The code of the phase that runs at each tick."""
    starts = np.array([span.start for span in t.phases], np.int64)
    codes = np.array([PHASE_CODE[span.phase] for span in t.phases] or [_BEFORE])
    return codes[np.maximum(np.searchsorted(starts, ticks, side="right") - 1, 0)]


def _check_open(t: Timeline, calls: Array, ticks: Array, what: str) -> None:
    """Rows that name a call lie between its entry and its exit."""
    rows = np.flatnonzero(calls >= 0)
    call, tick = calls[rows], ticks[rows]
    inside = (t.calls.enter[call] < tick) & (tick < t.calls.exit[call])
    _each(inside, lambda i: f"{what} {rows[i]}: at {tick[i]}, call {call[i]} is not open")


def _check_alive(t: Timeline, blocks: Ragged, ticks: Array, what: str, role: str) -> None:
    """Blocks named at a tick live then: born <= tick <= end.

    The end itself is real: an op that resizes a storage ends the old block at its own tick and makes the new
    one there. Every other op holds its arguments beyond its tick.
    """
    owner, block = blocks.owners(), blocks.values
    tick, ends = ticks[owner], t.ends
    alive = (t.blocks.born[block] <= tick) & (tick <= ends[block])
    _each(
        alive,
        lambda i: (
            f"{what} {owner[i]}: block {block[i]} is {role} at tick {tick[i]}, "
            f"and lives from {t.blocks.born[block[i]]} to {ends[block[i]]}"
        ),
    )


def _slow_ends(t: Timeline) -> Array:
    """Each block's end, once more and save by save."""
    ends = t.blocks.natural.tolist()
    s = t.saves
    for row, (block, release) in enumerate(zip(s.block.tolist(), s.release.tolist(), strict=True)):
        ends[block] = max(ends[block], release, *s.local_ends[row])
    return np.array(ends, np.int64)


def _ticks_to_compare(t: Timeline) -> list[int]:
    if len(t.blocks) * t.ticks <= _MOST_CELLS:
        return list(range(t.ticks))
    return sorted(set(np.linspace(0, t.ticks - 1, 1000).astype(np.int64).tolist()))
