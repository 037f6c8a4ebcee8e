"""An Explanation as one HTML page that works offline: tables, two interactive pictures, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..records import CATEGORIES, Category, Explanation, Owner
from ..units import format_bytes, format_count
from . import figures, rows, wording
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
from .palette import slug
from .rows import Part, Row

_OWNERS, _SITES, _PARTS, _MODULES, _GROWTH, _MOMENTS = 12, 12, 12, 150, 12, 24


def page(explanation: Explanation) -> str:
    """One self-contained HTML page; it loads nothing, and every number in it comes from the record."""
    pictures = {"treemap": figures.treemap(explanation), "timeline": figures.timeline(explanation)}
    drawn = {name: figure for name, figure in pictures.items() if figure}
    return document(
        explanation,
        title=explanation.facts.workload,
        header=_header(explanation),
        body="".join(_sections(explanation, drawn)),
        pictures=drawn,
    )


def _header(explanation: Explanation) -> str:
    facts = explanation.facts
    steps = wording.step_peaks(facts)
    receipt = rows.receipt(explanation)
    return (
        f'<p class="eyebrow">Memory at the peak of one step</p><h1>{text(facts.workload)}</h1>'
        f'<p class="conditions">{text(wording.conditions(facts))} · torch {text(facts.torch)}</p>'
        f'<div class="hero"><p class="peak">{number(explanation.peak)}</p>'
        f'<p class="basis"><span class="tag">{text(wording.basis(explanation.world))}</span></p></div>'
        f'<p class="reached">Reached {text(wording.reached(explanation.instant))}.</p>'
        + (f'<p class="steps">Steps: {text(steps)}.</p>' if steps else "")
        + f'<div class="strip">{_bar([row.parts[0] for row in receipt], explanation.peak)}</div>'
        + _legend(row.parts[0][0] for row in receipt if row.nbytes)
    )


def _sections(explanation: Explanation, drawn: dict[str, Any]) -> Iterable[str]:
    word = wording.basis_word(explanation.world)
    if explanation.findings:
        yield section("findings", "Findings", "computed on this trace", _findings(explanation))
    yield section("receipt", "Receipt", word, _receipt(explanation))
    if "treemap" in drawn:
        yield section("where", "Where the bytes are", word, _treemap(explanation))
    if "timeline" in drawn:
        yield section("when", "Over the step", word, _timeline(explanation))
    if explanation.owners:
        yield section("owners", "What is alive, and why", word, _owners(explanation))
    if explanation.sites:
        body = _row_table("source line", rows.sites(explanation, limit=_SITES), explanation.peak)
        yield section("sites", "By line of your source", word, body)
    if explanation.phases:
        yield section("phases", "By phase", word, _phases(explanation))
    if explanation.alternatives:
        yield section("alternatives", "Under another condition", word, _alternatives(explanation))
    if explanation.growth:
        yield section("growth", "Kept by the generation", word, _growth(explanation))
    yield section("facts", "How these numbers were made", "", _facts(explanation))


def _findings(explanation: Explanation) -> str:
    items = "".join(
        f'<li><p><strong class="id">{text(finding.id)}</strong> {text(finding.text)}</p>'
        + (f'<p class="about">{number(finding.nbytes)}</p>' if finding.nbytes else "")
        + "</li>"
        for finding in explanation.findings
    )
    return f'<ul class="findings">{items}</ul>'


def _receipt(explanation: Explanation) -> str:
    peak = explanation.peak
    body = "".join(
        table_row(
            f"<th scope=row>{_swatch(row.parts[0][0])}{text(row.label)}</th>",
            f'<td class="bar wide">{_bar(row.parts, peak)}</td>',
            bytes_cell(row.nbytes),
            percent_cell(row.nbytes, peak),
            f'<td class="n wide exact">{row.nbytes:,}</td>',
            f'<td class="note wide">{text(row.note)}</td>',
        )
        for row in rows.receipt(explanation)
    )
    total = table_row(
        "<th scope=row>total = peak</th>",
        '<td class="wide"></td>',
        bytes_cell(peak),
        percent_cell(peak, peak),
        f'<td class="n wide exact">{peak:,}</td>',
        '<td class="wide"></td>',
    )
    head = column_heads("category", ":wide", "at the peak", "share", "bytes:n wide", ":wide")
    note = f'<p class="under">Kernel scratch is {text(wording.scratch_note(explanation.facts))}.</p>'
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
        f"{picture('treemap', sentence)}{parts}"
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
        table_row(
            f'<td class="n">{curve.ticks[index]:,}</td>',
            f"<td>{text(figures.phase_at(curve, curve.ticks[index]))}</td>",
            bytes_cell(rows.totals(curve)[index]),
            f'<td class="wide">{text(curve.labels[index])}</td>',
        )
        for index in _moments(explanation)
    )
    head = column_heads("tick:n", "phase:t", "alive", "what ran:wide t")
    return (
        '<p class="lead">Point at the curve to see what ran and what was alive; drag to zoom, double-click '
        "to go back.</p>"
        f"{_legend(line.category for line in curve.categories if any(line.nbytes))}"
        f"{picture('timeline', sentence)}"
        f"<details><summary>The same, as a sentence and a table</summary><p>{text(sentence)}</p>"
        f"<table>{head}<tbody>{body}</tbody></table></details>"
    )


def _moments(explanation: Explanation) -> list[int]:
    """Evenly spread samples of the curve, and the one at the peak."""
    ticks = explanation.curve.ticks
    spread = {place * (len(ticks) - 1) // (_MOMENTS - 1) for place in range(_MOMENTS)}
    return sorted(spread | {index for index, tick in enumerate(ticks) if tick == explanation.instant.tick})


def _owners(explanation: Explanation) -> str:
    shown, rest = rows.owners(explanation, limit=_OWNERS)
    body = "".join(_owner(owner, explanation.peak) for owner in shown)
    body += "".join(
        table_row(
            bytes_cell(row.nbytes),
            percent_cell(row.nbytes, explanation.peak),
            f"<td>{text(row.label)}</td>",
        )
        for row in rest
    )
    head = column_heads("alive", "share", "what and why:t")
    return f'<table class="owners">{head}<tbody>{body}</tbody></table>'


def _owner(owner: Owner, peak: int) -> str:
    made = f"made by <code>{text(owner.op)}</code>" if owner.op else "there before the first op"
    line = f" at {_place(owner)}" if owner.site else ""
    return table_row(
        bytes_cell(owner.nbytes),
        percent_cell(owner.nbytes, peak),
        f"<td><p><strong>{text(wording.module_name(owner.module))}</strong> "
        f'<span class="kind">{_swatch(owner.category)}{text(owner.category.value)}, '
        f"{text(wording.counted(owner.blocks, 'block'))}</span></p>"
        f'<p>{text(owner.why)}</p><p class="made">{made}{line}</p></td>',
    )


def _place(owner: Owner) -> str:
    if owner.site is None:
        return ""
    return f'<code title="{text(str(owner.site))}">{text(wording.place(owner.site))}</code>'


def _row_table(noun: str, table_rows: Sequence[Row], peak: int, *, exact: bool = True) -> str:
    """A table whose bars are as long as their share of the longest one."""
    longest = max((row.nbytes for row in table_rows), default=0)
    body = "".join(
        table_row(
            f"<th scope=row>{text(row.label)}</th>",
            f'<td class="bar wide">{_bar(row.parts, longest)}</td>',
            bytes_cell(row.nbytes),
            percent_cell(row.nbytes, peak),
            f'<td class="n wide exact">{row.nbytes:,}</td>' if exact else "",
        )
        for row in table_rows
    )
    head = column_heads(noun, ":wide", "at the peak", "share", *(["bytes:n wide"] if exact else []))
    return f"<table>{head}<tbody>{body}</tbody></table>"


def _phases(explanation: Explanation) -> str:
    highest = max(cost.peak for cost in explanation.phases)
    body = "".join(
        table_row(
            f"<th scope=row>{text(cost.phase.value)}</th>",
            f'<td class="bar wide">{_bar(((None, cost.peak),), highest)}</td>',
            bytes_cell(cost.peak),
            f'<td class="n">{cost.ops:,}</td>',
            f'<td class="n">{text(format_count(cost.flops))}</td>',
        )
        for cost in explanation.phases
    )
    head = column_heads("phase", ":wide", "highest in it", "ops", "flops")
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
        table_row(
            f"<th scope=row>{text(label)}</th>",
            f'<td class="bar wide">{_bar(((None, peak),), highest)}</td>',
            bytes_cell(peak),
            f'<td class="n">{text(difference)}</td>',
        )
        for label, peak, difference in [this, *others]
    )
    return f"<table>{column_heads('condition', ':wide', 'peak', 'difference')}<tbody>{body}</tbody></table>"


def _growth(explanation: Explanation) -> str:
    body = "".join(
        table_row(f"<th scope=row>{text(row.label)}</th>", bytes_cell(row.nbytes), bytes_cell(row.per_token))
        for row in rows.growth(explanation, limit=_GROWTH)
    )
    return f"<table>{column_heads('module', 'at the end', 'each token adds')}<tbody>{body}</tbody></table>"


def _facts(explanation: Explanation) -> str:
    pairs = "".join(
        f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in wording.facts_rows(explanation)
    )
    return f"<dl>{pairs}</dl>"


def _bar(parts: Sequence[Part], whole: int) -> str:
    """A stacked bar; decoration beside numbers, hence hidden from screen readers."""
    pieces = "".join(
        f'<i style="width:{100 * nbytes / whole:.3f}%;background:{_colour(category)}"'
        f' title="{text(category.value if category else "")} {format_bytes(nbytes)}"></i>'
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
        f"<li>{_swatch(category)}{text(category.value if category else 'unexplained')}</li>"
        for category in [*CATEGORIES, None]
        if category in present
    )
    return f'<ul class="legend">{items}</ul>'
