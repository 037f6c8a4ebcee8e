"""Records as HTML for a notebook cell: a card with a bar, no scripts, legible on light and dark alike.

Styles are inline because notebook viewers drop style sheets, and colours are those for unknown backgrounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..records import (
    Category,
    Certificate,
    Change,
    Comparison,
    Compressed,
    Difference,
    Explanation,
    Fitted,
    LargestBatch,
    Outcome,
    Plan,
    Recheck,
    Snapshot,
    Step,
    Timeline,
    Verdict,
)
from ..units import format_bytes, format_signed_bytes
from . import (
    certificate_rows,
    comparison_rows,
    compressed_rows,
    plan_rows,
    rows,
    snapshot_rows,
    wording,
)
from .compressed_rows import CandidateRow
from .live import Live
from .palette import NUMERICS_SHADES, SHADES, SURFACES
from .plan_rows import LeverRow
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
_CANDIDATES, _HOLDERS = 8, 6
_STROKE = 'stroke-width="1.5" vector-effect="non-scaling-stroke"'


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


def snapshot_fragment(snapshot: Snapshot) -> str:
    """What a CUDA allocator held and for which lines, as a card."""
    held = snapshot_rows.holders(snapshot.held(), _HOLDERS)
    lines = [(snapshot_rows.name_holder(row), format_bytes(row.nbytes)) for row in held]
    return _box(
        f"<div><strong>{escape(wording.plain(snapshot.name))}</strong></div>"
        f'<table style="{_TABLE}">{_pair_lines(snapshot_rows.summary(snapshot), wraps=True)}</table>'
        f'<table style="{_TABLE}">{_pair_lines(lines)}</table>'
    )


def live_fragment(steps: Sequence[Step], *, budget: int = 0) -> str:
    """A run while it goes on: its last step in words, the levels of its steps as a line, as a card.

    Args:
        steps: in their order.
        budget: bytes, drawn as a line; 0 for none.
    """
    live = Live(budget)
    for step in steps:
        live.add(step)
    return _box(f"<div>{escape(live.line())}</div>{_levels(steps, budget)}")


def _levels(steps: Sequence[Step], budget: int) -> str:
    """Tensors and process over the steps; the picture's coordinates are the bytes, which the viewer scales."""
    tensors, process = [step.peak for step in steps], [step.host_peak for step in steps]
    top = max([budget, *tensors, *process], default=0)
    if len(steps) < 2 or top <= 0:
        return ""
    limit = f'<path d="M0 {budget}H{len(steps)}" stroke="currentColor" {_STROKE}/>' if budget else ""
    return (
        f'<svg viewBox="0 0 {len(steps) - 1} {top}" preserveAspectRatio="none" role="img" '
        'aria-label="tensors, and above them the process, over the steps" '
        f'style="width:100%;height:56px;margin-top:8px;transform:scaleY(-1)">{limit}'
        f"{_polyline(process, SURFACES['unexplained'].either)}"
        f"{_polyline(tensors, SHADES[Category.GRADIENT].either)}</svg>"
    )


def _polyline(levels: Sequence[int], colour: str) -> str:
    points = " ".join(f"{place},{level}" for place, level in enumerate(levels) if level >= 0)
    return f'<polyline points="{points}" fill="none" stroke="{colour}" {_STROKE}/>'


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


def plan_fragment(plan: Plan) -> str:
    """A plan from the start to its end, as a card."""
    return _box(_plan_content(plan, None))


def fitted_fragment(fitted: Fitted) -> str:
    """A plan and its verdict, as a card."""
    return _box(_plan_content(fitted.plan, fitted.verdict) + _checks(fitted.verdict))


def verdict_fragment(verdict: Verdict) -> str:
    """What was promised beside what was measured, as a card."""
    title = escape(wording.plain(verdict.workload))
    return _box(f"<div><strong>{title}</strong></div>{_checks(verdict)}")


def certificate_fragment(certificate: Certificate) -> str:
    """A decision and what it rests on, as a card."""
    return _box(_certificate_content(certificate))


def recheck_fragment(recheck: Recheck) -> str:
    """A certificate and what still holds of it, as a card."""
    checks = [
        (name, f"{outcome.value}: {found}") for name, found, outcome in certificate_rows.rechecked(recheck)
    ]
    return _box(
        f"{_certificate_content(recheck.certificate)}"
        f'<div style="margin-top:10px">Looked at again: {escape(certificate_rows.recheck_outcome(recheck))}</div>'
        f'<table style="{_TABLE}">{_pair_lines(checks, wraps=True)}</table>'
    )


def comparison_fragment(comparison: Comparison) -> str:
    """The nets by what they are sorted by, and why some are behind."""
    wanted = comparison_rows.wanted_head(comparison)
    pairs = []
    for net in comparison.nets:
        why = comparison_rows.why_behind(comparison, net)
        value = comparison_rows.cells(comparison, net)[wanted].text
        pairs.append((net.target, f"{value}; {why}" if why else value))
    return _box(
        f"<div><strong>{escape(comparison_rows.title(comparison))}</strong> "
        f'<span style="{_MUTED}">{escape(comparison_rows.conditions(comparison))}</span></div>'
        f'<table style="{_TABLE}">{_pair_lines(pairs, wraps=True)}</table>'
    )


def compressed_fragment(compressed: Compressed) -> str:
    """The candidates that matter most, and the certificate, as a card."""
    shown = compressed_rows.candidates(compressed, limit=_CANDIDATES)
    heads = ("file", "gzip", "peak RAM", compressed_rows.metric_head(compressed), "drop, at most")
    head = "".join(f'<th style="{_CELL};{_MUTED};font-weight:400">{escape(name)}</th>' for name in heads)
    needs = [("nearest", each) for each in compressed_rows.why_nothing(compressed)]
    needs += [("to allow", each) for each in compressed_rows.needed(compressed)]
    more = compressed_rows.left_out(len(shown), compressed)
    return _box(
        f"<div><strong>{escape(wording.plain(compressed.workload))}</strong> "
        f'<span style="{_MUTED}">{escape(compressed_rows.headline(compressed))}</span></div>'
        f"<div>Certificate: {escape(compressed_rows.certified(compressed))}</div>"
        + (f'<table style="{_TABLE}">{_pair_lines(needs, wraps=True)}</table>' if needs else "")
        + f'<table style="{_TABLE}"><tr><th style="{_LABEL}"></th>{head}</tr>'
        f"{''.join(map(_candidate_line, shown))}</table>"
        f'<div style="{_MUTED};margin-top:8px">{escape(compressed_rows.drop_note(compressed))}. {more}</div>'
    )


def _candidate_line(row: CandidateRow) -> str:
    each = row.candidate
    name = f"{escape(row.name)}{' ← chosen' if row.chosen else ''}"
    weight = ";font-weight:600" if row.chosen else ""
    ram = _number(each.ram_bytes) if each.ram_bytes else compressed_rows.NONE
    values = (_number(each.file_bytes), _number(each.gzip_bytes), ram, escape(row.metric), escape(row.upper))
    cells = "".join(f'<td style="{_CELL}">{value}</td>' for value in values)
    return (
        f'<tr style="background:none{weight}"><td style="{_LABEL}" title="{escape(row.refused)}">{name}</td>'
        f"{cells}</tr>"
    )


def _certificate_content(certificate: Certificate) -> str:
    (_, decision), *others = certificate_rows.summary(certificate)
    return (
        f"<div><strong>{escape(decision)}</strong></div>"
        f'<table style="{_TABLE}">{_pair_lines(others, wraps=True)}</table>'
        f'<table style="{_TABLE};{_MUTED}">'
        f"{_pair_lines(certificate_rows.conditions(certificate), wraps=True)}</table>"
    )


def _plan_content(plan: Plan, verdict: Verdict | None) -> str:
    """The outcome, and the levers as rows that lead from the start to the end."""
    whole = max(plan.before.peak, plan.budget.bytes)
    grey = SURFACES["unexplained"].either
    levers = "".join(_lever_line(row, plan, whole) for row in plan_rows.levers(plan))
    start = _span(0, plan.before.peak, plan, whole, grey)
    end = _span(0, plan.after.peak, plan, whole, grey)
    holds = [("floor", wording.plain(each)) for each in plan.floor_holds]
    needs = [("to allow", each) for each in plan_rows.needed(plan)]
    refused = [(wording.plain(each.lever), wording.plain(each.reason)) for each in plan.refused]
    return (
        f"<div><strong>{escape(wording.plain(plan.workload))}</strong> "
        f'<span style="{_MUTED}">start {_number(plan.before.peak)} → need {_number(plan.budget.bytes)}</span>'
        f'</div><table style="{_TABLE}">'
        f"{_pair_lines([*plan_rows.summary(plan, verdict), *holds, *needs], wraps=True)}</table>"
        f'<table style="{_TABLE}">{_bytes_line("start", plan.before.peak, start)}{levers}'
        f"{_bytes_line('end = peak', plan.after.peak, end, rule=_RULE)}</table>"
        + (f'<table style="{_TABLE};{_MUTED}">{_pair_lines(refused, wraps=True)}</table>' if refused else "")
    )


def _bytes_line(label: str, nbytes: int, span: str, *, rule: str = "") -> str:
    return (
        f'<tr style="background:none;font-weight:600"><td style="{_LABEL}{rule}">{label}</td>'
        f'<td style="{_CELL}{rule}">{_number(nbytes)}</td><td style="{_CELL}{rule}"></td>'
        f'<td style="{_CELL}{rule}"></td><td style="{_CELL}{rule};width:9rem">{span}</td></tr>'
    )


def _lever_line(row: LeverRow, plan: Plan, whole: int) -> str:
    low, high = sorted((row.before, row.after))
    colour = NUMERICS_SHADES[row.numerics].either if row.numerics else SURFACES["unexplained"].either
    word = row.numerics.value if row.numerics else ""
    freed = f'<span data-bytes="{-row.freed}" title="{-row.freed:,} bytes">{format_signed_bytes(-row.freed)}</span>'
    return (
        f'<tr style="background:none"><td style="{_LABEL}" title="{escape(row.why)}">{escape(row.title)}</td>'
        f'<td style="{_CELL}">{freed}</td><td style="{_CELL}">{plan_rows.times(row.slowdown_ratio)}</td>'
        f'<td style="{_CELL};{_MUTED}">{word}</td>'
        f'<td style="{_CELL}">{_span(low, high, plan, whole, colour)}</td></tr>'
    )


def _span(start: int, stop: int, plan: Plan, whole: int, colour: str) -> str:
    """A bar from `start` to `stop`, with a line at the budget; decoration beside numbers."""
    x, end, budget = (1000 * at / whole if whole else 0.0 for at in (start, stop, plan.budget.bytes))
    return (
        '<svg aria-hidden="true" viewBox="0 0 1000 12" preserveAspectRatio="none" '
        'style="display:block;width:100%;height:12px">'
        f'<rect x="{x:.1f}" y="1" width="{max(end - x, 5):.1f}" height="10" style="fill:{colour}"></rect>'
        f'<rect x="{min(budget, 993):.1f}" y="0" width="7" height="12" style="fill:currentColor"></rect></svg>'
    )


def _checks(verdict: Verdict) -> str:
    body = "".join(
        f'<tr style="background:none"><td style="{_LABEL}" title="{escape(row.how)}">{escape(row.name)}</td>'
        f'<td style="{_CELL}{";font-weight:600" if row.outcome is Outcome.FAILED else ""}">'
        f"{row.outcome.value}</td>"
        f'<td style="{_CELL}">{escape(row.expected)} predicted</td>'
        f'<td style="{_CELL}">{escape(row.got or "not")} measured</td>'
        f'<td style="{_CELL};{_MUTED}">{escape(row.tolerance)}</td></tr>'
        for row in plan_rows.checks(verdict)
    )
    return (
        f'<div style="margin-top:10px">Verdict: {escape(plan_rows.outcome(verdict))}</div>'
        f'<table style="{_TABLE}">{body}</table>'
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
