"""`largest_batch`: the largest batch size whose peak is within a budget, shown by a trace on either side of it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psutil

from ..devices import ScratchTable
from ..errors import UndecidableError, UsageError, UserCodeError
from ..records import Facts, LargestBatch, Timeline, TracedPeak, World
from ..tracing import trace
from ..units import format_bytes
from ..workload import Workload
from .scaling import SMALLEST, Scaling, mismatch

#: Two sizes show the line. They are small, for a model that has to run for real, and both even, as some need.
SIZES = (4, 6)
_BISECT_EVERY = 5  # traces
_LEAP = 8  # without a line, the next size tried is at most so many times the largest that fits


def largest_batch(
    work: Workload,
    budget_bytes: int,
    *,
    scratch: ScratchTable | None = None,
    calibrate: bool = True,
    progress: Callable[[str], None] | None = None,
) -> LargestBatch:
    """The largest batch size whose peak is within a budget, in any step of a trace.

    Two small traces, matched block by block, give the answer as the memory curve at every batch size is then
    known (`Scaling`). A trace there and one at the next size confirm it; where they do not, or where the two do
    not match, the search goes on by traces alone.

    Args:
        work: what to run; its `batch(n)` must give n samples.
        budget_bytes: bytes that the tensors and the kernels' scratch may take at once; what else the process
            needs (libraries, a GPU's context) is not in it. `units.parse_bytes` reads "2GiB".
        scratch: where kernel scratch is looked up; None is the table of this machine.
        calibrate: measure kernel scratch that this machine's table lacks.
        progress: called with a line of text as the work goes on.

    Returns:
        The batch size with its peak, and the next with its own; `fits` is False where not even batch size 1 is
        within the budget, and `next_peak` then says what it takes.

    Raises:
        UsageError: the budget is no positive whole number, `work` is no Workload, or its batch does not grow.
        UserCodeError: the workload's own code raised; the message says at which batch size.
        UndecidableError: no trace is possible here, or the model has to run for real and memory is too short.

    Assumes that a larger batch never needs less, from batch size 2 on.

    Example:
        >>> import torch
        >>> work = Workload(
        ...     model=lambda: torch.nn.Linear(256, 64, bias=False),
        ...     batch=lambda n=None: torch.zeros(n or 2, 256),
        ...     loss=lambda model, x: model(x),
        ... )
        >>> found = largest_batch(work, 256 * 64 * 4 + 100 * (256 + 64) * 4)  # weights, 100 inputs and outputs
        >>> found.batch_size, found.per_item
        (100, 1280)
    """
    if not isinstance(work, Workload):
        raise UsageError(
            f"largest_batch() needs a Workload, whose batch(n) it can ask, not a {type(work).__name__}"
        )
    if not isinstance(budget_bytes, int) or budget_bytes <= 0:
        raise UsageError(
            f"a budget is a positive whole number of bytes, not {budget_bytes!r}; "
            "for text there is enxuto.units.parse_bytes('2GiB')"
        )
    search = _Search(
        work=work,
        budget=budget_bytes,
        scratch=scratch,
        calibrate=calibrate,
        say=progress or (lambda line: None),
    )
    search.begin()
    while (size := search.next_size()) is not None:
        search.trace(size)
    return search.answer()


@dataclass(frozen=True, slots=True)
class _Run:
    """What a trace at one batch size gave; `allocated` sums every block of the last step, in bytes."""

    peak: int
    allocated: int
    world: World
    facts: Facts


@dataclass(slots=True, kw_only=True)
class _Search:
    """The traces made so far, and which one is next."""

    work: Workload
    budget: int
    scratch: ScratchTable | None
    calibrate: bool
    say: Callable[[str], None]
    runs: dict[int, _Run] = field(default_factory=dict)
    scaling: Scaling | None = None
    notes: list[str] = field(default_factory=list)
    needs_two: bool = False  # the work cannot run at batch size 1

    def begin(self) -> None:
        """Trace the two sizes and draw the line through them, if they match."""
        low, high = (self._traced(size) for size in SIZES)
        why = mismatch(low, high)
        if why:
            small, large = SIZES
            self.notes.append(
                f"searched by traces alone: batch sizes {small} and {large} do not match, {why}"
            )
        else:
            self.scaling = Scaling(low, high)

    def trace(self, size: int) -> None:
        """Trace one more size; that batch size 1 cannot run is noted."""
        try:
            self._traced(size)
        except UserCodeError as error:
            if size > 1:
                raise
            self.needs_two = True
            self.notes.append(f"the work cannot run {error}")

    def next_size(self) -> int | None:
        """The size to trace next; None when the answer is known."""
        fits, fails = self._bracket()
        if fails is not None and fails - fits == 1:
            return None
        guess = self._by_line() if self._line_holds() else self._by_traces(fits, fails)
        return max(fits + 1, guess if fails is None else min(guess, fails - 1))

    def answer(self) -> LargestBatch:
        """What the traces show, once there is nothing left to try."""
        size = max((size for size, run in self.runs.items() if run.peak <= self.budget), default=0)
        above = min(other for other in self.runs if other > size)
        shown = self.runs[size or above]
        fixed, per_item = self._nearest_line()
        return LargestBatch(
            world=shown.world,
            facts=shown.facts,
            budget=self.budget,
            batch_size=size,
            predicted=self.scaling.peak_at(size) if self.scaling and size >= SMALLEST else None,
            peak=self.runs[size].peak if size else 0,
            next_size=above,
            next_peak=self.runs[above].peak,
            fixed=fixed,
            per_item=per_item,
            traces=tuple(TracedPeak(batch_size=n, peak=self.runs[n].peak) for n in sorted(self.runs)),
            notes=(*self.notes, *(self.scaling.caveats if self.scaling else ())),
        )

    # -- where to look -----------------------------------------------------------------------------------

    def _bracket(self) -> tuple[int, int | None]:
        """The largest size known to fit (or the largest too small to ask), and the smallest known not to."""
        none = 1 if self.needs_two else 0
        fits = max((size for size, run in self.runs.items() if run.peak <= self.budget), default=none)
        return fits, min((size for size in self.runs if size > fits), default=None)

    def _line_holds(self) -> bool:
        """Whether the line has been right about every trace so far; it says nothing of batch size 1."""
        line = self.scaling
        return line is not None and all(
            line.peak_at(size) == run.peak for size, run in self.runs.items() if size >= SMALLEST
        )

    def _by_line(self) -> int:
        assert self.scaling is not None
        guess = self.scaling.largest(self.budget)
        return _LEAP * max(self.runs) if guess is None else guess

    def _by_traces(self, fits: int, fails: int | None) -> int:
        """Where the parabola through the three traces nearest to the answer meets the budget.

        It is no law, only a guess that is good for blocks of n and of n x n: now and then the middle is taken
        instead, so that the search ends soon whatever the peaks do.
        """
        if fails is not None and len(self.runs) % _BISECT_EVERY == 0:
            return (fits + fails) // 2
        stop = fails if fails is not None else _LEAP * max(self.runs)
        around = (fits + stop) // 2 if fails is not None else fits
        nearest = sorted(self.runs, key=lambda size: abs(size - around))[:3]
        peak = _parabola([(size, self.runs[size].peak) for size in nearest])
        return fits + bisect_right(range(fits + 1, stop), self.budget, key=peak)

    def _nearest_line(self) -> tuple[int, int]:
        """Fixed bytes, and bytes per item, of the line through the two traces around the answer, or beside it."""
        sizes = sorted(self.runs)
        last = min(
            (i for i, size in enumerate(sizes) if self.runs[size].peak > self.budget), default=len(sizes) - 1
        )
        small, large = sizes[max(last, 1) - 1], sizes[max(last, 1)]
        per_item = (self.runs[large].peak - self.runs[small].peak) // (large - small)
        return self.runs[small].peak - per_item * small, per_item

    # -- traces ------------------------------------------------------------------------------------------

    def _traced(self, size: int) -> Timeline:
        self._check_memory(size)
        self.say(f"{self.work.name} at batch size {size:,}")
        try:
            timeline = trace(
                self.work.at_batch(size),
                scratch=self.scratch,
                calibrate=self.calibrate,
                find_holders=False,
                progress=self.say,
            )
        except UserCodeError as error:
            raise UserCodeError(f"at batch size {size:,}: {error}") from error.__cause__
        facts, allocated = timeline.facts, int(timeline.blocks.nbytes.sum())
        self.runs[size] = _Run(max(facts.step_peaks), allocated, timeline.world, facts)
        self._check_batch_grows(size)
        return timeline

    def _check_memory(self, size: int) -> None:
        """A work that reads values runs for real: never with more than there is here."""
        if len(self.runs) < 2 or all(run.world is World.DRY for run in self.runs.values()):
            return
        fixed, per_item = self._nearest_line()
        needed, free = fixed + per_item * size, psutil.virtual_memory().available
        if needed > free:
            raise UndecidableError(
                f"{self.work.name} cannot run dry, and a real step at batch size {size:,} takes about "
                f"{format_bytes(needed)} with {format_bytes(free)} free here; ask with a smaller budget, or on a "
                "larger machine"
            )

    def _check_batch_grows(self, size: int) -> None:
        """A batch(n) that gives the same for any n would be searched for ever."""
        for other, run in self.runs.items():
            if size >= 2 * other and self.runs[size].allocated <= run.allocated:
                raise UsageError(
                    f"a step of {self.work.name} allocates no more at batch size {size:,} than at {other:,}: "
                    "its batch(n) must give n samples"
                )


def _parabola(points: Sequence[tuple[int, int]]) -> Callable[[int], int]:
    """The curve of second degree through three points, or the straight line through two (Newton's form)."""
    (x0, y0), (x1, y1), *third = points
    slope = (y1 - y0) / (x1 - x0)
    bend = 0.0
    for x2, y2 in third:
        bend = ((y2 - y1) / (x2 - x1) - slope) / (x2 - x0)
    return lambda x: y0 + round((x - x0) * (slope + (x - x1) * bend))
