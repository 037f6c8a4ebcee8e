"""Records as text for a terminal: cards that fit any width, in colour where the terminal has colour."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from ..records import Category, Change, CurveSample, Difference, Explanation, LargestBatch, Owner, Timeline
from ..units import format_bytes, format_count
from . import rows, wording
from .palette import SHADES, SURFACES
from .rows import Part, Row

_WIDE = 88  # from here on there is room for exact bytes beside the rounded ones
_BAR_MIN, _BAR_MAX, _SPARK_MAX = 6, 40, 100
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_HEIGHTS, _ASCII_HEIGHTS = "▁▂▃▄▅▆▇█", ".,:;=+*#"

_BOLD, _DIM, _PLAIN = "bold", "dim", ""


@dataclass(frozen=True, slots=True)
class Card:
    """A rich renderable that asks for its parts once the width is known."""

    parts: Callable[[int], Iterator[RenderableType]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.parts(options.max_width)


def card(explanation: Explanation) -> Card:
    """The receipt of a peak and everything that explains it."""
    return Card(lambda width: _explanation_parts(explanation, width))


def difference_card(difference: Difference) -> Card:
    """Two peaks and what changed between them."""
    return Card(lambda width: _difference_parts(difference))


def timeline_card(timeline: Timeline) -> Card:
    """The size of a Timeline and its peak by category."""
    return Card(lambda width: _timeline_parts(timeline))


def largest_batch_card(found: LargestBatch) -> Card:
    """The largest batch within a budget, with the traces on either side of it."""
    return Card(lambda width: _largest_batch_parts(found))


def _explanation_parts(explanation: Explanation, width: int) -> Iterator[RenderableType]:
    word = wording.basis_word(explanation.world)
    yield from _title(explanation)
    yield Strip(tuple(row.parts[0] for row in rows.receipt(explanation)), explanation.peak)
    yield from section(f"Receipt at the peak, {word}", _receipt(explanation, width))
    yield Text(f"Kernel scratch is {wording.scratch_note(explanation.facts)}.", style=_DIM)
    if explanation.curve.ticks:
        yield from section(f"Memory over the step, {word}", *_sparkline(explanation, width))
    if explanation.modules:
        yield from section(
            f"By part of the model, {word}", _bars(rows.modules(explanation, limit=10), explanation.peak)
        )
    if explanation.sites:
        yield from section(
            f"By line of your source, {word}", _bars(rows.sites(explanation, limit=6), explanation.peak)
        )
    if explanation.owners:
        yield from section(f"What is alive and why, {word}", _owners(explanation))
    if explanation.phases:
        yield from section(f"By phase, {word}", _phases(explanation))
    if explanation.alternatives:
        yield from section(f"The same work under another condition, {word}", _alternatives(explanation))
    if explanation.growth:
        yield from section(f"Kept by the generation, {word}", _growth(explanation))
    if explanation.findings:
        yield from section("Findings", _findings(explanation))
    yield from section("How these numbers were made", pairs(wording.facts_rows(explanation)))


def section(title: str, *body: RenderableType) -> Iterator[RenderableType]:
    """A part of a card under its title."""
    yield Text()
    yield Text(title, style=_BOLD)
    yield from body


def _title(explanation: Explanation) -> Iterator[RenderableType]:
    facts = explanation.facts
    yield Text.assemble((wording.plain(facts.workload), _BOLD), (f"  {wording.conditions(facts)}", _DIM))
    table = grid()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    peak = Text.assemble(
        (format_bytes(explanation.peak), _BOLD), f" {wording.basis(explanation.world)}", style=_PLAIN
    )
    add_row(table, "Peak", peak)
    add_row(table, "Reached", wording.reached(explanation.instant))
    steps = wording.step_peaks(facts)
    if steps:
        add_row(table, "Steps", steps)
    yield table


def _receipt(explanation: Explanation, width: int) -> RenderableType:
    table = grid(expand=True)
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    if width >= _WIDE:
        table.add_column(justify="right", no_wrap=True, style=_DIM)
    table.add_column(ratio=1)
    for row in rows.receipt(explanation):
        add_row(table, *_receipt_cells(row, explanation.peak, width), style=_row_style(row))
    total = Row(label="total = peak", parts=((None, explanation.peak),))
    cells = _receipt_cells(total, explanation.peak, width)
    add_row(table, *cells[:-1], "", style=_BOLD)
    return table


def _receipt_cells(row: Row, whole: int, width: int) -> list[RenderableType]:
    exact = [f"{row.nbytes:,} B"] if width >= _WIDE else []
    return [
        row.label,
        format_bytes(row.nbytes),
        wording.percent(row.nbytes, whole),
        *exact,
        Bar(row.parts, whole),
    ]


def _row_style(row: Row) -> str:
    return _PLAIN if row.nbytes else _DIM


def _bars(table_rows: Sequence[Row], whole: int) -> RenderableType:
    table = grid(expand=True)
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(ratio=1)
    for row in table_rows:
        add_row(
            table,
            row.label,
            format_bytes(row.nbytes),
            wording.percent(row.nbytes, whole),
            Bar(row.parts, whole),
        )
    return table


def _owners(explanation: Explanation) -> RenderableType:
    shown, rest = rows.owners(explanation, limit=6)
    table = grid()
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for owner in shown:
        add_row(table, format_bytes(owner.nbytes), _owner(owner))
    for row in rest:
        add_row(table, format_bytes(row.nbytes), Text(row.label, style=_DIM))
    return table


def _owner(owner: Owner) -> Text:
    made = f"made by {wording.plain(owner.op)}" if owner.op else "there before the first op"
    line = f" at {wording.place(owner.site)}" if owner.site else ""
    return Text.assemble(
        wording.module_name(owner.module),
        ("  ■ ", _colour(owner.category)),
        f"{owner.category.value}, {wording.counted(owner.blocks, 'block')}",
        f"\n{wording.plain(owner.why)}",
        (f" · {made}{line}", _DIM),
    )


def _phases(explanation: Explanation) -> RenderableType:
    table = grid()
    for name in ("", "peak in it", "ops", "flops (counted)"):
        table.add_column(name, justify="right" if name else "left", header_style=_DIM)
    table.show_header = True
    for cost in explanation.phases:
        add_row(
            table,
            cost.phase.value,
            format_bytes(cost.peak),
            f"{cost.ops:,}",
            format_count(cost.flops).strip(),
        )
    return table


def _alternatives(explanation: Explanation) -> RenderableType:
    table = grid()
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold", style=_DIM)
    for alternative in explanation.alternatives:
        add_row(
            table,
            wording.plain(alternative.label),
            format_bytes(alternative.peak),
            wording.change(explanation.peak, alternative.peak),
        )
    return table


def _growth(explanation: Explanation) -> RenderableType:
    table = grid()
    table.add_column(overflow="fold")
    for _ in range(2):
        table.add_column(justify="right", no_wrap=True)
    for row in rows.growth(explanation, limit=8):
        add_row(table, row.label, format_bytes(row.nbytes), f"{format_bytes(row.per_token)} per token")
    return table


def _findings(explanation: Explanation) -> RenderableType:
    table = grid()
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for finding in explanation.findings:
        text = Text.assemble((wording.plain(finding.id), _BOLD), f"  {wording.plain(finding.text)}")
        add_row(table, format_bytes(finding.nbytes) if finding.nbytes else "", text)
    return table


def pairs(named: Sequence[tuple[str, str]]) -> RenderableType:
    """Names and values in two columns."""
    table = grid()
    table.add_column(style=_DIM, no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in named:
        add_row(table, name, Text(value))
    return table


def _difference_parts(difference: Difference) -> Iterator[RenderableType]:
    yield Text.assemble(
        (wording.plain(difference.before), _BOLD), " → ", (wording.plain(difference.after), _BOLD)
    )
    yield from section("Peak", _changes([difference.peak]))
    yield from section("By category", _changes(difference.categories))
    if difference.modules:
        yield from section("By module", _changes(difference.modules))


def _changes(changes: Sequence[Change]) -> RenderableType:
    table = grid()
    table.show_header = True
    table.add_column("", overflow="fold")
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right", header_style=_DIM)
    for row in changes:
        add_row(
            table,
            wording.module_name(row.label),
            format_bytes(row.before),
            format_bytes(row.after),
            wording.change(row.before, row.after),
        )
    return table


def _timeline_parts(timeline: Timeline) -> Iterator[RenderableType]:
    facts = timeline.facts
    yield Text.assemble((wording.plain(facts.workload), _BOLD), (f"  {wording.conditions(facts)}", _DIM))
    yield pairs(rows.timeline_facts(timeline))
    peak = timeline.peak
    word = wording.basis_word(timeline.world)
    yield from section(f"At the peak, {word}", _bars(rows.timeline_receipt(timeline), peak))


def _largest_batch_parts(found: LargestBatch) -> Iterator[RenderableType]:
    facts = found.facts
    yield Text.assemble((wording.plain(facts.workload), _BOLD), (f"  {wording.mode(facts)}", _DIM))
    yield pairs(rows.largest_batch(found))


def _sparkline(explanation: Explanation, width: int) -> Iterator[RenderableType]:
    curve = explanation.curve
    columns = min(width, _SPARK_MAX)
    yield Sparkline(rows.buckets(curve, columns), explanation.peak)
    yield Text(_phase_ruler(curve, columns), style=_DIM)


def _phase_ruler(curve: CurveSample, width: int) -> str:
    """A mark under the sparkline where each phase begins, with its name where that fits."""
    ruler = ""
    spans = rows.bands(curve)
    for span in spans:
        start = span.start * width // max(curve.total_ticks, 1)
        stop = span.stop * width // max(curve.total_ticks, 1)
        name = span.phase.value if len(span.phase.value) < stop - start else ""
        if start >= len(ruler):
            ruler = f"{ruler.ljust(start)}|{name}"
    return ruler


def grid(*, expand: bool = False) -> Table:
    """A table without lines; columns are two spaces apart."""
    return Table(
        box=None,
        show_header=False,
        expand=expand,
        padding=(0, 2, 0, 0),
        pad_edge=False,
        collapse_padding=True,
    )


def add_row(table: Table, *cells: RenderableType, style: str = _PLAIN) -> None:
    """Add a row whose texts are taken as they are; rich would read a str, and a model's names, as markup."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells), style=style)


def _colour(category: Category | None) -> Style:
    shade = SHADES[category] if category else SURFACES["unexplained"]
    return Style(color=shade.either)


@dataclass(frozen=True, slots=True)
class Bar:
    """A horizontal bar of one or more coloured parts, as long as their share of `whole`."""

    parts: Sequence[Part]
    whole: int

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(_BAR_MIN, _BAR_MAX).with_maximum(max(options.max_width, _BAR_MIN))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from _stacked(self.parts, self.whole, min(options.max_width, _BAR_MAX), options)
        yield Segment.line()


@dataclass(frozen=True, slots=True)
class Strip:
    """The whole receipt as one line of colours; without colour it would say nothing, and is left out."""

    parts: Sequence[Part]
    whole: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if console.color_system and not console.no_color and self.whole:
            yield Segment.line()
            yield from _stacked(self.parts, self.whole, min(options.max_width, _SPARK_MAX), options)
            yield Segment.line()


def _stacked(parts: Sequence[Part], whole: int, columns: int, options: ConsoleOptions) -> Iterator[Segment]:
    eighths = 8 * columns
    drawn, passed = 0, 0
    for index, (category, nbytes) in enumerate(parts, start=1):
        passed += max(nbytes, 0)
        until = min(_round_up(passed * eighths, whole), eighths) if whole else 0
        if index < len(parts):
            until -= until % 8  # only the end of the bar may stop inside a cell
        yield Segment(_cells(until - drawn, ascii_only=options.ascii_only), _colour(category))
        drawn = until


def _cells(eighths: int, *, ascii_only: bool) -> str:
    full, part = divmod(eighths, 8)
    if ascii_only:
        return "#" * (full + (part > 3))
    return "█" * full + (_EIGHTHS[part] if part else "")


def _round_up(number: int, by: int) -> int:
    return -(-number // by)


@dataclass(frozen=True, slots=True)
class Sparkline:
    """The curve as one line of blocks, one column per bucket."""

    values: Sequence[int]
    peak: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        heights = _ASCII_HEIGHTS if options.ascii_only else _HEIGHTS
        top = len(heights) - 1
        yield Segment("".join(heights[value * top // self.peak if self.peak else 0] for value in self.values))
        yield Segment.line()
