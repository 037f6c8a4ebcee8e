"""Which steps are recorded in full: the first ones, new shapes, and then as many as the time allows.

Recording costs a known time. What it has cost so far and would cost once more stays within a share of the time that
the run has taken; a handful of steps at the beginning are recorded whatever they cost, since everything that is
said of a young run rests on them.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from ..records import StepKind

#: The share of the run's time that recording may take.
SHARE = 0.02

_EARLY = frozenset({1, 2, 3, 6, 12, 24})  # steps of a kind that are recorded at any cost
_NEW_SHARE = 2 * SHARE  # what may be spent where the shapes are new
_BURST = 2  # recordings that unused time allows, at most
_LARGER = 1.1  # times the largest before
_EVERY = 3  # recorded steps lie at least so far apart, so that what the last one left can be looked for


class Schedule:
    """Decides step by step.

    Args:
        share: of the run's time that recording may take on the average.
    """

    def __init__(self, *, share: float = SHARE) -> None:
        self.share = share
        self.spent = 0.0  # seconds, or let go unused: a long pause shall not be followed by many recordings
        self._last_cost = 0.0
        self._steps: Counter[StepKind] = Counter()
        self._largest: Counter[StepKind] = Counter()
        self._since = _EVERY
        self._seen: set[Any] = set()

    def wants(self, kind: StepKind, shapes: Any, elapsed: float, size: int = 0) -> bool:
        """Whether the step that begins now shall be recorded.

        Args:
            kind: of the step.
            shapes: hashable; a step of the same shapes does the same.
            elapsed: seconds that the run has taken so far.
            size: how many numbers its model is given; the largest ever is recorded at any cost, since it is
                seldom and the one that runs out of memory.
        """
        self._steps[kind] += 1
        self._since += 1
        largest = size > _LARGER * self._largest[kind]
        self._largest[kind] = max(self._largest[kind], size)
        if self._steps[kind] in _EARLY or largest:
            return True
        new = shapes not in self._seen
        if not new and self._since < _EVERY:
            return False
        share = max(_NEW_SHARE, self.share) if new and self.share else self.share
        self.spent = max(self.spent, self.share * elapsed - _BURST * self._last_cost)
        return self.spent + self._last_cost <= share * elapsed

    def missed(self, kind: StepKind) -> None:
        """The step that was wanted could not be recorded: the next of its kind comes in its place."""
        self._steps[kind] -= 1

    def recorded(self, shapes: Any, cost: float) -> None:
        """A step was recorded, which took so many seconds more than it would have taken."""
        self.spent += cost
        self._last_cost = cost
        self._since = 0
        self._seen.add(shapes)
        if len(self._seen) > 10_000:  # every batch has its own shapes: none is news
            self._seen.clear()
