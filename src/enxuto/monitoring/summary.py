"""A recorded step in a few figures: its peak by category and phase, and what the situations ask of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..records import (
    CATEGORIES,
    CATEGORY_CODE,
    PHASE_CODE,
    STATIC,
    Category,
    PhaseCost,
    RecordedStep,
    Share,
    Site,
    StepKind,
    Timeline,
)
from ..records.columns import Array

_HALVES = ("bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What is known of a recorded step besides its Timeline."""

    step: int
    kind: StepKind
    signature: int
    seconds: float
    cost: float
    end: int
    grad_enabled: bool
    evaluating: bool
    called_at: Site | None
    parameters: int
    gradless: int
    calls: int
    others: int = 0


def summarised(timeline: Timeline, known: Circumstances) -> RecordedStep:
    """The figures of a step."""
    tick = timeline.peak_tick
    unused, without = _unused(timeline, tick) if known.kind is StepKind.CALL else (0, -1)
    cast, halved = _lower_precision(timeline, tick)
    op = timeline.op_at(tick)
    site = int(timeline.ops.site[op]) if op >= 0 else -1
    return RecordedStep(
        step=known.step,
        kind=known.kind,
        signature=known.signature,
        seconds=known.seconds,
        cost=known.cost,
        peak=timeline.peak,
        end=known.end,
        shares=shares_at(timeline, tick),
        phases=_phases(timeline),
        grad_enabled=known.grad_enabled,
        evaluating=known.evaluating,
        unused=unused,
        without=without,
        site=timeline.sites[site] if site >= 0 else None,
        called_at=known.called_at,
        parameters=known.parameters,
        gradless=known.gradless,
        state=_born_state(timeline),
        calls=known.calls,
        cast=cast,
        halved=halved,
        others=known.others,
    )


def shares_at(timeline: Timeline, tick: int) -> tuple[Share, ...]:
    """Bytes and blocks alive at a tick by category, in the order of every picture; they sum to the curve there."""
    alive = timeline.alive(tick)
    category = timeline.blocks.category[alive]
    nbytes = np.bincount(category, timeline.blocks.nbytes[alive], minlength=len(CATEGORIES))
    blocks = np.bincount(category, minlength=len(CATEGORIES))
    return tuple(
        Share(category=each, nbytes=int(nbytes[code]), blocks=int(blocks[code]))
        for code, each in enumerate(CATEGORIES)
        if blocks[code]
    )


def _phases(timeline: Timeline) -> tuple[PhaseCost, ...]:
    """Work and highest memory of each phase that the step went through."""
    curve = timeline.curve
    highest: dict[object, int] = {}
    for span in timeline.phases:
        highest[span.phase] = max(
            highest.get(span.phase, 0), int(curve[span.start : span.stop].max(initial=0))
        )
    return tuple(
        PhaseCost(
            phase=phase,
            ops=int((timeline.ops.phase == code).sum()),
            flops=int(timeline.ops.flops[timeline.ops.phase == code].sum()),
            peak=highest[phase],
        )
        for phase, code in PHASE_CODE.items()
        if phase in highest
    )


def _born_state(timeline: Timeline) -> int:
    """Bytes of optimizer state that the step made and left."""
    blocks = timeline.blocks
    state = blocks.category == CATEGORY_CODE[Category.OPTIMIZER_STATE]
    return int(blocks.nbytes[state & (blocks.op >= 0) & (timeline.ends >= timeline.ticks)].sum())


def _unused(timeline: Timeline, tick: int) -> tuple[int, int]:
    """Bytes at the peak that are kept for a backward which never came, and the peak without them.

    Real tensors have one death, so a block that autograd keeps is taken to be needed until it is last read.
    """
    blocks = timeline.blocks
    asked = np.diff(timeline.saves.unpacks.offsets) > 0
    kept = np.zeros(len(blocks), bool)
    kept[timeline.saves.block] = True
    kept[timeline.saves.block[asked]] = False
    kept &= ~np.isin(blocks.category, [CATEGORY_CODE[each] for each in STATIC])
    ends = timeline.ends
    needed = np.where(kept, np.minimum(_last_reads(timeline) + 1, ends), ends)
    only_kept = kept & (needed <= tick) & (blocks.born <= tick) & (ends > tick)
    change = np.zeros(timeline.ticks + 1, np.int64)
    np.add.at(change, blocks.born, blocks.nbytes)
    np.subtract.at(change, np.maximum(needed, blocks.born), blocks.nbytes)
    return int(blocks.nbytes[only_kept].sum()), int(np.cumsum(change)[:-1].max(initial=0))


def _last_reads(timeline: Timeline) -> Array:
    """The tick of the last op that reads each block; its birth where none does."""
    last = timeline.blocks.born.copy()
    reads = timeline.ops.reads
    np.maximum.at(last, reads.values, timeline.ops.tick[reads.owners()])
    return last


def _lower_precision(timeline: Timeline, tick: int) -> tuple[int, int]:
    """Copies of weights in lower precision alive at a tick, and what lower precision saves there in activations."""
    half = _half_ops(timeline)
    if not half.any():
        return 0, 0
    alive = timeline.alive(tick)
    op = timeline.blocks.op[alive]
    made = op >= 0
    alive, op = alive[made & half[op]], op[made & half[op]]
    weights = np.isin(timeline.blocks.category, [CATEGORY_CODE[Category.PARAMETER]])
    copies = np.array([_copies_weight(timeline, int(each), weights) for each in op], bool)
    nbytes = timeline.blocks.nbytes[alive]
    return int(nbytes[copies].sum()), int(nbytes[~copies].sum())


def _half_ops(timeline: Timeline) -> Array:
    """Which ops give half precision: they cast to it, or are given nothing else in floating point."""
    by_signature = [_gives_half(text) for text in timeline.signatures]
    signature = timeline.ops.signature
    known = np.array([*by_signature, False])
    halves: Array = known[np.where(signature >= 0, signature, len(by_signature))]
    return halves


def _gives_half(signature: str) -> bool:
    mentions = any(half in signature for half in _HALVES)
    if "_to_copy" in signature:
        return any(f'"dtype": "torch.{half}"' in signature for half in _HALVES)
    return mentions and '"float32"' not in signature


def _copies_weight(timeline: Timeline, op: int, weights: Array) -> bool:
    name = timeline.names[timeline.ops.name[op]]
    return "_to_copy" in name and any(weights[block] for block in timeline.ops.reads[op])
