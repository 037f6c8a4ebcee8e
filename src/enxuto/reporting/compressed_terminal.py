"""A compression as text for a terminal: the size table keeps the columns that matter most at its width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..records import Compressed
from ..units import format_bytes, format_count
from . import certificate_rows, wording
from . import compressed_rows as rows
from .compressed_rows import CandidateRow, Value
from .terminal import Card, add_row, grid, pairs, section

_CANDIDATES, _LAYERS = 12, 8
_GAP = 2  # between columns
_NAME = 26  # columns that a candidate's name gets before any number but the file's
_WITH_KEPT, _WITH_ORIGINAL, _WITH_RATIO = 50, 60, 76  # columns of a terminal
_BOLD, _DIM = "bold", "dim"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """A column of numbers: its head, what it holds for each row, and the room that it takes."""

    head: str
    cells: tuple[str, ...]

    @property
    def width(self) -> int:
        return _GAP + max(len(text) for text in (self.head, *self.cells))


def compressed_card(compressed: Compressed) -> Card:
    """Every candidate with its sizes and its quality, the limits, the certificate, and what is sensitive."""
    return Card(lambda width: _parts(compressed, width))


def _parts(compressed: Compressed, width: int) -> Iterator[RenderableType]:
    yield Text.assemble((wording.plain(compressed.workload), _BOLD), f"  {rows.headline(compressed)}")
    if compressed.chosen < 0:
        yield from section("Why nothing was chosen", _lines(rows.why_nothing(compressed)))
        if needs := rows.needed(compressed):
            yield from section("What would have to be allowed", _lines(needs))
    yield from section("Candidates, measured", *_candidates(compressed, width))
    whose = "chosen" if compressed.chosen >= 0 else "nearest"
    yield from section("What was asked for", _limits(compressed, whose, width))
    yield from section(f"Certificate: {rows.certified(compressed)}", *_certificate(compressed))
    if compressed.layers:
        yield from section("Most sensitive layers, each quantized alone", *_layers(compressed))
    yield from section("How these numbers were made", pairs(rows.conditions(compressed)))


def _lines(texts: Sequence[str]) -> RenderableType:
    table = grid()
    table.add_column(overflow="fold")
    for text in texts:
        add_row(table, text)
    return table


def _candidates(compressed: Compressed, width: int) -> Iterator[RenderableType]:
    """The size table; why a candidate was refused stands below its name."""
    shown = rows.candidates(compressed, limit=_CANDIDATES)
    columns, missing = _columns_for(compressed, shown, width)
    table = _headed("", "candidate", *(column.head for column in columns))
    for place, row in enumerate(shown):
        name = Text.assemble(row.name, (f"\n{row.refused}" if row.refused else "", _DIM))
        cells = (column.cells[place] for column in columns)
        add_row(table, row.marks, name, *cells, style=_BOLD if row.chosen else "")
    yield table
    for note in _notes(compressed, shown, missing):
        yield Text(note, style=_DIM)


def _headed(marks: str, label: str, *numbers: str) -> Table:
    """A table whose numbers never wrap."""
    table = grid()
    table.show_header = True
    table.add_column(marks, no_wrap=True)
    table.add_column(label, overflow="fold", header_style=_DIM)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True, header_style=_DIM)
    return table


def _notes(compressed: Compressed, shown: Sequence[CandidateRow], missing: Sequence[str]) -> Iterator[str]:
    chosen = "> chosen; " if compressed.chosen >= 0 else ""
    yield f"{chosen}* no other is both smaller and loses less"
    yield rows.drop_note(compressed)
    if missing:
        yield f"left out at this width: {', '.join(missing)}"
    if more := rows.left_out(len(shown), compressed):
        yield more


def _columns_for(
    compressed: Compressed, shown: Sequence[CandidateRow], width: int
) -> tuple[list[_Column], list[str]]:
    """The columns that fit beside the names, in the table's order, and the heads of those that do not."""
    unmeasured = rows.unmeasured_columns(compressed)
    able = {
        name: column for name, column in _columns(compressed, shown).items() if column.head not in unmeasured
    }
    room = width - len(rows.MARKS) - _GAP - min(_NAME, width // 3)
    kept: set[str] = set()
    for name in (name for name in _BY_WEIGHT if name in able):
        extra = able[name].width - (able["latency"].width if name == "spread" and "latency" in kept else 0)
        if extra <= room:
            kept.add(name)
            room -= extra
    if "spread" in kept:
        kept.discard("latency")
    missing = [able[name].head for name in able if name not in kept and name not in ("latency", "spread")]
    missing += ["latency"] if "latency" in able and not kept & {"latency", "spread"} else []
    missing += ["quartiles of the latency"] if "latency" in kept else []
    return [column for name, column in able.items() if name in kept], missing


#: Where there is no room for all columns, the last of these go first.
_BY_WEIGHT = (
    "file",
    "metric",
    "upper",
    "ram",
    "gzip",
    "drop",
    "latency",
    "coverage",
    "parameters",
    "spread",
)


def _columns(compressed: Compressed, shown: Sequence[CandidateRow]) -> dict[str, _Column]:
    def column(head: str, cells: Iterator[str]) -> _Column:
        return _Column(head=head, cells=tuple(cells))

    return {
        "parameters": column("params", (format_count(row.candidate.parameters) for row in shown)),
        "file": column("file", (format_bytes(row.candidate.file_bytes) for row in shown)),
        "gzip": column("gzip", (format_bytes(row.candidate.gzip_bytes) for row in shown)),
        "ram": column("peak RAM", (rows.bytes_text(row.candidate.ram_bytes) for row in shown)),
        "latency": column("latency", (row.latency for row in shown)),
        "spread": column("latency", (row.spread for row in shown)),
        "metric": column(rows.metric_head(compressed), (row.metric for row in shown)),
        "drop": column("drop", (row.drop for row in shown)),
        "upper": column("at most", (row.upper for row in shown)),
        "coverage": column("covered", (row.coverage for row in shown)),
    }


def _limits(compressed: Compressed, whose: str, width: int) -> RenderableType:
    """The limits; narrow terminals leave out the ratios, the original, then the word about each."""
    table = grid()
    table.show_header = True
    table.add_column("", overflow="fold")
    heads = {
        "before": ("original", width >= _WITH_ORIGINAL),
        "after": (whose, True),
        "ratio": ("", width >= _WITH_RATIO),
        "asked": ("asked for", True),
        "kept": ("", width >= _WITH_KEPT),
    }
    shown = {name: head for name, (head, fits) in heads.items() if fits}
    for name, head in shown.items():
        right = name in ("before", "after")
        table.add_column(head, justify="right" if right else "left", no_wrap=True, header_style=_DIM)
    for row in rows.limits(compressed):
        cells = {
            "before": _text(row.before),
            "after": _text(row.after),
            "ratio": row.ratio,
            "asked": _text(row.asked),
            "kept": rows.kept_word(row.kept),
        }
        style = _BOLD if row.kept is False else ""
        add_row(table, row.name, *(cells[name] for name in shown), style=style)
    return table


def _text(value: Value) -> str:
    return format_bytes(value) if isinstance(value, int) else value


def _certificate(compressed: Compressed) -> Iterator[RenderableType]:
    if certificate := compressed.certificate:
        yield pairs(certificate_rows.summary(certificate)[1:])


def _layers(compressed: Compressed) -> Iterator[RenderableType]:
    shown = rows.layers(compressed, limit=_LAYERS)
    table = _headed("", "layer", "KL", "weights")
    for layer in shown:
        add_row(table, "", *rows.layer_text(layer))
    yield table
    if more := rows.more_layers(len(shown), compressed):
        yield Text(more, style=_DIM)
