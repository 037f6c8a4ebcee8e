"""An Explanation as one HTML page that works offline: tables, two interactive pictures, light and dark."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

from ..records import CATEGORIES, Category, Explanation, Owner, codec
from ..units import format_bytes, format_count
from . import figures, rows, wording
from .palette import SHADES, SURFACES, slug
from .rows import Part, Row

_OWNERS, _SITES, _PARTS, _MODULES, _GROWTH, _MOMENTS = 12, 12, 12, 150, 12, 24


def page(explanation: Explanation) -> str:
    """One self-contained HTML page; it loads nothing, and every number in it comes from the record."""
    from plotly.offline import get_plotlyjs

    pictures = {"treemap": figures.treemap(explanation), "timeline": figures.timeline(explanation)}
    drawn = {name: figure for name, figure in pictures.items() if figure}
    return Template(_asset("page.html")).substitute(
        title=_text(explanation.facts.workload),
        styles=f"{_theme_styles()}\n{_asset('page.css')}",
        header=_header(explanation),
        body="".join(_sections(explanation, drawn)),
        plotly=get_plotlyjs(),
        script=_asset("page.js"),
        record=_embedded(codec.to_json(explanation).decode()),
        figures=_embedded(json.dumps(drawn)),
        themes=_embedded(json.dumps(figures.themes())),
    )


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
    named = {**SURFACES, **{slug(category): shade for category, shade in SHADES.items()}}
    return "".join(f"--{name}:{getattr(shade, theme)};" for name, shade in named.items())


def _header(explanation: Explanation) -> str:
    facts = explanation.facts
    steps = wording.step_peaks(facts)
    receipt = rows.receipt(explanation)
    return (
        f'<p class="eyebrow">Memory at the peak of one step</p><h1>{_text(facts.workload)}</h1>'
        f'<p class="conditions">{_text(wording.conditions(facts))} · torch {_text(facts.torch)}</p>'
        f'<div class="hero"><p class="peak">{_number(explanation.peak)}</p>'
        f'<p class="basis"><span class="tag">{_text(wording.basis(explanation.world))}</span></p></div>'
        f'<p class="reached">Reached {_text(wording.reached(explanation.instant))}.</p>'
        + (f'<p class="steps">Steps: {_text(steps)}.</p>' if steps else "")
        + f'<div class="strip">{_bar([row.parts[0] for row in receipt], explanation.peak)}</div>'
        + _legend(row.parts[0][0] for row in receipt if row.nbytes)
    )


def _sections(explanation: Explanation, drawn: dict[str, Any]) -> Iterable[str]:
    word = wording.basis_word(explanation.world)
    if explanation.findings:
        yield _section("findings", "Findings", "computed on this trace", _findings(explanation))
    yield _section("receipt", "Receipt", word, _receipt(explanation))
    if "treemap" in drawn:
        yield _section("where", "Where the bytes are", word, _treemap(explanation))
    if "timeline" in drawn:
        yield _section("when", "Over the step", word, _timeline(explanation))
    if explanation.owners:
        yield _section("owners", "What is alive, and why", word, _owners(explanation))
    if explanation.sites:
        body = _row_table("source line", rows.sites(explanation, limit=_SITES), explanation.peak)
        yield _section("sites", "By line of your source", word, body)
    if explanation.phases:
        yield _section("phases", "By phase", word, _phases(explanation))
    if explanation.alternatives:
        yield _section("alternatives", "Under another condition", word, _alternatives(explanation))
    if explanation.growth:
        yield _section("growth", "Kept by the generation", word, _growth(explanation))
    yield _section("facts", "How these numbers were made", "", _facts(explanation))


def _section(name: str, title: str, tag: str, body: str) -> str:
    label = f' <span class="tag">{_text(tag)}</span>' if tag else ""
    return f'<section id="{name}" class="card"><h2>{_text(title)}{label}</h2>{body}</section>'


def _findings(explanation: Explanation) -> str:
    items = "".join(
        f'<li><p><strong class="id">{_text(finding.id)}</strong> {_text(finding.text)}</p>'
        + (f'<p class="about">{_number(finding.nbytes)}</p>' if finding.nbytes else "")
        + "</li>"
        for finding in explanation.findings
    )
    return f'<ul class="findings">{items}</ul>'


def _receipt(explanation: Explanation) -> str:
    peak = explanation.peak
    body = "".join(
        _line(
            f"<th scope=row>{_swatch(row.parts[0][0])}{_text(row.label)}</th>",
            f'<td class="bar wide">{_bar(row.parts, peak)}</td>',
            _bytes_cell(row.nbytes),
            _percent_cell(row.nbytes, peak),
            f'<td class="n wide exact">{row.nbytes:,}</td>',
            f'<td class="note wide">{_text(row.note)}</td>',
        )
        for row in rows.receipt(explanation)
    )
    total = _line(
        "<th scope=row>total = peak</th>",
        '<td class="wide"></td>',
        _bytes_cell(peak),
        _percent_cell(peak, peak),
        f'<td class="n wide exact">{peak:,}</td>',
        '<td class="wide"></td>',
    )
    head = _head("category", ":wide", "at the peak", "share", "bytes:n wide", ":wide")
    note = f'<p class="under">Kernel scratch is {_text(wording.scratch_note(explanation.facts))}.</p>'
    return f"<table>{head}<tbody>{body}</tbody><tfoot>{total}</tfoot></table>{note}"


def _treemap(explanation: Explanation) -> str:
    largest = rows.modules(explanation, limit=8)
    named = ", ".join(
        f"{row.label} {format_bytes(row.nbytes)} ({wording.percent(row.nbytes, explanation.peak)})"
        for row in largest[:4]
    )
    sentence = f"Treemap of the {format_bytes(explanation.peak)} at the peak by module. Largest: {named}."
    table = _row_table("module", rows.module_table(explanation, limit=_MODULES), explanation.peak)
    parts = _row_table(
        "part of the model", rows.modules(explanation, limit=_PARTS), explanation.peak, exact=False
    )
    return (
        f'<p class="lead">Each rectangle is as large as its bytes; its colour is the category. '
        f"Click a module to open it, and the bar above to go back.</p>"
        f"{_legend(share.category for share in explanation.modules)}"
        f"{_picture('treemap', sentence)}{parts}"
        f"<details><summary>The same, as a table of modules</summary>{table}</details>"
    )


def _timeline(explanation: Explanation) -> str:
    curve = explanation.curve
    sentence = (
        f"Bytes alive over {wording.counted(curve.total_ticks, 'event')} of the step, stacked by category. "
        f"The peak, {format_bytes(explanation.peak)}, is reached at tick {explanation.instant.tick:,}, "
        f"{wording.reached(explanation.instant)}."
    )
    body = "".join(
        _line(
            f'<td class="n">{curve.ticks[index]:,}</td>',
            f"<td>{_text(figures.phase_at(curve, curve.ticks[index]))}</td>",
            _bytes_cell(rows.totals(curve)[index]),
            f'<td class="wide">{_text(curve.labels[index])}</td>',
        )
        for index in _moments(explanation)
    )
    head = _head("tick:n", "phase:t", "alive", "what ran:wide t")
    return (
        '<p class="lead">Point at the curve to see what ran and what was alive; drag to zoom, double-click '
        "to go back.</p>"
        f"{_legend(line.category for line in curve.categories if any(line.nbytes))}"
        f"{_picture('timeline', sentence)}"
        f"<details><summary>The same, as a sentence and a table</summary><p>{_text(sentence)}</p>"
        f"<table>{head}<tbody>{body}</tbody></table></details>"
    )


def _moments(explanation: Explanation) -> list[int]:
    """Evenly spread samples of the curve, and the one at the peak."""
    ticks = explanation.curve.ticks
    spread = {place * (len(ticks) - 1) // (_MOMENTS - 1) for place in range(_MOMENTS)}
    return sorted(spread | {index for index, tick in enumerate(ticks) if tick == explanation.instant.tick})


def _picture(name: str, sentence: str) -> str:
    return (
        f'<div id="{name}" class="picture" role="img" aria-label="{_text(sentence)}"></div>'
        f"<noscript><p>Pictures need JavaScript; the tables hold the same numbers.</p></noscript>"
    )


def _owners(explanation: Explanation) -> str:
    shown, rest = rows.owners(explanation, limit=_OWNERS)
    body = "".join(_owner(owner, explanation.peak) for owner in shown)
    body += "".join(
        _line(
            _bytes_cell(row.nbytes),
            _percent_cell(row.nbytes, explanation.peak),
            f"<td>{_text(row.label)}</td>",
        )
        for row in rest
    )
    head = _head("alive", "share", "what and why:t")
    return f'<table class="owners">{head}<tbody>{body}</tbody></table>'


def _owner(owner: Owner, peak: int) -> str:
    made = f"made by <code>{_text(owner.op)}</code>" if owner.op else "there before the first op"
    line = f" at {_place(owner)}" if owner.site else ""
    return _line(
        _bytes_cell(owner.nbytes),
        _percent_cell(owner.nbytes, peak),
        f"<td><p><strong>{_text(wording.module_name(owner.module))}</strong> "
        f'<span class="kind">{_swatch(owner.category)}{_text(owner.category.value)}, '
        f"{_text(wording.counted(owner.blocks, 'block'))}</span></p>"
        f'<p>{_text(owner.why)}</p><p class="made">{made}{line}</p></td>',
    )


def _place(owner: Owner) -> str:
    if owner.site is None:
        return ""
    return f'<code title="{_text(str(owner.site))}">{_text(wording.place(owner.site))}</code>'


def _row_table(noun: str, table_rows: Sequence[Row], peak: int, *, exact: bool = True) -> str:
    """A table whose bars are as long as their share of the longest one."""
    longest = max((row.nbytes for row in table_rows), default=0)
    body = "".join(
        _line(
            f"<th scope=row>{_text(row.label)}</th>",
            f'<td class="bar wide">{_bar(row.parts, longest)}</td>',
            _bytes_cell(row.nbytes),
            _percent_cell(row.nbytes, peak),
            f'<td class="n wide exact">{row.nbytes:,}</td>' if exact else "",
        )
        for row in table_rows
    )
    head = _head(noun, ":wide", "at the peak", "share", *(["bytes:n wide"] if exact else []))
    return f"<table>{head}<tbody>{body}</tbody></table>"


def _phases(explanation: Explanation) -> str:
    highest = max(cost.peak for cost in explanation.phases)
    body = "".join(
        _line(
            f"<th scope=row>{_text(cost.phase.value)}</th>",
            f'<td class="bar wide">{_bar(((None, cost.peak),), highest)}</td>',
            _bytes_cell(cost.peak),
            f'<td class="n">{cost.ops:,}</td>',
            f'<td class="n">{_text(format_count(cost.flops))}</td>',
        )
        for cost in explanation.phases
    )
    head = _head("phase", ":wide", "highest in it", "ops", "flops")
    note = '<p class="under">Floating-point operations are counted from the shapes, not timed.</p>'
    return f"<table>{head}<tbody>{body}</tbody></table>{note}"


def _alternatives(explanation: Explanation) -> str:
    highest = max(explanation.peak, *(each.peak for each in explanation.alternatives))
    this = ("as explained here", explanation.peak, "")
    others = [
        (each.label, each.peak, wording.change(explanation.peak, each.peak))
        for each in explanation.alternatives
    ]
    body = "".join(
        _line(
            f"<th scope=row>{_text(label)}</th>",
            f'<td class="bar wide">{_bar(((None, peak),), highest)}</td>',
            _bytes_cell(peak),
            f'<td class="n">{_text(difference)}</td>',
        )
        for label, peak, difference in [this, *others]
    )
    return f"<table>{_head('condition', ':wide', 'peak', 'difference')}<tbody>{body}</tbody></table>"


def _growth(explanation: Explanation) -> str:
    body = "".join(
        _line(f"<th scope=row>{_text(row.label)}</th>", _bytes_cell(row.nbytes), _bytes_cell(row.per_token))
        for row in rows.growth(explanation, limit=_GROWTH)
    )
    return f"<table>{_head('module', 'at the end', 'each token adds')}<tbody>{body}</tbody></table>"


def _facts(explanation: Explanation) -> str:
    pairs = "".join(
        f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in wording.facts_rows(explanation)
    )
    return f"<dl>{pairs}</dl>"


def _head(*columns: str) -> str:
    """A table's head from `name` or `name:classes`; the first column is text, the others are numbers."""
    cells = ""
    for place, column in enumerate(columns):
        name, _, classes = column.partition(":")
        kind = classes or ("t" if place == 0 else "n")
        cells += f'<th scope=col class="{kind}">{_text(name)}</th>'
    return f"<thead><tr>{cells}</tr></thead>"


def _line(*cells: str) -> str:
    return f"<tr>{''.join(cells)}</tr>"


def _bytes_cell(nbytes: int) -> str:
    return f'<td class="n strong">{_number(nbytes)}</td>'


def _percent_cell(part: int, whole: int) -> str:
    return f'<td class="n">{_text(wording.percent(part, whole))}</td>'


def _number(nbytes: int) -> str:
    return f'<span data-bytes="{nbytes}" title="{nbytes:,} bytes">{format_bytes(nbytes)}</span>'


def _bar(parts: Sequence[Part], whole: int) -> str:
    """A stacked bar; decoration beside numbers, hence hidden from screen readers."""
    pieces = "".join(
        f'<i style="width:{100 * nbytes / whole:.3f}%;background:{_colour(category)}"'
        f' title="{_text(category.value if category else "")} {format_bytes(nbytes)}"></i>'
        for category, nbytes in parts
        if nbytes > 0 and whole
    )
    return f'<span class="bars" aria-hidden="true">{pieces}</span>'


def _colour(category: Category | None) -> str:
    return f"var(--{slug(category) if category else 'unexplained'})"


def _swatch(category: Category | None) -> str:
    return f'<i class="swatch" style="background:{_colour(category)}"></i>'


def _legend(categories: Iterable[Category | None]) -> str:
    present = set(categories)
    items = "".join(
        f"<li>{_swatch(category)}{_text(category.value if category else 'unexplained')}</li>"
        for category in [*CATEGORIES, None]
        if category in present
    )
    return f'<ul class="legend">{items}</ul>'


def _text(text: str) -> str:
    return escape(wording.plain(text), quote=True)
