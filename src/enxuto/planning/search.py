"""The search on one base: every plan worth having, from the plain step down to the lowest peak found.

What is found does not depend on any budget: seeds (all blocks, every n-th, the first and last few), a ladder of
greedy descents, and exact solutions where the problem is small (every set of up to 12 options), all replayed, and
of those the ones that no other beats. A budget then only picks from this list, so a smaller budget can never get
a higher peak or a cheaper plan.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from ..records import Action, Timeline
from ..techniques import Candidate, rerun_ops
from .exact import Program
from .greedy import Choices, descend, thinned
from .replay import Replay

Array = np.ndarray[Any, np.dtype[Any]]

_RUNGS = 32
_MOST_ENUMERATED = 12  # options of which every set is replayed
_EXACT_RUNGS = 12
_MOST_OPTIONS = 200  # above, exact solutions take too long and the greedy ones stand
_EXACT_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One plan on a base: what it chose (indices of candidates), its peak in bytes, its extra seconds."""

    peak: int
    seconds: float
    chosen: tuple[int, ...]


@dataclass(slots=True, eq=False)
class Explored:
    """What the search of one base found.

    Attributes:
        points: from the plain step down to the lowest peak, each cheaper and higher than the next.
        bounds: (budget, seconds): no choice of the candidates within the budget is cheaper than that.
        seconds: predicted, that each candidate adds.
        replays: plans replayed.
    """

    candidates: Sequence[Candidate]
    points: list[Point]
    bounds: list[tuple[int, float]]
    seconds: Array
    replays: int

    def within(self, budget: int) -> Point | None:
        """The cheapest plan whose peak is within the budget."""
        return next((point for point in self.points if point.peak <= budget), None)

    def bound(self, budget: int) -> float:
        """No choice within the budget takes fewer extra seconds."""
        return max((seconds for over, seconds in self.bounds if over >= budget), default=0.0)

    def actions(self, point: Point) -> tuple[Action, ...]:
        """The actions of a plan, outer regions before what is inside them."""
        chosen = [self.candidates[index] for index in point.chosen]
        return tuple(action for c in chosen for action in (c.action, *c.inside))


@dataclass(slots=True, eq=False)
class _Archive:
    """Plans replayed so far, each once."""

    choices: Choices
    peaks: dict[tuple[int, ...], int] = field(default_factory=dict)

    def add(self, chosen: Sequence[int]) -> int:
        key = tuple(chosen)
        if key not in self.peaks:
            self.peaks[key] = self.choices.peak(key)
        return self.peaks[key]

    def frontier(self) -> list[Point]:
        rows = sorted((self.choices.cost(key), peak, key) for key, peak in self.peaks.items())
        points: list[Point] = []
        for seconds, peak, key in rows:
            if not points or peak < points[-1].peak:
                points.append(Point(peak=peak, seconds=seconds, chosen=key))
        return points


def explore(
    timeline: Timeline,
    candidates: Sequence[Candidate],
    seconds: Array,
    *,
    exact: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Explored:
    """Search one base.

    Args:
        timeline: of the base.
        candidates: the checkpoints that may be chosen.
        seconds: predicted seconds of each op of the timeline.
        exact: solve for the optimum too, where there are few enough candidates.
        progress: called with a line of text now and then.
    """
    say = progress or (lambda line: None)
    choices = choices_of(timeline, candidates, seconds)
    archive = _Archive(choices)
    full = archive.add(())
    if not candidates:
        return Explored(candidates, archive.frontier(), [(full, 0.0)], choices.seconds, choices.replays)
    if len(candidates) <= _MOST_ENUMERATED:
        for chosen in _subsets(choices):
            archive.add(chosen)
        points = archive.frontier()
        bounds = [(above.peak - 1, point.seconds) for above, point in pairwise(points)]
        bounds += [(full, 0.0)]
        return Explored(candidates, points, bounds, choices.seconds, choices.replays)
    for seed in _seeds(candidates):
        archive.add(_compatible(choices, seed))
    lowest = _floor(choices, archive, full)
    for rung in range(1, _RUNGS + 1):
        budget = full - (full - lowest) * rung // _RUNGS
        chosen = descend(choices, budget)
        if archive.add(chosen) > budget:
            chosen = list(_nearest(archive, budget) or chosen)
        if archive.add(chosen) <= budget:
            archive.add(thinned(choices, chosen, budget))
    for point in archive.frontier():
        archive.add(thinned(choices, point.chosen, point.peak))
    bounds = [(full, 0.0)]
    if exact and len(candidates) <= _MOST_OPTIONS:
        bounds += _solved_rungs(choices, archive, full, lowest, say)
    return Explored(candidates, archive.frontier(), bounds, choices.seconds, choices.replays)


def _subsets(choices: Choices) -> Iterator[list[int]]:
    """Every set of options that do not exclude each other."""
    chosen: list[list[int]] = [[]]
    for index in range(len(choices.seconds)):
        chosen += [[*some, index] for some in chosen if not choices.excludes[index] & set(some)]
    yield from chosen


def choices_of(timeline: Timeline, candidates: Sequence[Candidate], seconds: Array) -> Choices:
    """The candidates as options of a replay: with their cost, and which exclude each other."""
    replay = Replay(timeline, [candidate.edit for candidate in candidates])
    cost = np.array(
        [
            sum(float(seconds[rerun_ops(timeline, rerun)].sum()) for rerun in candidate.edit.reruns)
            for candidate in candidates
        ]
    )
    spans = [(i, r.enter, r.exit) for i, c in enumerate(candidates) for r in c.regions]
    owner, enter, leave = np.array(spans, np.int64).reshape(-1, 3).T
    overlap = (enter[:, None] < leave[None, :]) & (enter[None, :] < leave[:, None])
    excludes: list[set[int]] = [set() for _ in candidates]
    for i, j in zip(*np.nonzero(overlap & (owner[:, None] != owner[None, :])), strict=True):
        excludes[owner[i]].add(int(owner[j]))
    at = {frozenset(owner[(enter <= e) & (e < leave)].tolist()) for e in enter.tolist()}
    cliques = [clique for clique in at if len(clique) > 1 and not any(clique < other for other in at)]
    return Choices(replay, cost, [frozenset(e) for e in excludes], sorted(cliques, key=sorted))


def _seeds(candidates: Sequence[Candidate]) -> Iterator[list[int]]:
    """What people do by hand: every block, every n-th, the first few, the last few, of each kind of block."""
    families: dict[tuple[str, bool, bool], list[int]] = {}
    for index, candidate in enumerate(candidates):
        if len(candidate.action.modules) == 1:
            pattern = re.sub(r"\d+", "#", candidate.action.modules[0])
            kind = pattern, len(candidate.action.keep) > 0, bool(candidate.inside)
            families.setdefault(kind, []).append(index)
        yield [index]
    for family in families.values():
        family.sort(key=lambda index: candidates[index].regions[0].enter)
        for n in range(1, 6):
            for first in range(n):
                yield family[first::n]
        for count in range(2, len(family)):
            yield family[:count]
            yield family[-count:]


def _compatible(choices: Choices, wanted: Sequence[int]) -> list[int]:
    """Those of the wanted options that do not exclude an earlier one."""
    chosen: list[int] = []
    for index in wanted:
        if not choices.excludes[index] & set(chosen):
            chosen.append(index)
    return sorted(chosen)


def _nearest(archive: _Archive, budget: int) -> tuple[int, ...] | None:
    """The cheapest plan known within a budget."""
    fitting = [key for key, peak in archive.peaks.items() if peak <= budget]
    return min(fitting, key=archive.choices.cost, default=None)


def _floor(choices: Choices, archive: _Archive, full: int) -> int:
    """The lowest peak that descents find: towards nothing, and again from the best so far."""
    for budget in (0, full // 4, full // 2, full * 3 // 4, full * 9 // 10):
        archive.add(descend(choices, budget))
    for _ in range(12):
        lowest = min(archive.peaks.values())
        best = min(archive.peaks, key=lambda key: (archive.peaks[key], choices.cost(key)))
        for start in (best, ()):
            archive.add(descend(choices, lowest - 1, start))
        if not _lowered(choices, archive, best, lowest):
            break
    return min(archive.peaks.values())


def _lowered(choices: Choices, archive: _Archive, best: tuple[int, ...], lowest: int) -> bool:
    """One option more or another in its place, tried in full; whether the lowest peak fell."""
    for index in range(len(choices.seconds)):
        if index not in best:
            archive.add(sorted((set(best) - choices.excludes[index]) | {index}))
        else:
            archive.add([other for other in best if other != index])
    return min(archive.peaks.values()) < lowest


def _solved_rungs(
    choices: Choices, archive: _Archive, full: int, lowest: int, say: Callable[[str], None]
) -> Iterator[tuple[int, float]]:
    program = Program(choices, seconds_limit=_EXACT_SECONDS)
    for rung in range(1, _EXACT_RUNGS + 1):
        budget = full - (full - lowest) * rung // _EXACT_RUNGS
        say(f"solving exactly: {rung} of {_EXACT_RUNGS} budgets")
        answer = program.solve(budget, _nearest(archive, budget) or ())
        if answer.chosen is not None:
            archive.add(answer.chosen)
        yield budget, answer.bound
