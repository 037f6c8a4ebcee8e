"""The rows of a plan's and a verdict's tables, once for all forms: levers add up from the start to the end."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..records import (
    Action,
    Check,
    Checkpoint,
    Fitted,
    FrontierPoint,
    Lever,
    Numerics,
    Outcome,
    Plan,
    Status,
    Verdict,
)
from ..units import format_bytes
from .actions import kind_of, name_actions
from .wording import change, counted, plain

NUMERICS = {
    Numerics.IDENTICAL: "gradients equal to the bit",
    Numerics.ROUNDING: "gradients equal up to rounding",
    Numerics.LOSSY: "another function, or other updates",
}
NOT_BY_A_LEVER = "(not by one lever)"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeverRow:
    """A lever, or alike levers together: bytes at the peak before and after, where they stand in the order."""

    title: str
    before: int
    after: int
    slowdown_ratio: float
    numerics: Numerics | None
    why: str

    @property
    def freed(self) -> int:
        return self.before - self.after


def levers(plan: Plan) -> list[LeverRow]:
    """The levers in their order, alike ones in one row; they lead from the peak before to the one after.

    Savings do not add up by themselves, as the peak moves: what the levers' own numbers leave open has a row.
    """
    groups: dict[Action | str, list[Lever]] = defaultdict(list)
    for lever in plan.levers:
        groups[kind_of(lever.action)].append(lever)
    rows: list[LeverRow] = []
    peak = plan.before.peak
    for group in groups.values():
        rows.append(_lever_row(group, peak))
        peak = rows[-1].after
    if peak != plan.after.peak:
        rest = LeverRow(
            title=NOT_BY_A_LEVER,
            before=peak,
            after=plan.after.peak,
            slowdown_ratio=1.0,
            numerics=None,
            why="together the levers change the peak by more or less than one by one",
        )
        rows.append(rest)
    return rows


def _lever_row(group: Sequence[Lever], before: int) -> LeverRow:
    titles = [plain(group[0].title)] if len(group) == 1 else name_actions(each.action for each in group)
    reasons = list(dict.fromkeys(plain(each.why) for each in group if each.why))
    more = f" (the first of {len(reasons)} reasons)" if len(reasons) > 1 else ""
    return LeverRow(
        title=titles[0],
        before=before,
        after=before - sum(each.peak_before - each.peak_after for each in group),
        slowdown_ratio=math.prod(each.slowdown_ratio for each in group),
        numerics=_worst(each.numerics for each in group),
        why=f"{reasons[0]}{more}" if reasons else "",
    )


def _worst(numerics: Iterable[Numerics]) -> Numerics:
    """The farthest from the plain step; a plan without levers is identical to it."""
    return max(numerics, key=list(Numerics).index, default=Numerics.IDENTICAL)


def plan_numerics(plan: Plan) -> Numerics:
    """How far the whole plan changes what is computed."""
    return _worst(lever.numerics for lever in plan.levers)


def times(ratio: float) -> str:
    """A step's time as a multiple.

    >>> times(1.084), times(0.952)
    ('×1.08', '×0.95')
    """
    return f"×{ratio:.2f}"


def headline(plan: Plan) -> str:
    """Where the step starts, and what it needs to fit in."""
    return f"start {format_bytes(plan.before.peak)} → need {format_bytes(plan.budget.bytes)}"


def status(plan: Plan) -> str:
    """Whether the plan fits and how good it is known to be."""
    match plan.status:
        case Status.OPTIMAL:
            return "optimal: no cheaper plan of these levers fits, proved"
        case Status.FEASIBLE:
            gap = f"{100 * plan.gap_ratio:.1f} % of the plain step's time"
            return f"feasible: a cheaper plan may exist, by at most {gap}"
        case Status.INFEASIBLE:
            return "infeasible: nothing fits; this is the plan with the lowest peak found"


def spare(plan: Plan) -> str:
    """How far the predicted peak is from the budget."""
    left = plan.budget.bytes - plan.after.peak
    return f"{format_bytes(abs(left))} {'to spare' if left >= 0 else 'over the budget'}"


def summary(plan: Plan, verdict: Verdict | None = None) -> list[tuple[str, str]]:
    """The outcome as name and value: what was predicted, and what was measured where it was."""
    memory = measured_peak(verdict) if verdict else None
    rows = [("peak", f"{format_bytes(plan.after.peak)} predicted, {spare(plan)}")]
    if memory:
        got = round(memory.got)
        against = change(round(memory.expected), got)
        text = f"{format_bytes(got)} measured, {against} against the predicted; {memory.outcome.value}"
        rows.append(("", text))
    elif verdict:
        rows.append(("", "not measured"))
    rows.append(("step", f"{times(plan.slowdown_ratio)} predicted, of the plain step's time"))
    speed = _measured_speed(verdict) if verdict else None
    rows += [("", f"{times(speed.got)} measured; {speed.outcome.value}")] if speed else []
    numerics = plan_numerics(plan)
    return [*rows, ("numerics", f"{numerics.value}: {NUMERICS[numerics]}"), ("status", status(plan))]


def measured_peak(verdict: Verdict) -> Check | None:
    """The check of the peak, if it was made: the first one in bytes whose name is of memory or of a peak."""
    named = (c for c in verdict.checks if c.unit == "B" and ("memory" in c.name or "peak" in c.name))
    return next((check for check in named if _made(check)), None)


def _measured_speed(verdict: Verdict) -> Check | None:
    named = (c for c in verdict.checks if c.unit == "ratio" and ("speed" in c.name or "time" in c.name))
    return next((check for check in named if _made(check)), None)


def _made(check: Check) -> bool:
    return check.outcome is not Outcome.NOT_CHECKED


def needed(plan: Plan) -> list[str]:
    """What would have to be allowed for a plan to fit, where none does."""
    if plan.status is not Status.INFEASIBLE:
        return []
    wishes = [f"a budget of {format_bytes(plan.after.peak)} ({plan.after.peak:,} bytes), with this plan"]
    wishes += _beyond_limits(plan)
    if Numerics.LOSSY not in plan.budget.allow:
        wishes.append("or levers that are lossy: a budget allows them only by name")
    if Numerics.ROUNDING not in plan.budget.allow:
        wishes.append("or levers that change the order of sums (rounding)")
    if plan.budget.fixed:
        fixed = ", ".join(plain(tag) for tag in plan.budget.fixed)
        wishes.append(f"or levers that were to stay as they are: {fixed}")
    return wishes


def _beyond_limits(plan: Plan) -> list[str]:
    """The cheapest plan of the frontier that is within the budget, and the limit that excludes it."""
    within = [point for point in plan.frontier if point.peak <= plan.budget.bytes]
    if not within:
        return []
    point = min(within, key=lambda point: point.slowdown_ratio)
    return [
        f"or a step that takes {times(point.slowdown_ratio)} ({point.numerics.value}): "
        f"then {format_bytes(point.peak)} is reached"
    ]


def conditions(plan: Plan) -> list[tuple[str, str]]:
    """What the plan was made for and how, as name and value; the notes come last."""
    limit = plan.budget.max_slowdown_ratio
    rows = [
        ("workload", plain(plan.workload)),
        ("torch", plain(plan.torch)),
        ("budget", f"{format_bytes(plan.budget.bytes)} of total peak, parameters and optimizer included"),
        ("step allowed", times(limit) if limit else "of any length"),
        ("numerics allowed", ", ".join(each.value for each in plan.budget.allow)),
        ("not to be touched", ", ".join(plain(tag) for tag in plan.budget.fixed)),
        ("plain step", f"{plan.before.seconds:.3g} s predicted"),
        ("step of the plan", f"{plan.after.seconds:.3g} s predicted"),
        ("found by", plain(plan.solver)),
        ("products", _products(plan)),
        ("savings", "of each lever where it stands in the order; alike levers are one line"),
    ]
    return [row for row in rows if row[1]] + [("note", plain(note)) for note in plan.notes]


def _products(plan: Plan) -> str:
    """What `name_actions` calls products, where it does."""
    everything = [plan.actions, *(point.actions for point in plan.frontier)]
    kept = any(isinstance(each, Checkpoint) and each.keep for actions in everything for each in actions)
    return "matrix products and convolutions; those kept do not run again" if kept else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierRow:
    """A plan that no other beats in both peak and time, in words."""

    point: FrontierPoint
    plan: str
    chosen: bool
    fits: bool


def frontier(plan: Plan, *, limit: int | None = None) -> list[FrontierRow]:
    """The frontier from the highest peak to the lowest; `limit` keeps the ends, the chosen plan and a spread."""
    ranked = sorted(plan.frontier, key=lambda point: (-point.peak, point.slowdown_ratio))
    rows = [
        FrontierRow(
            point=point,
            plan=name_plan(point.actions),
            chosen=is_chosen(point, plan),
            fits=point.peak <= plan.budget.bytes,
        )
        for point in ranked
    ]
    if limit is None or len(rows) <= limit:
        return rows
    kept = {index for index, row in enumerate(rows) if row.chosen}
    places = limit - len(kept)
    kept |= {place * (len(rows) - 1) // (places - 1) for place in range(places)}
    return [rows[index] for index in sorted(kept)]


def is_chosen(point: FrontierPoint, plan: Plan) -> bool:
    """Whether a point of the frontier is the plan itself."""
    return set(point.actions) == set(plan.actions) and point.peak == plan.after.peak


def name_plan(actions: Sequence[Action]) -> str:
    """A plan in one phrase."""
    return "; ".join(name_actions(actions)) or "the plain step"


def left_out(shown: int, plan: Plan) -> str:
    """How many plans of the frontier a table leaves out, or nothing."""
    more = len(plan.frontier) - shown
    return f"{counted(more, 'more plan')} between these." if more > 0 else ""


def outcome(verdict: Verdict) -> str:
    """The verdict in one phrase.

    >>> outcome(Verdict(workload="", torch="", checks=()))
    'not verified: no check was made'
    """
    counts = {kind: sum(check.outcome is kind for check in verdict.checks) for kind in Outcome}
    parts = ", ".join(f"{count} {kind.value}" for kind, count in counts.items() if count)
    if counts[Outcome.FAILED]:
        return f"failed ({parts})"
    return f"passed ({parts})" if verdict.passed else "not verified: no check was made"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRow:
    """A check with its values as text."""

    name: str
    outcome: Outcome
    expected: str
    got: str
    tolerance: str
    how: str


def checks(verdict: Verdict) -> list[CheckRow]:
    """The checks in the record's order; a check that was not made has nothing measured."""
    return [
        CheckRow(
            name=plain(check.name),
            outcome=check.outcome,
            expected=quantity(check.expected, check.unit),
            got=quantity(check.got, check.unit) if _made(check) else "",
            tolerance=f"±{quantity(check.tolerance, check.unit)}" if check.tolerance else "exact",
            how=plain(check.how),
        )
        for check in verdict.checks
    ]


def quantity(value: float, unit: str) -> str:
    """A value of a check in its unit.

    >>> quantity(2048, "B"), quantity(1.21, "ratio"), quantity(3e-7, "relative error"), quantity(0, "B")
    ('2.0 KiB', '1.21', '3e-07', '0 B')
    """
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else f"{value}"
    if unit == "B":
        return format_bytes(round(value))
    return f"{value:.3g}" if unit in ("ratio", "relative error") else f"{value:.4g} {plain(unit)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Bytes alive in the two steps at the same share of each."""

    share: float
    before: int
    after: int


def moments(fitted: Fitted, *, limit: int) -> list[Moment]:
    """Both curves in `limit` equal stretches, the highest of each: the peaks are among them."""
    if not (fitted.before_curve and fitted.after_curve):
        return []
    count = min(limit, len(fitted.before_curve), len(fitted.after_curve))
    return [
        Moment(
            share=(place + 1) / count,
            before=_highest(fitted.before_curve, place, count),
            after=_highest(fitted.after_curve, place, count),
        )
        for place in range(count)
    ]


def _highest(curve: Sequence[int], place: int, count: int) -> int:
    return max(curve[place * len(curve) // count : (place + 1) * len(curve) // count])
