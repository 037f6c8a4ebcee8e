"""Regions: stretches of the forward that could run again in the backward, and what that would change.

The law (`docs/design.md`): a region's saves are dropped, so that a block lives only its natural life and the
saves that others hold; its tensor arguments are held until the last of those saves would have been released;
at the first unpack of one of them the region runs again, up to the pack of the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from ..records import CATEGORIES, CATEGORY_CODE, PHASE_CODE, STATIC, Category, Phase, Timeline
from .edits import NOTHING, Array, Births, Edit, Rerun, position, tick_of

_STATIC = np.array([CATEGORY_CODE[category] for category in CATEGORIES if category in STATIC])
_BUFFER = CATEGORY_CODE[Category.BUFFER]
_SCRATCH = CATEGORY_CODE[Category.SCRATCH]
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")

#: Bytes of a CPU generator's state, as `torch.get_rng_state()` hands it out.
RANDOM_STATE = 5056

#: Ops worth keeping when a region runs again: they cost the most and are told apart by name.
PRODUCTS = (
    "aten.addmm.",
    "aten.mm.",
    "aten.bmm.",
    "aten.baddbmm.",
    "aten.convolution.",
    "aten._scaled_dot_product",
    "aten._flash_attention",
    "aten._efficient_attention",
    "aten.mkldnn_rnn_layer.",
)


class Refused(Exception):
    """A region cannot run again; the message says why."""


@dataclass(frozen=True, slots=True)
class Region:
    """Calls that run one after the other, as one stretch: `enter` to `exit`, with their outer arguments."""

    calls: tuple[int, ...]
    enter: int
    exit: int
    arguments: tuple[int, ...]

    def __contains__(self, other: Region) -> bool:
        """Whether another region lies within this one, and is not the same stretch."""
        within = self.enter <= other.enter and other.exit <= self.exit
        return within and (self.enter, self.exit) != (other.enter, other.exit)


@dataclass(slots=True)
class Lives:
    """What every region of a Timeline asks about, looked up once."""

    timeline: Timeline
    ends: Array = field(init=False)
    static: Array = field(init=False)
    last_use: Array = field(init=False)  # of a save: the end of its last use; its release where there is none
    first_unpack: Array = field(init=False)  # of a save; ticks where never
    numbers: Array = field(init=False)  # blocks that a node keeps of a number, out of sight of any hook
    by_pack: Array = field(init=False)  # saves seen by hooks, in the order of their packs
    packs: Array = field(init=False)
    by_birth: Array = field(init=False)
    births: Array = field(init=False)
    written: Array = field(init=False)  # blocks, one per write
    written_at: Array = field(init=False)
    counts: Array = field(init=False)  # ops that count a batch norm's batches: once, not again
    is_product: Array = field(init=False)  # of an op: matrix product, convolution or attention

    def __post_init__(self) -> None:
        t = self.timeline
        self.ends = t.ends
        self.static = np.isin(t.blocks.category, _STATIC)
        owners = t.saves.local_ends.owners()
        self.last_use = np.zeros(len(t.saves), np.int64)
        np.maximum.at(self.last_use, owners, t.saves.local_ends.values)
        self.last_use = np.where(self.last_use > 0, self.last_use, t.saves.release)
        self.first_unpack = np.full(len(t.saves), t.ticks, np.int64)
        np.minimum.at(self.first_unpack, owners, t.saves.unpacks.values)
        number = (
            t.saves.pack == t.blocks.born[t.saves.block]
        )  # kept from birth: an op's result is packed later
        self.numbers = np.zeros(len(t.blocks), bool)
        self.numbers[t.saves.block[number]] = True
        order = np.argsort(t.saves.pack, kind="stable")
        self.by_pack = order[~number[order]]
        self.packs = t.saves.pack[self.by_pack]
        self.by_birth = np.argsort(t.blocks.born, kind="stable")
        self.births = t.blocks.born[self.by_birth]
        writers = t.ops.writes.owners()
        self.written = t.ops.writes.values
        self.written_at = t.ops.tick[writers]
        counters = [
            block
            for block in np.flatnonzero(t.blocks.category == _BUFFER).tolist()
            if t.text(int(t.blocks.name[block])).endswith("num_batches_tracked")
        ]
        self.counts = writers[np.isin(self.written, counters)]
        named = [index for index, name in enumerate(t.names) if name.startswith(PRODUCTS)]
        self.is_product = np.isin(t.ops.name, named)

    def saves_packed(self, start: int, stop: int) -> Array:
        """Saves that a checkpoint drops, packed at start < t < stop, in order."""
        return self.by_pack[slice(*np.searchsorted(self.packs, [start + 1, stop]))]

    def blocks_born(self, start: int, stop: int) -> Array:
        """Blocks born at start < t < stop, in order."""
        return self.by_birth[slice(*np.searchsorted(self.births, [start + 1, stop]))]

    def ops_within(self, start: int, stop: int) -> Array:
        """Ops at start < t < stop."""
        return np.arange(*np.searchsorted(self.timeline.ops.tick, [start + 1, stop]))


def region_of(timeline: Timeline, calls: Sequence[int]) -> Region:
    """The region of consecutive calls: only what comes from outside counts as an argument.

    Raises:
        Refused: the calls do not follow one another, or something between them would be lost.
    """
    c = timeline.calls
    enter, leave = int(c.enter[calls[0]]), int(c.exit[calls[-1]])
    arguments = dict.fromkeys(c.arguments[calls[0]])
    for before, after in pairwise(calls):
        _follow_directly(timeline, int(before), int(after))
    return Region(tuple(int(call) for call in calls), enter, leave, tuple(arguments))


def _follow_directly(timeline: Timeline, before: int, after: int) -> None:
    c, o = timeline.calls, timeline.ops
    if c.parent[before] != c.parent[after]:
        raise Refused("they are not called by the same module")
    gap = int(c.exit[before]), int(c.enter[after])
    if gap[1] < gap[0] or np.diff(np.searchsorted(o.tick, gap))[0]:
        raise Refused("something runs between them")
    if len(c.arguments[before]) != 1 or len(c.arguments[after]) != 1:
        raise Refused("they take more than one tensor")
    (passed,) = c.arguments[after]
    made_inside = c.enter[before] < timeline.blocks.born[passed] < c.exit[before]
    if not made_inside or c.returns[before] != passed:
        raise Refused("the second does not take what the first returns, and nothing else")
    if c.extras[before] != c.extras[after]:
        raise Refused("they take different arguments besides the tensor that passes")
    kept_for = int(c.exit[after]), int(timeline.blocks.natural[passed])
    events = np.searchsorted(o.tick, kept_for), np.searchsorted(c.enter, kept_for)
    if kept_for[1] > kept_for[0] and any(np.diff(found)[0] for found in events):
        raise Refused("their caller keeps what passes between them")


def products(lives: Lives, region: Region) -> Array:
    """Ops of the region that are matrix products, convolutions or attention, in the order they run."""
    ops = lives.ops_within(region.enter, region.exit)
    return ops[lives.is_product[ops]]


def recomputation(
    lives: Lives,
    region: Region,
    *,
    kept: Sequence[int] = (),
    random: bool = False,
    nested: Edit = NOTHING,
) -> Edit:
    """The edit that runs a region again in the backward.

    Args:
        lives: of the plain Timeline.
        region: what runs again.
        kept: ops (indices) whose outputs are kept instead.
        random: a generator's state is kept from the region's entry and set while it runs again.
        nested: regions inside this one that run again themselves; joined into the result.

    Raises:
        Refused: torch would refuse, or would compute something else.
    """
    t = lives.timeline
    own = lives.saves_packed(region.enter, region.exit)
    own = own[~np.isin(own, nested.dropped)]
    if not len(own) and not len(nested.hold_pack):
        raise Refused("it saves nothing")
    at = int(min(_least(lives.first_unpack[own]), _least(nested.hold_unpack[nested.hold_pack >= 0])))
    if at >= t.ticks:
        raise Refused("it saves nothing that the backward asks for")
    if np.diff(t.saves.unpacks.offsets)[own].max(initial=0) > 1:
        raise Refused("the backward asks for one of its saves more than once")
    if at < region.exit:
        raise Refused("its backward begins before its forward has ended")
    _check_repeatable(lives, region, at)

    inner = np.flatnonzero(nested.hold_pack >= 0)
    stop = int(max(_most(t.saves.pack[own]), _most(nested.hold_pack[inner])))
    counted = lives.counts[(t.ops.tick[lives.counts] > region.enter) & (t.ops.tick[lives.counts] < stop)]
    left_out = frozenset([*(int(op) for op in kept), *counted.tolist()])
    rerun = Rerun(start=region.enter, stop=stop, at=at, skipped=left_out)
    nested = nested.led(at, rerun.ticks)

    # the saves of this region: until when each is in use once it has been made again, and its release
    blocks = np.concatenate([t.saves.block[own], nested.hold_block[inner]])
    used = np.concatenate([position(lives.last_use[own]), nested.hold_use[inner]])
    last = int(np.concatenate([position(t.saves.release[own]), nested.hold_end[inner]]).max())

    born = lives.blocks_born(region.enter, stop)
    where = np.full(len(t.blocks), -1, np.int64)
    where[born] = np.arange(len(born))
    end = rerun.again(np.minimum(t.blocks.natural[born], stop + 1))
    mine = where[blocks] >= 0
    np.maximum.at(end, where[blocks[mine]], used[mine])
    end[lives.numbers[born]] = rerun.end  # kept by the nodes that run again, and in the forward all the same
    skipped = np.isin(t.blocks.op[born], list(left_out))
    outputs = np.isin(t.blocks.op[born], list(kept)) & (t.blocks.category[born] != _SCRATCH)
    check_kept(lives, born[outputs], region)

    in_use = np.full(len(t.blocks), rerun.end)  # the arguments, while and after this runs again
    np.maximum.at(in_use, blocks[~mine], used[~mine])
    holds = [(b, region.enter, at, int(in_use[b]), last) for b in dict.fromkeys(region.arguments)]
    outside = np.setdiff1d(blocks[~mine & ~lives.static[blocks]], np.array(region.arguments, np.int64))
    holds += [(int(block), -1, -1, 0, int(in_use[block])) for block in outside]
    holds += [(int(b), -1, -1, 0, int(e)) for b, e in zip(born[outputs], end[outputs], strict=True)]

    again = born[~skipped]
    columns = again, t.blocks.nbytes[again], rerun.again(t.blocks.born[again]), end[~skipped]
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    entered = tick_of(nested.births.born[nested.births.of < 0])
    for tick in entered[(entered >= region.enter) & (entered <= stop)].tolist():
        rows.append(
            (-1, RANDOM_STATE, int(rerun.again(tick)), rerun.end)
        )  # an inner region takes its own anew
    if random:
        rows.append((-1, RANDOM_STATE, int(position(region.enter)), last))
        rows.append((-1, RANDOM_STATE, int(rerun.again(region.enter)), rerun.end))
    table = np.array(holds, np.int64).reshape(-1, 5)
    edit = Edit(
        dropped=own,
        hold_block=table[:, 0],
        hold_pack=table[:, 1],
        hold_unpack=table[:, 2],
        hold_use=table[:, 3],
        hold_end=table[:, 4],
        births=Births.of_rows(rows),
        reruns=(rerun,),
    )
    return edit if nested is NOTHING else edit.joined(_without_saves(nested))


def _without_saves(nested: Edit) -> Edit:
    """An inner edit whose saved arguments have become saves of the region around it."""
    free = nested.hold_pack < 0
    return replace(
        nested,
        hold_block=nested.hold_block[free],
        hold_pack=nested.hold_pack[free],
        hold_unpack=nested.hold_unpack[free],
        hold_use=nested.hold_use[free],
        hold_end=nested.hold_end[free],
    )


def _least(ticks: Array) -> int:
    return int(ticks.min(initial=np.iinfo(np.int64).max))


def _most(ticks: Array) -> int:
    return int(ticks.max(initial=-1))


def _check_repeatable(lives: Lives, region: Region, at: int) -> None:
    """Refuse a region whose second run would not see, or would spoil, what the first one saw."""
    t = lives.timeline
    within = (lives.written_at > region.enter) & (lives.written_at < region.exit)
    foreign = lives.written[within]
    foreign = foreign[t.blocks.born[foreign] <= region.enter]
    for block in dict.fromkeys(foreign.tolist()):
        if not _is_statistic(t, block):
            raise Refused(f"it writes in place into {_named(t, block)}, which comes from outside")
    ops = lives.ops_within(region.enter, region.exit)
    first, stop = (ops[0], ops[-1] + 1) if len(ops) else (0, 0)
    offsets = t.ops.reads.offsets
    read = np.unique(t.ops.reads.values[offsets[first] : offsets[stop]])
    outer = np.union1d(
        read[t.blocks.born[read] <= region.enter], np.array(region.arguments, np.int64)
    ).astype(np.int64)
    spoilt = np.zeros(len(t.blocks), bool)
    between = (lives.written_at > region.enter) & (lives.written_at < at)
    spoilt[lives.written[between]] = True
    for block in outer[spoilt[outer]].tolist():
        if not _is_statistic(t, block):
            raise Refused(f"{_named(t, block)} is changed in place before the region would run again")
    gone = outer[(t.blocks.natural[outer] <= at) & ~lives.static[outer]]
    missing = np.setdiff1d(gone, np.array(region.arguments, np.int64))
    if len(missing):
        raise Refused(f"{_named(t, int(missing[0]))} is read without being an argument, and is gone by then")


def check_kept(lives: Lives, outputs: Array, region: Region) -> None:
    """Refuse outputs that cannot stand in for their op: changed in place, or alive outside the region."""
    t = lives.timeline
    if len(np.intersect1d(outputs, lives.written)):
        raise Refused("the output of a kept op is changed in place")
    saved = np.isin(t.saves.block, outputs)
    outside = (t.saves.pack <= region.enter) | (t.saves.pack >= region.exit)
    if (saved & outside).any() or (t.blocks.natural[outputs] > region.exit).any():
        raise Refused("the output of a kept op leaves the region")


def _is_statistic(timeline: Timeline, block: int) -> bool:
    name = timeline.text(int(timeline.blocks.name[block]))
    return bool(timeline.blocks.category[block] == _BUFFER) and name.endswith(_STATISTICS)


def _named(timeline: Timeline, block: int) -> str:
    row = timeline.blocks[block]
    if row.name >= 0 and timeline.text(row.name):
        return f"{row.category.value} {timeline.text(row.name)}"
    op = timeline.text(int(timeline.ops.name[row.op])) if row.op >= 0 else row.category.value
    return f"the output of {op.removeprefix('aten.').rpartition('.')[0] or op}"


def in_forward(timeline: Timeline, call: int) -> bool:
    """Whether a call belongs to the forward, and saved tensors could be seen in it."""
    return bool(timeline.calls.phase[call] == PHASE_CODE[Phase.FORWARD] and timeline.calls.hooked[call])
