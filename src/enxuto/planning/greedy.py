"""Greedy search: what lowers the excess over a budget most for its cost, then without what is not needed.

The excess is the sum of what stands above the budget over all instants, not the peak alone: where many
instants are equally high, no single step lowers the peak, and each lowers the excess.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .replay import Replay

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(slots=True, eq=False)
class Choices:
    """The options of a search: their replay, what each costs in seconds, and which exclude each other."""

    replay: Replay
    seconds: Array
    excludes: list[frozenset[int]]
    cliques: list[frozenset[int]]  # sets of options of which one may be chosen: they are about one stretch
    replays: int = field(default=0)

    def excess(self, chosen: Sequence[int], budget: int) -> float:
        """The sum of bytes above the budget, over all instants."""
        self.replays += 1
        over = self.replay.tops(chosen) - budget
        return float(over[over > 0].sum())

    def peak(self, chosen: Sequence[int]) -> int:
        """Bytes at the peak."""
        self.replays += 1
        return self.replay.peak(chosen)

    def cost(self, chosen: Sequence[int]) -> float:
        """Seconds that run again."""
        return float(self.seconds[list(chosen)].sum())


def descend(choices: Choices, budget: int, start: Sequence[int] = ()) -> list[int]:
    """Options that bring the peak to the budget, or as near as this way finds; a sorted list."""
    chosen = set(start)
    excess = choices.excess(sorted(chosen), budget)
    queue = [(-np.inf, index) for index in range(len(choices.seconds))]
    heapq.heapify(queue)
    fresh: set[int] = set()
    while excess > 0 and queue:
        _, index = heapq.heappop(queue)
        if index in chosen:
            continue
        trial = (chosen - choices.excludes[index]) | {index}
        after = choices.excess(sorted(trial), budget)
        gain = excess - after
        if gain <= 0:
            continue  # it may pay later; `repair` tries all again
        extra = choices.seconds[list(trial)].sum() - choices.seconds[list(chosen)].sum()
        rate = -gain / max(extra, 1e-9) if extra > 0 else -np.inf
        if index in fresh or not queue or rate <= queue[0][0]:
            removed = chosen - trial
            chosen, excess = trial, after
            fresh = set()
            for option in removed:
                heapq.heappush(queue, (-np.inf, option))
        else:
            fresh.add(index)
            heapq.heappush(queue, (rate, index))
    return sorted(chosen)


def thinned(choices: Choices, chosen: Sequence[int], budget: int) -> list[int]:
    """Without the options that the budget does not need, dearest first; then cheaper ones in their place."""
    kept = list(chosen)
    for index in sorted(chosen, key=lambda i: -choices.seconds[i]):
        trial = [other for other in kept if other != index]
        if choices.peak(trial) <= budget:
            kept = trial
    for index in sorted(kept, key=lambda i: -choices.seconds[i]):
        for cheaper in sorted(choices.excludes[index], key=lambda i: choices.seconds[i]):
            if choices.seconds[cheaper] >= choices.seconds[index]:
                break
            trial = sorted({*kept, cheaper} - choices.excludes[cheaper] - {index})
            if choices.cost(trial) < choices.cost(kept) and choices.peak(trial) <= budget:
                kept = trial
                break
    return sorted(kept)
