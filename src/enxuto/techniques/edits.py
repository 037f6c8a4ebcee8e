"""Edits of block lives: what a lever does to a Timeline, as data, and the Timeline that results.

An edit never changes the order of what it leaves; it drops saves, holds blocks longer, and runs stretches of
the clock again. Its instants are *positions* on a refined clock: tick `t` of the Timeline is `t << 24`, and
`(t << 24) + i` is the i-th tick of what runs again just after `t`. Edits on one Timeline therefore merge
without renumbering one another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..records import (
    CATEGORY_CODE,
    PHASE_CODE,
    Accumulation,
    Blocks,
    Calls,
    Category,
    Ops,
    Phase,
    PhaseSpan,
    Ragged,
    Saves,
    Timeline,
)

Array = np.ndarray[Any, np.dtype[Any]]

_BITS = 24
_NO_TICKS = np.zeros(0, np.int64)


def position(tick: Any, inside: Any = 0) -> Any:
    """Position of a tick, or of the `inside`-th tick of what runs again just after it."""
    return (tick << _BITS) + inside


def tick_of(position: Any) -> Any:
    """The Timeline's tick at or after which a position stands."""
    return position >> _BITS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rerun:
    """The ticks start <= t <= stop of the forward, run again just after tick `at`; `skipped` ops (indices)
    are not run again, since their outputs were kept. Its i-th tick (from 1) repeats tick start + i - 1."""

    start: int
    stop: int
    at: int
    skipped: frozenset[int] = frozenset()
    lead: int = 0  # ticks of the enclosing region that runs again first, at the same tick

    @property
    def ticks(self) -> int:
        return self.stop - self.start + 1

    @property
    def end(self) -> int:
        """The position just after its last tick."""
        return int(position(self.at, self.lead + self.ticks + 1))

    def again(self, ticks: Any) -> Any:
        """The positions at which ticks of the forward are repeated."""
        return position(self.at, self.lead + ticks - self.start + 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Births:
    """Blocks that an edit brings to life: a copy of block `of` (-1: none, a random state), `nbytes`, alive
    from position `born` to position `end`."""

    of: Array
    nbytes: Array
    born: Array
    end: Array

    @classmethod
    def of_rows(cls, rows: Iterable[tuple[int, int, int, int]]) -> Births:
        """From rows (of, nbytes, born, end)."""
        table = np.array(list(rows), np.int64).reshape(-1, 4)
        return cls(of=table[:, 0], nbytes=table[:, 1], born=table[:, 2], end=table[:, 3])

    def joined(self, other: Births) -> Births:
        """These and those."""
        return Births(**{n: np.concatenate([getattr(self, n), getattr(other, n)]) for n in self.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Edit:
    """What one lever changes.

    Attributes:
        dropped: indices of the saves that are not made any more.
        hold_block, hold_pack, hold_unpack, hold_use, hold_end: blocks kept in place of those saves. Arguments
            of what runs again are saves themselves: packed at a tick, asked for at another, in use until a
            position and released at one. With `hold_pack` -1 a block's natural life grows until `hold_end`.
        births: blocks that are born besides.
        reruns: what runs again, for ops, calls and FLOPs.
    """

    dropped: Array
    hold_block: Array
    hold_pack: Array
    hold_unpack: Array
    hold_use: Array
    hold_end: Array
    births: Births
    reruns: tuple[Rerun, ...]

    def extra_flops(self, timeline: Timeline) -> int:
        """Floating-point operations that run again."""
        return int(sum(timeline.ops.flops[rerun_ops(timeline, rerun)].sum() for rerun in self.reruns))

    def led(self, at: int, ticks: int) -> Edit:
        """The same, with `ticks` more that run again first after tick `at`."""

        def later(positions: Array) -> Array:
            after = (tick_of(positions) == at) & (positions > position(at))
            return np.where(after, positions + ticks, positions)

        births = replace(self.births, born=later(self.births.born), end=later(self.births.end))
        reruns = tuple(replace(r, lead=r.lead + ticks) if r.at == at else r for r in self.reruns)
        used, end = later(self.hold_use), later(self.hold_end)
        return replace(self, births=births, reruns=reruns, hold_use=used, hold_end=end)

    def joined(self, other: Edit) -> Edit:
        """Both at once; they must not drop one save twice."""
        join = np.concatenate
        return Edit(
            dropped=join([self.dropped, other.dropped]),
            hold_block=join([self.hold_block, other.hold_block]),
            hold_pack=join([self.hold_pack, other.hold_pack]),
            hold_unpack=join([self.hold_unpack, other.hold_unpack]),
            hold_use=join([self.hold_use, other.hold_use]),
            hold_end=join([self.hold_end, other.hold_end]),
            births=self.births.joined(other.births),
            reruns=self.reruns + other.reruns,
        )


NOTHING = Edit(
    dropped=_NO_TICKS,
    hold_block=_NO_TICKS,
    hold_pack=_NO_TICKS,
    hold_unpack=_NO_TICKS,
    hold_use=_NO_TICKS,
    hold_end=_NO_TICKS,
    births=Births.of_rows([]),
    reruns=(),
)


def joined(edits: Iterable[Edit]) -> Edit:
    """All edits at once."""
    total = NOTHING
    for edit in edits:
        total = total.joined(edit)
    return total


def rerun_ops(timeline: Timeline, rerun: Rerun) -> Array:
    """Indices of the ops that run again."""
    first, last = np.searchsorted(timeline.ops.tick, [rerun.start, rerun.stop + 1])
    ops = np.arange(first, last)
    return ops[~np.isin(ops, list(rerun.skipped))] if rerun.skipped else ops


def edited(timeline: Timeline, edit: Edit) -> Timeline:
    """The Timeline that the edit predicts: blocks, saves, calls and ops of the changed step on one clock."""
    if edit is NOTHING:
        return timeline
    clock = _Clock(edit.reruns)
    copies = _copies(timeline, edit)
    calls, call_ids, again_calls = _calls(timeline, edit, clock, copies)
    ops, op_ids, again_ops = _ops(timeline, edit, clock, copies, call_ids, again_calls)
    result = replace(
        timeline,
        ticks=int(clock(position(timeline.ticks))),
        blocks=_blocks(timeline, edit, clock, op_ids, again_ops, ops, call_ids),
        saves=_saves(timeline, edit, clock, call_ids),
        calls=calls,
        ops=ops,
        holders=(),  # they were looked for in the plain step
        phases=tuple(
            PhaseSpan(phase=s.phase, start=int(clock(position(s.start))), stop=int(clock(position(s.stop))))
            for s in timeline.phases
        ),
        accumulations=tuple(
            Accumulation(tick=int(clock(position(a.tick))), parameter=a.parameter, gradient=a.gradient)
            for a in timeline.accumulations
        ),
    )
    result = replace(
        result,
        calls=replace(calls, arguments=_alive(result, edit, calls.arguments, calls.enter)),
        ops=replace(
            ops,
            reads=_alive(result, edit, ops.reads, ops.tick),
            writes=_alive(result, edit, ops.writes, ops.tick),
        ),
    )
    return replace(result, facts=replace(timeline.facts, step_peaks=(result.peak,)))


def _alive(edited: Timeline, edit: Edit, blocks: Ragged, ticks: Array) -> Ragged:
    """Blocks named at ticks; where one is gone by then, the copy of it that is alive stands for it."""
    born, ends = edited.blocks.born, edited.ends
    named, tick = blocks.values.copy(), ticks[blocks.owners()]
    copies: dict[int, list[int]] = {}
    first = len(edited.blocks) - len(edit.births.of)
    for row, of in enumerate(edit.births.of.tolist()):
        copies.setdefault(of, []).append(first + row)
    for place in np.flatnonzero((born[named] > tick) | (tick > ends[named])).tolist():
        for copy in copies.get(int(named[place]), []):
            if born[copy] <= tick[place] <= ends[copy]:
                named[place] = copy
                break
    return Ragged(offsets=blocks.offsets, values=named)


class _Clock:
    """Positions to the ticks of the edited Timeline: every rerun pushes what follows it back."""

    def __init__(self, reruns: Sequence[Rerun]) -> None:
        ordered = sorted(reruns, key=lambda rerun: rerun.at)
        self._at = np.array([rerun.at for rerun in ordered], np.int64)
        self._pushed = np.cumsum([0, *(rerun.ticks for rerun in ordered)])

    def __call__(self, positions: Any) -> Any:
        ticks = tick_of(positions)
        inside = positions - position(ticks)
        return ticks + self._pushed[np.searchsorted(self._at, ticks)] + inside


def _copies(timeline: Timeline, edit: Edit) -> dict[tuple[int, int], int]:
    """The block that stands for a block in what runs again: by (its id, the rerun)."""
    first = len(timeline.blocks)
    rows = zip(edit.births.of.tolist(), _rerun_of(edit).tolist(), strict=True)
    return {(of, rerun): first + row for row, (of, rerun) in enumerate(rows) if of >= 0 <= rerun}


def _in_backward(timeline: Timeline, positions: Array) -> Array:
    """Whether positions of the plain step stand in a backward."""
    found = np.zeros(len(positions), bool)
    for span in timeline.phases:
        if span.phase is Phase.BACKWARD:
            found |= (tick_of(positions) >= span.start) & (tick_of(positions) < span.stop)
    return found


def _rerun_of(edit: Edit) -> Array:
    """The rerun (index) in which each block of an edit is born, -1 for none."""
    found = np.full(len(edit.births.born), -1, np.int64)
    for number, rerun in enumerate(edit.reruns):
        found[(edit.births.born >= rerun.again(rerun.start)) & (edit.births.born < rerun.end)] = number
    return found


def _calls(
    timeline: Timeline, edit: Edit, clock: _Clock, copies: dict[tuple[int, int], int]
) -> tuple[Calls, Array, dict[tuple[int, int], int]]:
    """Calls with those that run again; new indices of all, by (call, rerun or -1)."""
    c = timeline.calls
    sources: list[tuple[int, int, int, int]] = [  # (entry, exit, call, rerun or -1)
        (enter, leave, call, -1)
        for call, (enter, leave) in enumerate(
            zip(clock(position(c.enter)).tolist(), clock(position(c.exit)).tolist(), strict=True)
        )
    ]
    for number, rerun in enumerate(edit.reruns):
        within = np.flatnonzero((c.enter > rerun.start) & (c.enter <= rerun.stop))
        enters = clock(rerun.again(c.enter[within]))
        exits = clock(rerun.again(np.minimum(c.exit[within], rerun.stop + 1)))
        sources += [
            (int(a), int(b), int(call), number) for a, b, call in zip(enters, exits, within, strict=True)
        ]
    sources.sort()
    ids = {(call, rerun): index for index, (_, _, call, rerun) in enumerate(sources)}
    source = np.array([call for _, _, call, _ in sources], np.int64)
    backward = PHASE_CODE[Phase.BACKWARD]
    calls = Calls(
        module=c.module[source],
        parent=np.array(
            [
                ids.get((parent, rerun), -1)
                for (*_, rerun), parent in zip(sources, c.parent[source].tolist(), strict=True)
            ],
            np.int64,
        ),
        phase=np.where([rerun >= 0 for *_, rerun in sources], backward, c.phase[source]).astype(np.int8),
        enter=np.array([enter for enter, *_ in sources], np.int64),
        exit=np.array([leave for _, leave, *_ in sources], np.int64),
        arguments=_taken(c.arguments, source, copies, np.array([rerun for *_, rerun in sources], np.int64)),
        hooked=c.hooked[source],
        extras=c.extras[source],
        returns=np.array(
            [
                copies.get((block, rerun), block)
                for block, (*_, rerun) in zip(c.returns[source].tolist(), sources, strict=True)
            ],
            np.int64,
        ),
    )
    old = np.array([ids[call, -1] for call in range(len(c))], np.int64)
    return calls, old, ids


def _ops(
    timeline: Timeline,
    edit: Edit,
    clock: _Clock,
    copies: dict[tuple[int, int], int],
    call_ids: Array,
    again_calls: dict[tuple[int, int], int],
) -> tuple[Ops, Array, dict[tuple[int, int], int]]:
    """Ops with those that run again; new indices of all, by (op, rerun or -1)."""
    o = timeline.ops
    source, ticks = [np.arange(len(o))], [clock(position(o.tick))]
    ats = [np.full(len(o), -1, np.int64)]
    for number, rerun in enumerate(edit.reruns):
        rows = rerun_ops(timeline, rerun)
        source.append(rows)
        ticks.append(clock(rerun.again(o.tick[rows])))
        ats.append(np.full(len(rows), number, np.int64))
    tick = np.concatenate(ticks)
    order = np.argsort(tick, kind="stable")
    rows, at = np.concatenate(source)[order], np.concatenate(ats)[order]
    again = at >= 0
    call = np.where(o.call[rows] >= 0, call_ids[o.call[rows]], -1) if len(call_ids) else o.call[rows].copy()
    for index in np.flatnonzero(again):
        call[index] = again_calls.get((int(o.call[rows[index]]), int(at[index])), -1)
    ids = {(op, a): index for index, (op, a) in enumerate(zip(rows.tolist(), at.tolist(), strict=True))}
    ops = Ops(
        name=o.name[rows],
        tick=tick[order],
        phase=np.where(again, PHASE_CODE[Phase.BACKWARD], o.phase[rows]).astype(np.int8),
        call=call,
        site=o.site[rows],
        node=o.node[rows],
        signature=o.signature[rows],
        flops=o.flops[rows],
        scratch=o.scratch[rows],
        reads=_taken(o.reads, rows, copies, at),
        writes=_taken(o.writes, rows, copies, at),
    )
    return ops, np.array([ids[op, -1] for op in range(len(o))], np.int64), ids


def _taken(lists: Ragged, rows: Array, copies: dict[tuple[int, int], int], at: Array) -> Ragged:
    """Rows of a ragged column; in what runs again, a block's copy stands for it."""
    return Ragged.of(
        [
            lists[row] if a < 0 else tuple(copies.get((block, a), block) for block in lists[row])
            for row, a in zip(rows.tolist(), at.tolist(), strict=True)
        ]
    )


def _blocks(
    timeline: Timeline,
    edit: Edit,
    clock: _Clock,
    op_ids: Array,
    again_ops: dict[tuple[int, int], int],
    ops: Ops,
    call_ids: Array,
) -> Blocks:
    b, births = timeline.blocks, edit.births
    copied = births.of >= 0
    of = np.maximum(births.of, 0)
    reruns = _rerun_of(edit)
    op = np.array(
        [
            again_ops.get((int(o), int(rerun)), -1) if c and rerun >= 0 else -1
            for o, rerun, c in zip(b.op[of], reruns, copied, strict=True)
        ],
        np.int64,
    )
    scratch = copied & (b.category[of] == CATEGORY_CODE[Category.SCRATCH])
    inside = (reruns >= 0) | _in_backward(timeline, births.born)
    category = np.where(
        scratch,
        CATEGORY_CODE[Category.SCRATCH],
        np.where(
            inside,
            CATEGORY_CODE[Category.TEMPORARY_BACKWARD],
            CATEGORY_CODE[Category.TEMPORARY_FORWARD],
        ),
    )
    phase = np.where(inside, PHASE_CODE[Phase.BACKWARD], PHASE_CODE[Phase.FORWARD])
    held = np.zeros(len(b), np.int64)
    np.maximum.at(held, edit.hold_block, np.where(edit.hold_pack < 0, edit.hold_end, 0))
    natural = np.maximum(clock(position(b.natural)), clock(held))
    join = np.concatenate
    saved = CATEGORY_CODE[Category.SAVED_ACTIVATION]
    still = np.zeros(len(b), bool)
    kept = np.ones(len(timeline.saves), bool)
    kept[edit.dropped] = False
    still[timeline.saves.block[kept]] = True
    still[edit.hold_block] = True
    temporary = np.where(
        b.phase == PHASE_CODE[Phase.BACKWARD],
        CATEGORY_CODE[Category.TEMPORARY_BACKWARD],
        CATEGORY_CODE[Category.TEMPORARY_FORWARD],
    )
    own = np.where((b.category == saved) & ~still, temporary, b.category)
    own = np.where(np.isin(own, _TEMPORARY) & still & (own != saved), saved, own)
    return Blocks(
        nbytes=join([b.nbytes, births.nbytes]),
        category=join([own, category]).astype(np.int8),
        phase=join([b.phase, phase]).astype(np.int8),
        born=join([clock(position(b.born)), clock(births.born)]),
        natural=join([natural, clock(births.end)]),
        name=join([b.name, np.full(len(op), -1)]).astype(np.int32),
        op=join([np.where(b.op >= 0, op_ids[b.op], -1), op]),
        call=join(
            [
                np.where(b.call >= 0, call_ids[b.call], -1),
                np.where(op >= 0, ops.call[op], -1),
            ]
        ),
        site=join([b.site, np.where(copied, b.site[of], -1)]).astype(np.int32),
    )


def _saves(timeline: Timeline, edit: Edit, clock: _Clock, call_ids: Array) -> Saves:
    s = timeline.saves
    kept = np.ones(len(s), bool)
    kept[edit.dropped] = False
    rows = np.flatnonzero(kept)
    saved = np.flatnonzero(edit.hold_pack >= 0)
    asked = edit.hold_unpack[saved]
    in_use, held_ends = clock(edit.hold_use[saved]), clock(edit.hold_end[saved])
    join = np.concatenate
    ends = [[int(clock(position(t))) for t in s.local_ends[i]] for i in rows.tolist()]
    uses = [[int(clock(position(t))) for t in s.unpacks[i]] for i in rows.tolist()]
    return Saves(
        block=join([s.block[rows], edit.hold_block[saved]]),
        pack=join([clock(position(s.pack[rows])), clock(position(edit.hold_pack[saved]))]),
        unpacks=Ragged.of(uses + [[int(clock(position(u)))] for u in asked]),
        local_ends=Ragged.of(ends + [[int(e)] for e in in_use]),
        release=join([clock(position(s.release[rows])), held_ends]),
        call=join([np.where(s.call[rows] >= 0, call_ids[s.call[rows]], -1), np.full(len(saved), -1)]),
        node=join([s.node[rows], np.full(len(saved), -1)]).astype(np.int32),
    )


_TEMPORARY = [CATEGORY_CODE[category] for category in Category if category.value.startswith("temporary")]


def first_difference(simulated: Timeline, traced: Timeline) -> str:
    """Where a simulated curve leaves the traced one: sizes of births first, then the curve at each; "" nowhere."""
    sizes, curve, ops, ticks = _births(simulated)
    sizes_traced, curve_traced, ops_traced, _ = _births(traced)
    for birth, (a, b) in enumerate(zip(sizes, sizes_traced, strict=False)):
        if a != b:
            return f"birth {birth}: {a} B ({ops[birth]}) simulated, {b} B ({ops_traced[birth]}) traced"
    if len(sizes) != len(sizes_traced):
        return f"{len(sizes)} births simulated, {len(sizes_traced)} traced"
    for birth, (a, b, tick, following) in enumerate(
        zip(curve, curve_traced, ticks, [*ticks[1:], -1], strict=True)
    ):
        # two births at one tick of the simulation come one after the other in the trace
        if a != b and tick != following:
            return f"birth {birth} ({ops[birth]}): {a} B alive simulated, {b} B traced ({a - b:+} B)"
    return ""


def _births(timeline: Timeline) -> tuple[list[int], list[int], list[str], list[int]]:
    """Bytes, the curve, the op and the tick of every birth, in order."""
    b = timeline.blocks
    rows = np.flatnonzero((b.nbytes > 0) & (b.born > 0))
    rows = rows[np.argsort(b.born[rows], kind="stable")]
    ops = [timeline.text(int(timeline.ops.name[op])) if op >= 0 else "no op" for op in b.op[rows].tolist()]
    return b.nbytes[rows].tolist(), timeline.curve[b.born[rows]].tolist(), ops, b.born[rows].tolist()
