"""Plans and verdicts as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from ..records import Fitted, Numerics, Outcome, Plan, Status, Verdict
from ..units import format_bytes, format_signed_bytes
from . import plan_rows, wording
from .palette import NUMERICS_SHADES, SURFACES
from .plan_rows import LeverRow
from .terminal import Card, add_row, grid, pairs, section

_WITH_PICTURE = 100  # columns from which on the levers have a picture beside them
_PICTURE_MIN, _PICTURE_MAX = 12, 30
_FRONTIER = 8

_BOLD, _DIM = "bold", "dim"
_OUTCOMES = {Outcome.PASSED: "", Outcome.FAILED: _BOLD, Outcome.NOT_CHECKED: _DIM}


def plan_card(plan: Plan) -> Card:
    """A plan: where it starts, what it does, what it was chosen from."""
    return Card(lambda width: _plan_parts(plan, width))


def verdict_card(verdict: Verdict) -> Card:
    """What was promised beside what was measured."""
    return Card(lambda width: _verdict_parts(verdict))


def fitted_card(fitted: Fitted) -> Card:
    """A plan with its measured numbers beside the predicted ones, and its verdict."""
    return Card(lambda width: _plan_parts(fitted.plan, width, fitted.verdict))


def _plan_parts(plan: Plan, width: int, verdict: Verdict | None = None) -> Iterator[RenderableType]:
    yield Text.assemble((wording.plain(plan.workload), _BOLD), (f"  {plan_rows.headline(plan)}", ""))
    yield pairs(plan_rows.summary(plan, verdict))
    if plan.status is Status.INFEASIBLE:
        yield from section("What holds the floor, predicted", _lines(plan.floor_holds))
        yield from section("What would have to be allowed", _lines(plan_rows.needed(plan)))
    yield from section("Levers, predicted", _levers(plan, width))
    if plan.refused:
        refused = [(wording.plain(each.lever), wording.plain(each.reason)) for each in plan.refused]
        yield from section("Refused", pairs(refused))
    if plan.frontier:
        yield from section("Plans that no other beats in peak and time, predicted", *_frontier(plan))
    if verdict:
        yield from section(f"Verdict: {plan_rows.outcome(verdict)}", _checks(verdict))
    yield from section("How these numbers were made", pairs(plan_rows.conditions(plan)))


def _verdict_parts(verdict: Verdict) -> Iterator[RenderableType]:
    yield Text.assemble((wording.plain(verdict.workload), _BOLD), (f"  {plan_rows.outcome(verdict)}", ""))
    yield from section("Checks", _checks(verdict))
    yield Text(f"torch {wording.plain(verdict.torch)}", style=_DIM)


def _lines(texts: Sequence[str]) -> RenderableType:
    table = grid()
    table.add_column(overflow="fold")
    for text in texts:
        add_row(table, wording.plain(text))
    return table


def _levers(plan: Plan, width: int) -> RenderableType:
    """The levers from the start to the end; each one's reason stands below it."""
    pictured = width >= _WITH_PICTURE
    table = grid(expand=pictured)
    table.add_column(justify="right", no_wrap=True, style=_DIM)
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    if pictured:
        table.add_column(ratio=1)
    whole = max(plan.before.peak, plan.budget.bytes)

    def add(*cells: str, span: Span, style: str = "") -> None:
        add_row(table, *cells, *([span] if pictured else []), style=style)

    grey = SURFACES["unexplained"].either
    add("", "start", format_bytes(plan.before.peak), "", "", span=Span(0, plan.before.peak, whole, grey))
    for place, row in enumerate(plan_rows.levers(plan), start=1):
        low, high = sorted((row.after, row.before))
        word = row.numerics.value if row.numerics else ""
        shown = format_signed_bytes(-row.freed), plan_rows.times(row.slowdown_ratio), word
        add(str(place), row.title, *shown, span=Span(low, high, whole, _colour(row)))
        if row.why:
            add("", row.why, "", "", "", span=Span(0, 0, whole, grey), style=_DIM)
    total = format_bytes(plan.after.peak), plan_rows.times(plan.slowdown_ratio)
    word = plan_rows.plan_numerics(plan).value
    add("", "end = peak", *total, word, span=Span(0, plan.after.peak, whole, grey), style=_BOLD)
    budget = format_bytes(plan.budget.bytes)
    add("", "budget", budget, "", "", span=Span(0, plan.budget.bytes, whole, grey, line=True), style=_DIM)
    return table


def _colour(row: LeverRow) -> str:
    return NUMERICS_SHADES[row.numerics or Numerics.IDENTICAL].either


def _frontier(plan: Plan) -> Iterator[RenderableType]:
    shown = plan_rows.frontier(plan, limit=_FRONTIER)
    table = grid()
    table.show_header = True
    for name in ("peak", "step"):
        table.add_column(name, justify="right", no_wrap=True, header_style=_DIM)
    table.add_column("numerics", no_wrap=True, header_style=_DIM)
    table.add_column("fits", no_wrap=True, header_style=_DIM)
    table.add_column("plan", overflow="fold", header_style=_DIM)
    for row in shown:
        point = row.point
        fits = "chosen" if row.chosen else "yes" if row.fits else "no"
        add_row(
            table,
            format_bytes(point.peak),
            plan_rows.times(point.slowdown_ratio),
            point.numerics.value,
            fits,
            row.plan,
            style=_BOLD if row.chosen else "" if row.fits else _DIM,
        )
    yield table
    more = plan_rows.left_out(len(shown), plan)
    if more:
        yield Text(more, style=_DIM)


def _checks(verdict: Verdict) -> RenderableType:
    table = grid()
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in plan_rows.checks(verdict):
        lines = [Text(row.how, style=_DIM)] if row.how else []
        if row.got:
            lines.insert(0, Text(f"{row.expected} predicted, {row.got} measured ({row.tolerance})"))
        elif not row.expected.startswith("0"):  # a difference of 0 says nothing where nothing was compared
            lines.insert(0, Text(f"{row.expected} predicted, not measured"))
        text = Text("\n").join(lines)
        add_row(table, row.name, row.outcome.value, text, style=_OUTCOMES[row.outcome])
    return table


@dataclass(frozen=True, slots=True)
class Span:
    """A bar from `start` to `stop` of `whole`, or only a line at its end."""

    start: int
    stop: int
    whole: int
    colour: str
    line: bool = False

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(_PICTURE_MIN, _PICTURE_MAX).with_maximum(max(options.max_width, _PICTURE_MIN))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = min(options.max_width, _PICTURE_MAX)
        start, stop = (
            round(columns * at / self.whole) if self.whole else 0 for at in (self.start, self.stop)
        )
        if self.stop > self.start:
            stop = max(stop, start + 1)
        full, line = ("#", "|") if options.ascii_only else ("█", "▏")
        text = " " * stop + line if self.line else " " * start + full * (stop - start)
        yield Segment(text[:columns], Style(color=self.colour))
        yield Segment.line()
