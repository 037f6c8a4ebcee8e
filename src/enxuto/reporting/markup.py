"""What every page is made of: the document around it, its sections, tables, numbers and escaped text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from importlib import resources
from string import Template
from typing import Any

from ..records import codec
from ..units import format_bytes
from . import figures, wording
from .palette import NUMERICS_SHADES, SHADES, SURFACES, slug


def document(
    record: Any, *, title: str, header: str, body: str, pictures: Mapping[str, figures.Figure]
) -> str:
    """One self-contained HTML page; it loads nothing.

    Args:
        record: is stored in the page as JSON.
        title: of the browser's tab.
        header: HTML of the top.
        body: HTML of the sections.
        pictures: plotly figures by the name of the `picture` that each fills.
    """
    from plotly.offline import get_plotlyjs

    return Template(_asset("page.html")).substitute(
        title=text(title),
        styles=styles(),
        header=header,
        body=body,
        plotly=get_plotlyjs() if pictures else "",
        script=_asset("page.js"),
        record=_embedded(codec.to_json(record).decode()),
        figures=_embedded(json.dumps(pictures)),
        themes=_embedded(json.dumps(figures.themes())),
    )


def styles() -> str:
    """The style sheet of every page: colours for light and dark, then the rest."""
    return f"{_theme_styles()}\n{_asset('page.css')}"


def _asset(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _embedded(text: str) -> str:
    """JSON inside a script element: without `<` it can neither end the element nor open a comment."""
    return text.replace("<", "\\u003c")


def _theme_styles() -> str:
    light, dark = (_variables(theme) for theme in ("light", "dark"))
    return (
        f":root{{color-scheme:light;{light}}}\n"
        f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}\n"
        f":root[data-theme=dark]{{color-scheme:dark;{dark}}}"
    )


def _variables(theme: str) -> str:
    named = {
        **SURFACES,
        **{slug(category): shade for category, shade in SHADES.items()},
        **{numerics.value: shade for numerics, shade in NUMERICS_SHADES.items()},
    }
    return "".join(f"--{name}:{getattr(shade, theme)};" for name, shade in named.items())


def section(name: str, title: str, tag: str, body: str) -> str:
    """A card with a title, and a tag that says what its numbers are."""
    label = f' <span class="tag">{text(tag)}</span>' if tag else ""
    return f'<section id="{name}" class="card"><h2>{text(title)}{label}</h2>{body}</section>'


def picture(name: str, sentence: str, *, height: int | None = None) -> str:
    """The place of a picture, named by a sentence; `height` in pixels where the style sheet's does not fit."""
    style = f' style="height:{height}px"' if height else ""
    return (
        f'<div id="{name}" class="picture" role="img"{style} aria-label="{text(sentence)}"></div>'
        f"<noscript><p>Pictures need JavaScript; the tables hold the same numbers.</p></noscript>"
    )


def column_heads(*columns: str) -> str:
    """A table's head from `name` or `name:classes`; the first column is text, the others are numbers."""
    cells = ""
    for place, column in enumerate(columns):
        name, _, classes = column.partition(":")
        kind = classes or ("t" if place == 0 else "n")
        cells += f'<th scope=col class="{kind}">{text(name)}</th>'
    return f"<thead><tr>{cells}</tr></thead>"


def table_row(*cells: str) -> str:
    """One row of a table, of cells."""
    return f"<tr>{''.join(cells)}</tr>"


def bytes_cell(nbytes: int) -> str:
    """A cell with bytes, the exact number behind the rounded one."""
    return f'<td class="n strong">{number(nbytes)}</td>'


def percent_cell(part: int, whole: int) -> str:
    """A cell with a share."""
    return f'<td class="n">{text(wording.percent(part, whole))}</td>'


def number(nbytes: int) -> str:
    """Bytes as text, the exact number behind it."""
    return f'<span data-bytes="{nbytes}" title="{nbytes:,} bytes">{format_bytes(nbytes)}</span>'


def text(text: str) -> str:
    """Text, made safe to show in HTML."""
    return escape(wording.plain(text), quote=True)
