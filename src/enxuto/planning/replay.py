"""Replay: the peak of a step under any choice of edits, thousands of times a second.

Only instants at which something is born can be a peak, so the curve is kept at those alone. What runs again
adds its own births at one instant of the plain clock; they are summed up once, as the rerun's height above
the curve there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..records import Timeline
from ..techniques import Edit, position, tick_of

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Option:
    """One edit, as a replay reads it."""

    killed: Array  # rows of `ends` that it takes away
    holds: Array  # rows that it adds
    points: Array  # instants at which copies come or go,
    changes: Array  # and by how many bytes
    rerun_points: Array  # instants at which it runs something again,
    heights: Array  # and the bytes that come on top of the curve there


@dataclass(slots=True, eq=False)
class Replay:
    """A Timeline and the edits that may be chosen, ready to be replayed.

    Args:
        timeline: of the plain step.
        edits: the choices. Any set may be replayed whose edits do not drop one save twice.
    """

    timeline: Timeline
    edits: Sequence[Edit]
    options: list[Option] = field(init=False)
    points: Array = field(init=False)  # positions, ascending
    # the blocks whose end depends on the choice: their bytes, birth, and every reason for which each lives
    sizes: Array = field(init=False)
    born: Array = field(init=False)
    starts: Array = field(init=False)  # of a block's rows in `row_end`
    row_end: Array = field(init=False)  # the instant at which a reason ends
    untouched: Array = field(init=False)  # bytes of all other blocks, at each instant
    _always_ends: Array = field(
        init=False
    )  # the same of the reasons that are there without any option; else 0
    _base: Array = field(init=False)

    def __post_init__(self) -> None:
        t = self.timeline
        ats = [np.array([rerun.at for edit in self.edits for rerun in edit.reruns], np.int64)]
        # what an edit brings back without running anything may live between two births of the plain step
        ats += [tick_of(edit.births.born) for edit in self.edits if not edit.reruns]
        self.points = position(np.unique(np.concatenate([t.blocks.born, *ats])))
        touched = self._touched()
        block, end, killers, holders = self._rows(touched)
        order = np.argsort(block, kind="stable")
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        owner, self.starts = np.unique(block[order], return_index=True)
        self.row_end = self._point(end[order])
        self._always_ends = self.row_end.copy()
        self.sizes = t.blocks.nbytes[owner].astype(np.float64)
        self.born = self._point(position(t.blocks.born[owner]))
        self.options = []
        for edit, killed, held in zip(self.edits, killers, holders, strict=True):
            self._always_ends[place[held]] = 0
            self.options.append(self._option(edit, place[killed], place[held]))
        self._base = self._constant(touched)

    def peak(self, chosen: Iterable[int]) -> int:
        """Bytes at the peak of the step with these edits (indices)."""
        return int(self.tops(list(chosen)).max(initial=0.0))

    def tops(self, chosen: Sequence[int]) -> Array:
        """Bytes alive at each of `points`, then at the highest instant of each rerun."""
        curve = self.curve(chosen)
        options = [self.options[index] for index in chosen]
        if not options:
            return curve
        reruns = curve[np.concatenate([option.rerun_points for option in options])]
        return np.concatenate([curve, reruns + np.concatenate([option.heights for option in options])])

    def curve(self, chosen: Sequence[int]) -> Array:
        """Bytes alive at each of `points`; what runs again stands on top, and is not in it."""
        ends = self._always_ends
        at, weights = [], []
        if chosen:  # many small arrays at once: a call for each takes most of the time
            options = [self.options[index] for index in chosen]
            ends = ends.copy()
            held = np.concatenate([option.holds for option in options])
            ends[held] = self.row_end[held]
            ends[np.concatenate([option.killed for option in options])] = 0
            at = [option.points for option in options]
            weights = [option.changes for option in options]
        if len(self.starts):
            at.append(np.maximum.reduceat(ends, self.starts))
            weights.append(-self.sizes)
        if not at:
            return np.asarray(self._base.cumsum()[:-1])
        delta = np.bincount(np.concatenate(at), np.concatenate(weights), len(self._base))
        delta += self._base
        return np.asarray(delta.cumsum()[:-1])

    def _point(self, positions: Any) -> Any:
        """The first instant at or after a position; what ends at it is gone there."""
        return np.searchsorted(self.points, positions)

    def _touched(self) -> Array:
        """Whether a block's end depends on what is chosen."""
        touched = np.zeros(len(self.timeline.blocks), bool)
        for edit in self.edits:
            touched[self.timeline.saves.block[edit.dropped]] = True
            touched[edit.hold_block] = True
        return touched

    def _rows(self, touched: Array) -> tuple[Array, Array, list[Array], list[Array]]:
        """All reasons why touched blocks live: (block, until), and the rows that each edit takes or adds."""
        t = self.timeline
        natural = np.flatnonzero(touched)
        saves = np.flatnonzero(touched[t.saves.block])
        until = t.saves.release.copy()
        np.maximum.at(until, t.saves.local_ends.owners(), t.saves.local_ends.values)
        row_of_save = np.full(len(t.saves), -1, np.int64)
        row_of_save[saves] = len(natural) + np.arange(len(saves))
        blocks = [natural, t.saves.block[saves]]
        ends = [position(t.blocks.natural[natural]), position(until[saves])]
        first = len(natural) + len(saves)
        killers, holders = [], []
        for edit in self.edits:
            killers.append(row_of_save[edit.dropped])
            holders.append(first + np.arange(len(edit.hold_block)))
            blocks.append(edit.hold_block)
            ends.append(np.maximum(edit.hold_use, edit.hold_end))
            first += len(edit.hold_block)
        return np.concatenate(blocks), np.concatenate(ends), killers, holders

    def _option(self, edit: Edit, killed: Array, held: Array) -> Option:
        births = edit.births
        ats = tick_of(births.born)
        inside = births.born > position(ats)
        stay = inside & (tick_of(births.end) > ats)
        born = np.where(inside, position(ats + 1), births.born)
        outlive = ~inside | stay
        points = np.concatenate([self._point(born[outlive]), self._point(births.end[outlive])])
        changes = np.concatenate([births.nbytes[outlive], -births.nbytes[outlive]]).astype(np.float64)
        rerun_points, heights = [], []
        for at in sorted({rerun.at for rerun in edit.reruns}):
            here = inside & (ats == at)
            rerun_points.append(int(np.searchsorted(self.points, position(at))))
            heights.append(self._height(edit, here, at))
        return Option(
            killed=killed,
            holds=held,
            points=points,
            changes=changes,
            rerun_points=np.array(rerun_points, np.int64),
            heights=np.array(heights, np.float64),
        )

    def _height(self, edit: Edit, here: Array, at: int) -> float:
        """The most bytes above the curve while what runs again after a tick runs."""
        births = edit.births
        dies = here & (tick_of(births.end) == at)
        gone = (edit.hold_end > position(at)) & (edit.hold_end < position(at + 1)) & (edit.hold_pack < 0)
        when = np.concatenate([births.born[here], births.end[dies], edit.hold_end[gone]])
        sizes = self.timeline.blocks.nbytes[edit.hold_block[gone]]
        change = np.concatenate([births.nbytes[here], -births.nbytes[dies], -sizes])
        order = np.lexsort((change, when))  # deaths first where both come at one position
        return float(np.cumsum(change[order]).max(initial=0))

    def _constant(self, touched: Array) -> Array:
        """Births of all blocks and deaths of those whose end never changes, by instant."""
        t = self.timeline
        size = len(self.points) + 1
        born = self._point(position(t.blocks.born))
        delta = np.bincount(born, weights=t.blocks.nbytes, minlength=size)
        fixed = ~touched
        ends = self._point(position(t.ends[fixed]))
        delta -= np.bincount(ends, weights=t.blocks.nbytes[fixed], minlength=size)
        of_touched = np.bincount(self.born, weights=self.sizes, minlength=size)
        self.untouched = np.cumsum(delta - of_touched)[:-1]
        return np.asarray(delta)
