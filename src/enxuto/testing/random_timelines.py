"""Random Timelines that obey every law of `check_timeline`: numpy alone makes them, no model is traced."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..records import (
    CATEGORY_CODE,
    PHASE_CODE,
    Accumulation,
    Blocks,
    Calls,
    Category,
    Facts,
    Holder,
    Ops,
    Phase,
    PhaseSpan,
    Ragged,
    Saves,
    Site,
    Timeline,
    World,
)

Array = np.ndarray[Any, np.dtype[Any]]

_NONE = -1
_BEFORE = PHASE_CODE[Phase.BEFORE]
#: A random clock runs in rounds of four ticks, one lane for each kind of event: so no two kinds meet.
_ROUND = 4
_CALL_LANE, _OP_LANE, _SAVE_LANE = 0, 1, 2
_STANDING = [
    CATEGORY_CODE[c] for c in (Category.PARAMETER, Category.OPTIMIZER_STATE, Category.BUFFER, Category.INPUT)
]
_TEMPORARY = {
    Phase.FORWARD: CATEGORY_CODE[Category.TEMPORARY_FORWARD],
    Phase.BACKWARD: CATEGORY_CODE[Category.TEMPORARY_BACKWARD],
    Phase.OPTIMIZER: CATEGORY_CODE[Category.TEMPORARY_OPTIMIZER],
}


def random_timeline(
    seed: int, *, blocks: int = 60, saves: int = 30, calls: int = 12, ops: int = 50
) -> Timeline:
    """A valid Timeline of made-up lives.

    Args:
        seed: equal seeds and sizes give equal Timelines.
        blocks: rows of `blocks`: a fifth stood before the step, a tenth is scratch, ops made the others.
        saves: rows of `saves`; none without a block that can be saved.
        calls: rows of `calls`, nested at random within the forward.
        ops: rows of `ops`; without one, every block stood before the step.

    Example:
        >>> timeline = random_timeline(7, blocks=100)
        >>> len(timeline.blocks), timeline == random_timeline(7, blocks=100)
        (100, True)
    """
    rng = np.random.default_rng(seed)
    clock = _Clock(rng, rounds=max(ops, 2 * calls, saves, 8))
    call_rows, inner = _calls(rng, clock, calls)
    op_rows = _ops(rng, clock, inner, ops)
    block_rows, op_scratch = _blocks(rng, clock, op_rows, blocks)
    save_rows = _saves(rng, clock, inner, block_rows, saves)
    _name_categories(rng, block_rows, save_rows["block"])
    ends = _ends(block_rows, save_rows)
    timeline = Timeline(
        world=World.DRY,
        ticks=clock.ticks,
        blocks=Blocks(**block_rows),
        saves=Saves(**save_rows),
        calls=Calls(**call_rows, arguments=_used(rng, block_rows["born"], ends, call_rows["enter"])),
        ops=Ops(
            **op_rows,
            scratch=op_scratch,
            reads=_used(rng, block_rows["born"], ends, op_rows["tick"]),
            writes=_used(rng, block_rows["born"], ends, op_rows["tick"]),
        ),
        phases=clock.phases,
        accumulations=_accumulations(block_rows, ends),
        names=_NAMES,
        sites=_SITES,
        signatures=_SIGNATURES,
        facts=Facts(workload=f"random {seed}", torch="none", batch_size=int(rng.integers(0, 9))),
    )
    return replace(timeline, holders=_holders(timeline))


_NAMES = (
    *(f"layers.{i}" for i in range(6)),
    *(f"aten.op{i}.default" for i in range(6)),
    "Op0Backward0",
    "w",
    "",
)
_MODULES, _OPS, _NODES = (0, 6), (6, 12), (12, 13)
_SITES = tuple(Site(file=f"net{i % 2}.py", line=10 + i, function="forward") for i in range(4))
_SIGNATURES = tuple(f'["aten.op{i}.default", [], {{}}]' for i in range(6))


class _Clock:
    """The ticks of a step: forward, backward, forward, optimizer, forward."""

    def __init__(self, rng: np.random.Generator, rounds: int) -> None:
        self.rounds = 2 * rounds
        self.ticks = self.rounds * _ROUND
        inside = range(1, self.rounds)
        marks = np.sort(rng.choice(np.array(inside), 4, replace=False)) * _ROUND
        edges = [0, *marks.tolist(), self.ticks]
        order = (Phase.FORWARD, Phase.BACKWARD, Phase.FORWARD, Phase.OPTIMIZER, Phase.FORWARD)
        self.phases = tuple(
            PhaseSpan(phase=phase, start=start, stop=stop)
            for phase, start, stop in zip(order, edges, edges[1:], strict=False)
        )
        self._starts = np.array(edges[:-1], np.int64)
        self._codes = np.array([PHASE_CODE[phase] for phase in order], np.int8)

    def phase_of(self, ticks: Array) -> Array:
        codes: Array = self._codes[np.searchsorted(self._starts, ticks, side="right") - 1]
        return codes

    def distinct(self, rng: np.random.Generator, count: int, lane: int) -> Array:
        """`count` increasing ticks in one lane."""
        if not count:
            return np.zeros(0, np.int64)
        stride = self.rounds // count
        return (np.arange(count) * stride + rng.integers(0, stride, count)) * _ROUND + lane

    def later(self, rng: np.random.Generator, ticks: Array, lane: int, spread: float) -> Array:
        """Ticks of a lane no earlier than these, by up to `spread` of what is left of the clock."""
        left = np.maximum(self.ticks - _ROUND - ticks, 0)
        moved = ticks + (rng.random(len(ticks)) * spread * left).astype(np.int64)
        return np.minimum(moved + (lane - moved) % _ROUND, self.ticks)  # type: ignore[no-any-return]


class _Innermost:
    """Which call is the innermost open one at a tick."""

    def __init__(self, ticks: Array, calls: Array) -> None:
        self._ticks, self._calls = ticks, np.concatenate([[_NONE], calls]).astype(np.int64)

    def at(self, ticks: Array) -> Array:
        calls: Array = self._calls[np.searchsorted(self._ticks, ticks, side="right")]
        return calls


def _calls(rng: np.random.Generator, clock: _Clock, count: int) -> tuple[dict[str, Any], _Innermost]:
    """Random brackets over increasing ticks."""
    ticks = clock.distinct(rng, 2 * count, _CALL_LANE)
    enter, leave = np.zeros(count, np.int64), np.zeros(count, np.int64)
    parent = np.full(count, _NONE, np.int64)
    open_after = np.full(2 * count, _NONE, np.int64)
    stack: list[int] = []
    begun = 0
    opens = rng.random(2 * count) < 0.5
    for event, tick in enumerate(ticks.tolist()):
        if begun < count and (not stack or opens[event]):
            parent[begun] = stack[-1] if stack else _NONE
            enter[begun] = tick
            stack.append(begun)
            begun += 1
        else:
            leave[stack.pop()] = tick
        open_after[event] = stack[-1] if stack else _NONE
    rows = {
        "module": rng.integers(*_MODULES, count, dtype=np.int32),
        "parent": parent,
        "phase": clock.phase_of(enter),
        "enter": enter,
        "exit": leave,
        "hooked": rng.random(count) < 0.9,
        "extras": rng.integers(0, 3, count).astype(np.int32),
        "returns": np.full(count, _NONE, np.int64),
    }
    return rows, _Innermost(ticks, open_after)


def _ops(rng: np.random.Generator, clock: _Clock, inner: _Innermost, count: int) -> dict[str, Any]:
    tick = clock.distinct(rng, count, _OP_LANE)
    phase = clock.phase_of(tick)
    backward = phase == PHASE_CODE[Phase.BACKWARD]
    return {
        "name": rng.integers(*_OPS, count, dtype=np.int32),
        "tick": tick,
        "phase": phase,
        "call": inner.at(tick),
        "site": rng.integers(_NONE, len(_SITES), count, dtype=np.int32),
        "node": np.where(backward, _NODES[0], _NONE).astype(np.int32),
        "signature": rng.integers(_NONE, len(_SIGNATURES), count, dtype=np.int32),
        "flops": rng.integers(0, 10**6, count),
    }


def _blocks(
    rng: np.random.Generator, clock: _Clock, ops: dict[str, Any], count: int
) -> tuple[dict[str, Any], Array]:
    """Block rows, their category still unknown but for scratch, and the scratch of every op."""
    op_count = len(ops["tick"])
    scratch_count = min(count // 10, op_count)
    standing_count = count // 5 if op_count else count
    made = rng.integers(0, max(op_count, 1), count - standing_count - scratch_count)
    scratched = rng.permutation(op_count)[:scratch_count]
    op = np.concatenate([np.full(standing_count, _NONE), made, scratched]).astype(np.int64)
    stands, is_scratch = op < 0, np.arange(count) >= count - scratch_count
    nbytes = rng.integers(1, 2**20, count)

    def of_op(column: str, otherwise: int) -> Array:
        return np.where(stands, otherwise, ops[column][op] if op_count else otherwise)

    born = of_op("tick", 0).astype(np.int64)
    natural = clock.later(rng, born + 1, lane=3, spread=rng.choice([0.02, 0.3, 1.0]))
    natural[is_scratch] = born[is_scratch] + 1
    natural[stands & (rng.random(count) < 0.9)] = clock.ticks
    scratch = np.zeros(op_count, np.int64)
    scratch[scratched] = nbytes[is_scratch]
    rows = {
        "nbytes": nbytes,
        "category": np.where(is_scratch, CATEGORY_CODE[Category.SCRATCH], _NONE).astype(np.int8),
        "phase": of_op("phase", _BEFORE).astype(np.int8),
        "born": born,
        "natural": natural,
        "name": np.full(count, len(_NAMES) - 2, np.int32),
        "op": op,
        "call": of_op("call", _NONE).astype(np.int64),
        "site": of_op("site", _NONE).astype(np.int32),
    }
    return rows, scratch


def _saves(
    rng: np.random.Generator, clock: _Clock, inner: _Innermost, blocks: dict[str, Any], count: int
) -> dict[str, Any]:
    """Saves of blocks that live beyond a whole round, packed during their natural life."""
    packed = blocks["born"] + (_SAVE_LANE - blocks["born"]) % _ROUND
    fit = np.flatnonzero((blocks["category"] == _NONE) & (packed <= blocks["natural"]))
    count = count if len(fit) else 0
    block = rng.choice(fit, count) if count else np.zeros(0, np.int64)
    first, last = packed[block], blocks["natural"][block]
    rounds = (last - first) // _ROUND
    pack = first + (rng.random(count) * (rounds + 1)).astype(np.int64) * _ROUND
    pack = np.minimum(pack, clock.ticks - _ROUND + _SAVE_LANE)
    uses = rng.integers(0, 3, count)
    offsets = np.concatenate([[0], np.cumsum(uses)]).astype(np.int64)
    owner = np.repeat(np.arange(count), uses)
    unpack = clock.later(rng, pack[owner], _SAVE_LANE, 0.5)
    last_unpack = pack.copy()
    np.maximum.at(last_unpack, owner, unpack)
    return {
        "block": block,
        "pack": pack,
        "unpacks": Ragged(offsets=offsets, values=unpack),
        "local_ends": Ragged(offsets=offsets, values=clock.later(rng, unpack, 3, 0.1)),
        "release": clock.later(rng, last_unpack, 3, 0.2),
        "call": inner.at(pack),
        "node": rng.integers(*_NODES, count, dtype=np.int32),
    }


def _name_categories(rng: np.random.Generator, blocks: dict[str, Any], saved: Array) -> None:
    """Give every block that is no scratch its category: by its saves, its phase and by chance."""
    category, phase = blocks["category"], blocks["phase"]
    open_rows = category == _NONE
    category[open_rows & (phase == _BEFORE)] = CATEGORY_CODE[Category.OTHER]
    for kind, code in _TEMPORARY.items():
        category[open_rows & (phase == PHASE_CODE[kind])] = code
    saved_rows = np.zeros(len(category), bool)
    saved_rows[saved] = True
    category[open_rows & saved_rows] = CATEGORY_CODE[Category.SAVED_ACTIVATION]
    chance = rng.random(len(category))
    born_backward = phase == PHASE_CODE[Phase.BACKWARD]
    category[open_rows & born_backward & (chance < 0.3)] = CATEGORY_CODE[Category.GRADIENT]
    standing = np.flatnonzero(open_rows & (phase == _BEFORE) & (chance < 0.9))
    category[standing] = rng.choice(_STANDING, len(standing))


def _ends(blocks: dict[str, Any], saves: dict[str, Any]) -> Array:
    ends: Array = blocks["natural"].copy()
    np.maximum.at(ends, saves["block"], saves["release"])
    np.maximum.at(ends, saves["block"][saves["local_ends"].owners()], saves["local_ends"].values)
    return ends


def _used(rng: np.random.Generator, born: Array, ends: Array, ticks: Array) -> Ragged:
    """For each of these ticks, some blocks that are alive then: two uses a tick are tried."""
    count = 2 * len(ticks) if len(born) else 0
    block = rng.integers(0, max(len(born), 1), count)
    moment = born[block] + (rng.random(count) * (ends[block] - born[block])).astype(np.int64)
    row = np.searchsorted(ticks, moment)
    fits = row < len(ticks)
    row, block = row[fits], block[fits]
    fits = ticks[row] < ends[block]
    row, block = row[fits], block[fits]
    order = np.argsort(row, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(ticks)))]).astype(np.int64)
    return Ragged(offsets=offsets, values=block[order].astype(np.int64))


def _holders(timeline: Timeline) -> tuple[Holder, ...]:
    """What holds the first temporaries that are in their natural life at the peak."""
    blocks, tick = timeline.blocks, timeline.peak_tick
    temporary = np.isin(blocks.category, list(_TEMPORARY.values()))
    held = np.flatnonzero(temporary & (blocks.born <= tick) & (tick < blocks.natural))
    return tuple(
        Holder(block=block, tick=tick, text=f"local variable `x{block}` of forward() at net.py:7")
        for block in held[:3].tolist()
    )


def _accumulations(blocks: dict[str, Any], ends: Array) -> tuple[Accumulation, ...]:
    """Each gradient is complete at its birth, at most one a tick, as long as there are parameters."""
    category = blocks["category"]
    parameters = np.flatnonzero(
        (category == CATEGORY_CODE[Category.PARAMETER]) & (ends == ends.max(initial=0))
    )
    gradients = np.flatnonzero(category == CATEGORY_CODE[Category.GRADIENT])
    ticks, first = np.unique(blocks["born"][gradients], return_index=True)
    return tuple(
        Accumulation(tick=tick, parameter=parameter, gradient=gradient)
        for tick, parameter, gradient in zip(
            ticks.tolist(), parameters.tolist(), gradients[first].tolist(), strict=False
        )
        if ends[parameter] > tick
    )
