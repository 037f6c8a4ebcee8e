"""The planner: one budget over all levers, from Timelines alone.

A *base* is the step under levers that change its shape (pieces, where the optimizer runs); on each base every
choice of checkpoints is searched by replay. The plan is the cheapest within the budget over all bases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..records import (
    Action,
    Budget,
    Category,
    Checkpoint,
    Cost,
    EarlyRelease,
    FrontierPoint,
    FrozenBatchNorm,
    HostAllocator,
    InferenceMode,
    Lever,
    MicroBatches,
    Numerics,
    Offload,
    OneKernelStep,
    OptimizerInBackward,
    Plan,
    Refusal,
    SingleTensorStep,
    SmallerBatch,
    Status,
    Timeline,
)
from ..reporting.actions import name_action
from ..techniques import edited, joined
from ..techniques.checkpointing import find
from ..units import format_bytes
from .search import Explored, Point, explore
from .times import Speeds, op_seconds

NUMERICS: dict[type, Numerics] = {
    Checkpoint: Numerics.IDENTICAL,
    Offload: Numerics.IDENTICAL,
    OptimizerInBackward: Numerics.IDENTICAL,
    EarlyRelease: Numerics.IDENTICAL,
    InferenceMode: Numerics.IDENTICAL,
    HostAllocator: Numerics.IDENTICAL,
    MicroBatches: Numerics.ROUNDING,
    OneKernelStep: Numerics.ROUNDING,
    SingleTensorStep: Numerics.ROUNDING,
    FrozenBatchNorm: Numerics.LOSSY,
    SmallerBatch: Numerics.LOSSY,
}
_ORDER = [Numerics.IDENTICAL, Numerics.ROUNDING, Numerics.LOSSY]


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The step under some levers that are not searched by replay; the first is the plain one, without any."""

    actions: tuple[Action, ...]
    timeline: Timeline

    @property
    def numerics(self) -> Numerics:
        """The furthest from identical of its actions."""
        return max((NUMERICS[type(a)] for a in self.actions), key=_ORDER.index, default=Numerics.IDENTICAL)


@dataclass(slots=True, eq=False)
class Searched:
    """A base and what its search found."""

    base: Base
    seconds: float
    flops: int
    explored: Explored

    def total(self, point: Point) -> float:
        """Predicted seconds of the step under a plan."""
        return self.seconds + point.seconds


@dataclass(slots=True, eq=False)
class Planner:
    """All plans of one work: searched once, asked for any number of budgets.

    Args:
        bases: the plain step first.
        refused: levers that could not be tried, with reasons.
        speeds: of the device that the time model is for.
        exact: also solve exactly where there are few enough choices.
        progress: called with a line of text now and then.
    """

    bases: Sequence[Base]
    refused: Sequence[Refusal] = ()
    speeds: Speeds = field(default_factory=Speeds)
    exact: bool = True
    progress: Callable[[str], None] | None = None
    _searched: dict[int, Searched] = field(default_factory=dict)
    _module_refusals: list[Refusal] = field(default_factory=list)

    def plan(self, budget: Budget) -> Plan:
        """The cheapest plan within a budget; a smaller budget never gives a higher peak or a cheaper plan."""
        plain = self._once(0)
        searched = [self._once(i) for i, base in enumerate(self.bases) if self._allowed(base, budget)]
        choices = [(s, p) for s in searched for p in self._points(s, budget)]
        slowest = budget.max_slowdown_ratio * plain.seconds or np.inf
        fitting = [(s, p) for s, p in choices if p.peak <= budget.bytes and s.total(p) <= slowest + 1e-12]
        if fitting:
            # what is faster than the plain step costs no less than nothing: a step that fits is left alone
            chosen = min(
                fitting, key=lambda c: (max(c[0].total(c[1]), plain.seconds), *_effort(c), c[1].peak)
            )
        else:
            chosen = min(choices, key=lambda c: (c[1].peak, c[0].total(c[1])))
        gap = self._gap(searched, chosen, budget) if fitting else 0.0
        status = Status.INFEASIBLE
        if fitting:
            status = Status.OPTIMAL if gap <= 1e-9 else Status.FEASIBLE
        return self._written(budget, plain, chosen, status, gap, searched)

    def searched(self) -> list[Searched]:
        """Every base, searched."""
        return [self._once(index) for index in range(len(self.bases))]

    def _once(self, index: int) -> Searched:
        """A base, searched when a budget first allows it; kept."""
        if index not in self._searched:
            self._searched[index] = self._search(self.bases[index])
        return self._searched[index]

    def timeline(self, plan: Plan) -> Timeline:
        """The Timeline that a plan of this planner predicts."""
        for searched in self._searched.values():
            for point in searched.explored.points:
                actions = (*searched.base.actions, *searched.explored.actions(point))
                if point.peak == plan.after.peak and set(actions) == set(plan.actions):
                    candidates = searched.explored.candidates
                    edit = joined(candidates[index].edit for index in point.chosen)
                    return edited(searched.base.timeline, edit)
        raise ValueError("this plan was made by another planner")

    def _search(self, base: Base) -> Searched:
        if self.progress is not None:
            levers = " + ".join(_tag(action) for action in base.actions) or "the plain step"
            self.progress(f"searching on {levers}")
        found = find(base.timeline)
        if not base.actions:
            self._module_refusals += _by_reason(found.refused)
        seconds = op_seconds(base.timeline, self.speeds)
        explored = explore(
            base.timeline,
            found.candidates,
            seconds,
            exact=self.exact and not base.actions,
            progress=self.progress,
        )
        return Searched(base, float(seconds.sum()), int(base.timeline.ops.flops.sum()), explored)

    def _allowed(self, base: Base, budget: Budget) -> bool:
        return base.numerics in budget.allow and not any(_tag(a) in budget.fixed for a in base.actions)

    def _points(self, searched: Searched, budget: Budget) -> list[Point]:
        if "checkpoint" in budget.fixed:
            return [point for point in searched.explored.points if not point.chosen]
        return searched.explored.points

    def _gap(self, searched: Sequence[Searched], chosen: tuple[Searched, Point], budget: Budget) -> float:
        """How much cheaper a plan could be at most on the bases where one fits, as a share of the plain step."""
        fitting = [s for s in searched if s.explored.within(budget.bytes) is not None]
        least = min(s.seconds + s.explored.bound(budget.bytes) for s in fitting)
        plain = self._once(0).seconds
        return max(0.0, chosen[0].total(chosen[1]) - max(least, plain)) / plain

    def _written(
        self,
        budget: Budget,
        plain: Searched,
        chosen: tuple[Searched, Point],
        status: Status,
        gap: float,
        searched: Sequence[Searched],
    ) -> Plan:
        on, point = chosen
        levers = self._levers(plain, on, point)
        candidates = on.explored.candidates
        extra = sum(candidates[i].edit.extra_flops(on.base.timeline) for i in point.chosen)
        facts = plain.base.timeline.facts
        holds: tuple[str, ...] = ()
        if status is Status.INFEASIBLE:
            edit = joined(candidates[i].edit for i in point.chosen)
            holds = (*_held(edited(on.base.timeline, edit)), *self._would_help(budget))
        replays = sum(s.explored.replays for s in self._searched.values())
        solver = "greedy, replayed" if len(on.explored.bounds) < 2 else "greedy and HiGHS, replayed"
        return Plan(
            workload=facts.workload,
            torch=facts.torch,
            budget=budget,
            status=status,
            before=Cost(peak=plain.base.timeline.peak, flops=plain.flops, seconds=plain.seconds),
            after=Cost(peak=point.peak, flops=on.flops + extra, seconds=on.total(point)),
            levers=levers,
            refused=self._refusals(budget, levers),
            frontier=self._frontier(searched, plain, budget),
            floor_holds=holds,
            solver=f"{solver}: {replays} plans on {len(self._searched)} bases",
            gap_ratio=gap,
            notes=(f"time is predicted by a roofline; speeds {self.speeds.basis}",),
        )

    def _levers(self, plain: Searched, on: Searched, point: Point) -> tuple[Lever, ...]:
        """One line for each action, in order: the peak before and after it, and the time against just before."""
        levers: list[Lever] = []
        peak, seconds = plain.base.timeline.peak, plain.seconds
        known = {base.actions: base.timeline for base in self.bases}
        for count, action in enumerate(on.base.actions, 1):
            part = known.get(on.base.actions[:count], on.base.timeline)
            after, longer = part.peak, float(op_seconds(part, self.speeds).sum())
            levers.append(_lever(action, peak, after, longer / seconds))
            peak, seconds = after, longer
        explored = on.explored
        applied: list[int] = []
        for index in sorted(point.chosen, key=lambda i: explored.candidates[i].regions[0].enter):
            applied.append(index)
            candidate, after = explored.candidates[index], _peak_with(on, applied)
            more = float(explored.seconds[index])
            share = candidate.edit.extra_flops(on.base.timeline) / max(plain.flops, 1)
            why = f"{share:.2%} of the step's FLOPs run again"
            levers.append(_lever(candidate.action, peak, after, (seconds + more) / seconds, why))
            levers += [
                _lever(inner, after, after, 1.0, "part of the region around it") for inner in candidate.inside
            ]
            peak, seconds = after, seconds + more
        return tuple(levers)

    def _refusals(self, budget: Budget, levers: Sequence[Lever]) -> tuple[Refusal, ...]:
        taken = {_tag(lever.action) for lever in levers}
        refused = [*self.refused, *self._module_refusals]
        for base in self.bases:
            for action in base.actions:
                tag = _tag(action)
                if tag in taken or any(r.lever == tag for r in refused):
                    continue
                if tag in budget.fixed:
                    reason = "fixed by the user"
                elif NUMERICS[type(action)] not in budget.allow:
                    reason = f"{NUMERICS[type(action)].value} levers are not allowed by this budget"
                else:
                    reason = "not needed, or dearer than what was taken"
                refused.append(Refusal(lever=tag, reason=reason))
        if "checkpoint" not in taken and "checkpoint" in budget.fixed:
            refused.append(Refusal(lever="checkpoint", reason="fixed by the user"))
        return tuple(refused)

    def _would_help(self, budget: Budget) -> tuple[str, ...]:
        """What would have to be allowed for a plan within the budget, as far as the search knows."""
        helpful = []
        for searched in self.searched():
            lowest = searched.explored.points[-1]
            if lowest.peak <= budget.bytes and not self._allowed(searched.base, budget):
                named = " + ".join(_tag(action) for action in searched.base.actions)
                helpful.append(f"allowing {named} would bring it to {format_bytes(lowest.peak)}")
        return tuple(helpful)

    def _frontier(
        self, searched: Sequence[Searched], plain: Searched, budget: Budget
    ) -> tuple[FrontierPoint, ...]:
        rows = sorted(
            ((s.total(p), p.peak, s, p) for s in searched for p in self._points(s, budget)),
            key=lambda row: row[:2],
        )
        points: list[FrontierPoint] = []
        for seconds, peak, on, point in rows:
            if not points or peak < points[-1].peak:
                points.append(
                    FrontierPoint(
                        peak=peak,
                        slowdown_ratio=seconds / plain.seconds,
                        numerics=on.base.numerics,
                        actions=(*on.base.actions, *on.explored.actions(point)),
                    )
                )
        return tuple(points)


def _lever(action: Action, before: int, after: int, ratio: float, why: str = "") -> Lever:
    change = before - after
    said = f"the peak falls by {format_bytes(change)}" if change > 0 else "the peak moves elsewhere"
    return Lever(
        action=action,
        title=name_action(action),
        numerics=NUMERICS[type(action)],
        peak_before=before,
        peak_after=after,
        slowdown_ratio=float(ratio),
        why=f"{said}; {why}" if why else said,
    )


def _effort(choice: tuple[Searched, Point]) -> tuple[int, float]:
    """How much a plan changes: its actions, and then its seconds."""
    searched, point = choice
    return len(searched.base.actions) + len(point.chosen), searched.total(point)


def _tag(action: Action) -> str:
    return str(type(action).__struct_config__.tag)


def _peak_with(on: Searched, chosen: Sequence[int]) -> int:
    candidates: Sequence[Any] = on.explored.candidates
    return edited(on.base.timeline, joined(candidates[index].edit for index in chosen)).peak


def _by_reason(refused: Sequence[tuple[str, str]]) -> list[Refusal]:
    """One refusal for each reason, with the modules that it is about."""
    modules: dict[str, list[str]] = {}
    for module, reason in refused:
        modules.setdefault(reason, []).append(module)
    return [
        Refusal(
            lever=f"checkpoint of {', '.join(names[:3])}"
            + (f" and {len(names) - 3} more" * (len(names) > 3)),
            reason=reason,
        )
        for reason, names in modules.items()
    ]


def _held(timeline: Timeline) -> tuple[str, ...]:
    """What is alive at the peak, by category, largest first."""
    tick = timeline.peak_tick
    parts: list[tuple[int, Category]] = [(int(c[tick]), k) for k, c in timeline.curves().items()]
    return tuple(
        f"{category.value}: {format_bytes(nbytes)}"
        for nbytes, category in sorted(parts, key=lambda part: -part[0])
        if nbytes
    )
