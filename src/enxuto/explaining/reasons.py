"""Why each block is alive at the peak, in words computed from the records: saves, reads, calls, deaths."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import numpy as np

from ..records import CATEGORIES, PHASES, Category, Phase, Timeline
from .standing import Standing, last_reads, op_name, op_place

#: Where the category alone is the reason.
_ALWAYS = {
    Category.PARAMETER: "always",
    Category.BUFFER: "always",
    Category.OPTIMIZER_STATE: "kept between steps",
    Category.INPUT: "an input of the step",
}

#: Blocks that the forward and the backward make on their way, and drop.
ACTIVATIONS = (Category.SAVED_ACTIVATION, Category.TEMPORARY_FORWARD, Category.TEMPORARY_BACKWARD)

#: Blocks that a step makes on its way, and drops.
INTERMEDIATE = (*ACTIVATIONS, Category.TEMPORARY_OPTIMIZER, Category.OTHER)


def reasons(standing: Standing) -> list[str]:
    """Why each block of `standing.blocks` is alive, in their order."""
    explainer = _Explainer(
        standing=standing,
        saves=holding_saves(standing),
        arguments=unreturned_arguments(standing),
        accumulated=_last_accumulations(standing.timeline),
        stepped=_stepped(standing),
        holders={h.block: h.text for h in standing.timeline.holders if h.tick == standing.tick},
    )
    categories = standing.timeline.blocks.category[standing.blocks].tolist()
    return [
        explainer.why(CATEGORIES[category], block)
        for category, block in zip(categories, standing.blocks.tolist(), strict=True)
    ]


def holding_saves(standing: Standing) -> dict[int, list[int]]:
    """By block, the saves that hold it at the peak: packed and not released, or handed out and not let go."""
    saves, tick = standing.timeline.saves, standing.tick
    holds = (saves.pack <= tick) & (tick < saves.release)
    lent = (saves.unpacks.values <= tick) & (tick < saves.local_ends.values)
    holds[saves.unpacks.owners()[lent]] = True
    held: dict[int, list[int]] = defaultdict(list)
    for save in np.flatnonzero(holds).tolist():
        held[int(saves.block[save])].append(save)
    return held


def unreturned_arguments(standing: Standing) -> dict[int, int]:
    """By block, the outermost module call that was given it and has not returned at the peak."""
    calls, tick = standing.timeline.calls, standing.tick
    arguments: dict[int, int] = {}
    for call in np.flatnonzero((calls.enter <= tick) & (tick < calls.exit)).tolist():
        for block in calls.arguments[call]:
            arguments.setdefault(block, call)  # calls come in the order of their enter: outermost first
    return arguments


def _last_accumulations(timeline: Timeline) -> dict[int, int]:
    """By gradient block, the last tick at which something was accumulated into it."""
    return {each.gradient: each.tick for each in timeline.accumulations}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Explainer:
    """The lookups behind the reasons, and one function for each kind of block."""

    standing: Standing
    saves: dict[int, list[int]]
    arguments: dict[int, int]
    accumulated: dict[int, int]
    stepped: frozenset[int]
    holders: dict[int, str]

    def why(self, category: Category, block: int) -> str:
        if category in _ALWAYS:
            return _ALWAYS[category]
        if category is Category.SCRATCH:
            return f"workspace of {op_name(self._timeline, int(self._timeline.blocks.op[block]))}"
        if category is Category.GRADIENT:
            return self._why_gradient(block)
        if block in self.saves:
            return self._why_saved(self.saves[block])
        return self._why_temporary(block)

    @property
    def _timeline(self) -> Timeline:
        return self.standing.timeline

    def _why_gradient(self, block: int) -> str:
        if self.accumulated.get(block, -1) > self.standing.tick:
            return "being accumulated"
        reader = int(self.standing.next_read[block])
        if reader >= 0 and _phase_of(self._timeline, reader) is Phase.OPTIMIZER:
            return "waits for the optimizer step"
        if self.standing.reads_now[block] and _phase_of(self._timeline, self.standing.op) is Phase.OPTIMIZER:
            return "in use now by the optimizer step"
        if reader >= 0:
            return f"read again by {op_place(self._timeline, reader)}"
        if block in self.stepped:
            return f"used by the optimizer step, kept until {self._end(block)}"
        return f"not read again: a gradient stays until {self._end(block)}"

    def _why_saved(self, held: list[int]) -> str:
        """One part for each state that the saves are in, the most urgent first."""
        by_state: dict[Callable[[Collection[str]], str], set[str]] = defaultdict(set)
        for save in held:
            by_state[self._state(save)].add(self._timeline.text(int(self._timeline.saves.node[save])))
        parts = [state(by_state[state]) for state in _STATES if state in by_state]
        return "; ".join(parts)

    def _state(self, save: int) -> Callable[[Collection[str]], str]:
        saves, tick = self._timeline.saves, self.standing.tick
        unpacks, local_ends = saves.unpacks[save], saves.local_ends[save]
        if any(start <= tick < end for start, end in zip(unpacks, local_ends, strict=True)):
            return _in_use
        if any(start <= tick for start in unpacks) and self.standing.reads_now[saves.block[save]]:
            return _in_use  # a real tensor's local end is not seen
        if not any(span.phase is Phase.BACKWARD for span in self._timeline.phases):
            return _no_backward
        if any(start > tick for start in unpacks):
            return _to_come
        return _used if unpacks else _unasked

    def _why_temporary(self, block: int) -> str:
        standing = self.standing
        if standing.running and int(self._timeline.blocks.born[block]) == standing.tick:
            return "output of the op at the peak"
        holder = self.holders.get(block, "")
        held = f"; held by {holder}" if holder else ""
        if standing.next_read[block] >= 0:
            return f"read again by {op_place(self._timeline, int(standing.next_read[block]))}{held}"
        if block in self.arguments:
            module = self._timeline.module_of(self.arguments[block]) or "the model"
            return f"argument of {module}, which has not returned"
        if standing.reads_now[block]:
            return f"read by the op at the peak for the last time{held}"
        keeper = holder or "a Python variable or the autograd graph"
        return f"not read again: {keeper} keeps it until {self._end(block)}"

    def _end(self, block: int) -> str:
        """When a block goes, and the op that ran last before."""
        end = int(self.standing.ends[block])
        if end >= self._timeline.ticks:
            return "the end of the step"
        op = self._timeline.op_at(end)
        after = f", after {op_place(self._timeline, op)}" if op >= 0 else ""
        return f"tick {end} ({self._timeline.phase_at(end).value}){after}"


def _stepped(standing: Standing) -> frozenset[int]:
    """The gradients at the peak that an optimizer step has read."""
    last = last_reads(standing, standing.of(Category.GRADIENT))
    return frozenset(b for b, op in last.items() if _phase_of(standing.timeline, op) is Phase.OPTIMIZER)


def _phase_of(timeline: Timeline, op: int) -> Phase:
    return PHASES[int(timeline.ops.phase[op])]


def _in_use(nodes: Collection[str]) -> str:
    return f"saved by {_listed(nodes)}, in use now"


def _to_come(nodes: Collection[str]) -> str:
    return f"saved by {_listed(nodes)} for {_owned(nodes)} backward, still to come"


def _used(nodes: Collection[str]) -> str:
    return f"saved by {_listed(nodes)}, used and not yet released"


def _unasked(nodes: Collection[str]) -> str:
    return f"saved by {_listed(nodes)} for a backward that does not ask for it in this step"


def _no_backward(nodes: Collection[str]) -> str:
    return "saved by the autograd graph for a backward that does not come in this step"


def _owned(nodes: Collection[str]) -> str:
    return "its" if len(nodes) == 1 else "their"


_STATES = (_in_use, _to_come, _used, _unasked, _no_backward)


def _listed(nodes: Iterable[str]) -> str:
    """Node names in one phrase; a node that never ran has no name."""
    return " and ".join(sorted(node or "an autograd node" for node in nodes))


def unread(standing: Standing) -> np.ndarray:
    """Ids of the activations at the peak that nothing reads again, no save holds, and that go
    before the step ends (what stays may be its output)."""
    blocks = standing.of(*ACTIVATIONS)
    table, saves = standing.timeline.blocks, standing.timeline.saves
    idle = (standing.next_read[blocks] < 0) & ~standing.reads_now[blocks]
    idle &= (table.born[blocks] < standing.tick) & (standing.ends[blocks] < standing.timeline.ticks)
    later = saves.block[saves.release > standing.tick]
    return blocks[idle & ~np.isin(blocks, later) & ~np.isin(blocks, list(holding_saves(standing)))]
