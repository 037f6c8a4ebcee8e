"""A memory snapshot as a card for a terminal and as an HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..records import Held, Snapshot
from ..units import format_bytes
from . import figures, wording
from . import snapshot_rows as rows
from .markup import (
    bytes_cell,
    column_heads,
    document,
    number,
    percent_cell,
    picture,
    section,
    table_row,
    text,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

_HOLDERS, _COLUMNS, _POINTS = 12, 80, 2000


def snapshot_card(snapshot: Snapshot) -> RenderableType:
    """The allocator's state, the lines that hold most, the curve of the events."""
    from .terminal import Card

    return Card(lambda width: _parts(snapshot, width))


def _parts(snapshot: Snapshot, width: int) -> Iterator[Any]:
    from rich.text import Text

    from .terminal import Sparkline, pairs, section

    yield Text.assemble(
        (wording.plain(snapshot.name), "bold"), ("  memory snapshot of PyTorch's CUDA allocator", "dim")
    )
    yield pairs(rows.summary(snapshot))
    yield from section("Allocated, by line of source", _bars(snapshot.held(), snapshot.allocated))
    for history in rows.histories(snapshot, points=min(width, _COLUMNS)):
        yield from section(rows.history_title(history), Sparkline(history.requested, history.peak))
        yield from section(f"At that instant, cuda:{history.device}", _bars(history.held, history.peak))
    if snapshot.settings:
        yield from section(
            "Settings of the allocator", *(Text(wording.plain(each)) for each in snapshot.settings)
        )


def _bars(held: Sequence[Held], whole: int) -> Any:
    from .terminal import Bar, add_row, grid

    table = grid(expand=True)
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(ratio=1)
    for row in rows.holders(held, _HOLDERS):
        bar = Bar(((None, row.nbytes),), whole)
        add_row(
            table, rows.name_holder(row), format_bytes(row.nbytes), wording.percent(row.nbytes, whole), bar
        )
    return table


def snapshot_page(snapshot: Snapshot) -> str:
    """The same as one HTML page that works offline."""
    histories = rows.histories(snapshot, points=_POINTS)
    return document(
        snapshot,
        title=snapshot.name,
        header=_header(snapshot),
        body="".join(_sections(snapshot, histories)),
        pictures={f"history-{history.device}": _curve(history) for history in histories},
    )


def _header(snapshot: Snapshot) -> str:
    return (
        '<p class="eyebrow">Memory snapshot of PyTorch\'s CUDA allocator</p>'
        f"<h1>{text(snapshot.name)}</h1>"
        f'<div class="hero"><p class="peak">{number(snapshot.allocated)}</p>'
        '<p class="basis"><span class="tag">allocated, by the allocator</span></p></div>'
        f'<p class="reached">of {number(snapshot.reserved)} that it reserved.</p>'
    )


def _sections(snapshot: Snapshot, histories: Sequence[rows.History]) -> Iterator[str]:
    yield section("state", "State", "recorded", _pairs(rows.summary(snapshot)))
    yield section(
        "held", "Allocated, by line of source", "recorded", _table(snapshot.held(), snapshot.allocated)
    )
    for history in histories:
        name, title = f"history-{history.device}", rows.history_title(history)
        table = f'<div class="apart">{_table(history.held, history.peak)}</div>'
        body = f'<p class="lead">{text(title)}</p>{picture(name, title)}{table}'
        yield section(f"over-{history.device}", "Over the recorded events", "recorded", body)
    if snapshot.settings:
        items = "".join(f"<li>{text(each)}</li>" for each in snapshot.settings)
        yield section("settings", "Settings of the allocator", "", f'<ul class="plain">{items}</ul>')


def _pairs(named: Sequence[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<dt>{text(name)}</dt><dd>{text(value)}</dd>' for name, value in named)}</dl>"


def _table(held: Sequence[Held], whole: int) -> str:
    body = "".join(
        table_row(
            f"<th scope=row>{text(rows.name_holder(row))}</th>",
            f'<td class="n wide">{row.blocks if row.blocks >= 0 else ""}</td>',
            bytes_cell(row.nbytes),
            percent_cell(row.nbytes, whole),
        )
        for row in rows.holders(held, _HOLDERS)
    )
    total = table_row(
        "<th scope=row>total</th>", '<td class="wide"></td>', bytes_cell(whole), percent_cell(whole, whole)
    )
    head = column_heads("line", "blocks:n wide", "bytes", "share")
    return f"<table>{head}<tbody>{body}</tbody><tfoot>{total}</tfoot></table>"


def _curve(history: rows.History) -> figures.Figure:
    """Reserved above requested, over the events."""
    top = max(*history.reserved, history.peak, 1)
    ticks = figures.binary_ticks(top)
    layout = {
        **figures.base_layout(),
        "margin": {"t": 34, "l": 70, "r": 14, "b": 46},
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        "showlegend": True,
        "hovermode": "x",
        "xaxis": {**figures.AXIS, "showgrid": False, "tickformat": ",d", "title": {"text": "events"}},
        "yaxis": {
            **figures.AXIS,
            "range": [0, 1.06 * top],
            "fixedrange": True,
            "tickvals": ticks,
            "ticktext": [figures.axis_text(tick) for tick in ticks],
        },
    }
    reserved = _line("reserved", history.instants, history.reserved, "@unexplained")
    requested = {**_line("asked for", history.instants, history.requested, "@gradient"), "fill": "tozeroy"}
    return {"data": [reserved, requested], "layout": layout}


def _line(name: str, instants: list[int], values: list[int], colour: str) -> figures.Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": instants,
        "y": values,
        "line": {"shape": "hv", "width": 1.5, "color": colour},
        "hovertext": [f"{format_bytes(value)} {name}" for value in values],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }
