"""A comparison as text for a terminal: the table keeps the columns that matter most at its width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from ..records import ComparedNet, Comparison
from . import comparison_rows as rows
from .comparison_rows import Cell
from .terminal import Card, add_row, grid, pairs, section
from .wording import plain

_GAP = 2  # between columns
_MARKS = 3
_NAME = 28  # columns that a net's name gets before any number but the one sorted by
_BOLD, _DIM = "bold", "dim"
#: Where there is no room for all columns, the last of these go first; what is sorted by comes before all.
_BY_WEIGHT = (
    "training",
    "file",
    "inference",
    "top-1",
    "latency",
    "RAM in ORT",
    "latency in ORT",
    "int8",
    "largest batch",
    "saved/sample",
    "params",
    "MACs",
    "folded",
)


def comparison_card(comparison: Comparison) -> Card:
    """The nets with their figures, why some are behind, and where the figures come from."""
    return Card(lambda width: _parts(comparison, width))


def _parts(comparison: Comparison, width: int) -> Iterator[RenderableType]:
    yield Text.assemble((rows.title(comparison), _BOLD), f"  {rows.conditions(comparison)}")
    if said := rows.verdicts(comparison):
        yield from section("What fits", *(Text(line) for line in said))
    yield from section("Nets, smallest first", *_table(comparison, width))
    if behind := [(net.target, why) for net in comparison.nets if (why := rows.why_behind(comparison, net))]:
        yield from section("Not on the front", _named(behind))
    yield from section("What the columns are", pairs(rows.meanings(comparison)))
    if found := rows.sources(comparison):
        yield from section("Published accuracies", _named(found))
    if noted := rows.notes(comparison):
        yield from section("Notes", _named(noted))
    yield from section("How these numbers were made", pairs(rows.facts(comparison)))


def _table(comparison: Comparison, width: int) -> Iterator[RenderableType]:
    every = [(net, rows.cells(comparison, net)) for net in comparison.nets]
    heads, missing = _heads(comparison, [cells for _, cells in every], width)
    table = grid()
    table.show_header = True
    table.add_column("", no_wrap=True)
    table.add_column("net", overflow="fold", header_style=_DIM)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True, header_style=_DIM)
    for net, cells in every:
        add_row(
            table,
            rows.marks(comparison, net),
            plain(net.target),
            *(cells[head].text for head in heads),
            style=_style(comparison, net),
        )
    yield table
    yield Text("* no other net is better in all that was compared", style=_DIM)
    if comparison.own:
        yield Text("> your own net", style=_DIM)
    if any(comparison.fits(net) is False for net in comparison.nets):
        yield Text("! beyond the budget", style=_DIM)
    if missing:
        yield Text(f"left out at this width: {', '.join(missing)}", style=_DIM)


def _named(said: Sequence[tuple[str, str]]) -> RenderableType:
    """A text for each name, which may be as long as a path."""
    table = grid()
    table.add_column(overflow="fold")
    for name, text in said:
        add_row(table, Text.assemble((plain(name), _DIM), f"  {text}"))
    return table


def _style(comparison: Comparison, net: ComparedNet) -> str:
    if net.target == comparison.own:
        return _BOLD
    return _DIM if net.failed or net.dominated_by else ""


def _heads(
    comparison: Comparison, every: Sequence[dict[str, Cell]], width: int
) -> tuple[list[str], list[str]]:
    """The columns that fit beside the names, in the table's order, and those that do not."""
    able = rows.heads(comparison)
    wanted = rows.wanted_head(comparison)
    room = width - _MARKS - 2 * _GAP - min(_NAME, width // 3, max(len(net.target) for net in comparison.nets))
    kept: set[str] = set()
    for head in (wanted, *(head for head in _BY_WEIGHT if head != wanted)):
        taken = _GAP + max(len(text) for text in (head, *(cells[head].text for cells in every)))
        if head in able and taken <= room:
            kept.add(head)
            room -= taken
    return [head for head in able if head in kept], [head for head in able if head not in kept]
