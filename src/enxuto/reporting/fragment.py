"""Records as HTML for a notebook cell: a card with a bar, no scripts, legible on light and dark alike.

Styles are inline because notebook viewers drop style sheets, and colours are those for unknown backgrounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..records import Category, Change, Difference, Explanation, LargestBatch, Timeline
from ..units import format_bytes
from . import rows, wording
from .palette import SHADES, SURFACES
from .rows import Row

_BOX = (
    "font:14px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;max-width:46rem;"
    "border:1px solid rgba(128,128,128,.35);border-radius:10px;padding:14px 18px;margin:4px 0"
)
_TABLE = (
    "border-collapse:collapse;color:inherit;font-size:inherit;width:100%;"
    "font-variant-numeric:tabular-nums;margin-top:10px"
)
_CELL = "padding:3px 0 3px 14px;border:0;background:none;text-align:right;white-space:nowrap"
_LABEL = "padding:3px 0;border:0;background:none;text-align:left;overflow-wrap:anywhere"
_RULE = ";border-top:1px solid rgba(128,128,128,.35)"
_MUTED = "opacity:.72"


def explanation_fragment(explanation: Explanation) -> str:
    """The receipt of a peak, as a card."""
    receipt = rows.receipt(explanation)
    title = escape(wording.plain(explanation.facts.workload))
    basis = escape(wording.basis(explanation.world))
    body = "".join(_receipt_line(row, explanation.peak) for row in receipt)
    return _box(
        f'<div><strong>{title}</strong> <span style="{_MUTED}">'
        f"{escape(wording.conditions(explanation.facts))}</span></div>"
        f'<div style="font-size:1.5em;font-weight:600">{_number(explanation.peak)} '
        f'<span style="font-size:14px;font-weight:400;{_MUTED}">peak, {basis}</span></div>'
        f'<div style="{_MUTED}">Reached {escape(wording.reached(explanation.instant))}</div>'
        f"{_bar(receipt, explanation.peak)}"
        f'<table style="{_TABLE}">{body}{_total_line(explanation.peak)}</table>'
        f'<div style="{_MUTED};margin-top:8px">Kernel scratch is '
        f"{escape(wording.scratch_note(explanation.facts))}.</div>"
    )


def timeline_fragment(timeline: Timeline) -> str:
    """The size of a Timeline and its peak by category, as a card."""
    receipt = rows.timeline_receipt(timeline)
    pairs = _pair_lines(rows.timeline_facts(timeline))
    body = "".join(_receipt_line(row, timeline.peak) for row in receipt)
    return _box(
        f"<div><strong>{escape(wording.plain(timeline.facts.workload))}</strong> "
        f'<span style="{_MUTED}">{escape(wording.conditions(timeline.facts))}</span></div>'
        f'<table style="{_TABLE}">{pairs}</table>{_bar(receipt, timeline.peak)}'
        f'<table style="{_TABLE}">{body}{_total_line(timeline.peak)}</table>'
    )


def difference_fragment(difference: Difference) -> str:
    """Two peaks and what changed, as a card."""
    names = f"{escape(wording.plain(difference.before))} → {escape(wording.plain(difference.after))}"
    head = "".join(f'<th style="{_CELL};{_MUTED}">{name}</th>' for name in ("before", "after", "change"))
    body = _change_line(difference.peak)
    for group in (difference.categories, difference.modules):
        body += "".join(
            _change_line(row, rule=_RULE if place == 0 else "") for place, row in enumerate(group)
        )
    return _box(
        f'<div><strong>{names}</strong></div><table style="{_TABLE}"><tr><th></th>{head}</tr>{body}</table>'
    )


def largest_batch_fragment(found: LargestBatch) -> str:
    """The largest batch within a budget, as a card."""
    return _box(
        f"<div><strong>{escape(wording.plain(found.facts.workload))}</strong> "
        f'<span style="{_MUTED}">{escape(wording.mode(found.facts))}</span></div>'
        f'<table style="{_TABLE}">{_pair_lines(rows.largest_batch(found), wraps=True)}</table>'
    )


def _pair_lines(pairs: Sequence[tuple[str, str]], *, wraps: bool = False) -> str:
    value_style = _LABEL if wraps else _CELL
    return "".join(
        f'<tr><td style="{_LABEL}">{escape(name)}</td><td style="{value_style}">{escape(value)}</td></tr>'
        for name, value in pairs
    )


def _box(content: str) -> str:
    return f'<div class="enxuto" style="{_BOX}">{content}</div>'


def _number(nbytes: int) -> str:
    return f'<span data-bytes="{nbytes}" title="{nbytes:,} bytes">{format_bytes(nbytes)}</span>'


def _receipt_line(row: Row, whole: int) -> str:
    category = row.parts[0][0]
    dim = "" if row.nbytes else f";{_MUTED}"
    return (
        f'<tr style="background:none"><td style="{_LABEL}{dim}">{_swatch(category)}{escape(row.label)} '
        f'<span style="{_MUTED}">{escape(row.note)}</span></td>'
        f'<td style="{_CELL}{dim}">{_number(row.nbytes)}</td>'
        f'<td style="{_CELL};{_MUTED}">{escape(wording.percent(row.nbytes, whole))}</td></tr>'
    )


def _total_line(peak: int) -> str:
    return (
        f'<tr style="background:none;font-weight:600"><td style="{_LABEL}{_RULE}">total = peak</td>'
        f'<td style="{_CELL}{_RULE}">{_number(peak)}</td>'
        f'<td style="{_CELL}{_RULE}">{escape(wording.percent(peak, peak))}</td></tr>'
    )


def _change_line(row: Change, *, rule: str = "") -> str:
    label = escape(wording.module_name(row.label))
    return (
        f'<tr style="background:none"><td style="{_LABEL}{rule}">{label}</td>'
        f'<td style="{_CELL}{rule}">{_number(row.before)}</td>'
        f'<td style="{_CELL}{rule}">{_number(row.after)}</td>'
        f'<td style="{_CELL}{rule}">{escape(wording.change(row.before, row.after))}</td></tr>'
    )


def _colour(category: Category | None) -> str:
    return SHADES[category].either if category else SURFACES["unexplained"].either


def _swatch(category: Category | None) -> str:
    return (
        f'<span style="display:inline-block;width:.7em;height:.7em;border-radius:2px;margin-right:.6em;'
        f'background:{_colour(category)}"></span>'
    )


def _bar(receipt: Sequence[Row], whole: int) -> str:
    """One stacked bar; each part names itself, and a gap of the background keeps neighbours apart."""
    parts = ""
    left = 0
    for row in receipt:
        if row.nbytes > 0 and whole:
            x, width = 1000 * left / whole, 1000 * row.nbytes / whole
            parts += (
                f'<rect x="{x:.2f}" y="0" width="{max(width - 1.5, 0.5):.2f}" height="18" '
                f'style="fill:{_colour(row.parts[0][0])}"><title>{escape(row.label)}: '
                f"{format_bytes(row.nbytes)}</title></rect>"
            )
            left += row.nbytes
    label = escape(
        f"The peak by category, {len(receipt)} parts; the table below has their numbers", quote=True
    )
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 1000 18" preserveAspectRatio="none" '
        f'style="display:block;width:100%;height:18px;margin-top:10px;border-radius:4px">{parts}</svg>'
    )
