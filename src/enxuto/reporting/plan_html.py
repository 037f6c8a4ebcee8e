"""A plan, a verdict, or both as one HTML page that works offline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..records import Fitted, Numerics, Outcome, Plan, Status, Verdict
from ..units import format_bytes, format_signed_bytes
from . import plan_figures, plan_rows
from .figures import Figure
from .markup import bytes_cell, column_heads, document, number, picture, section, table_row, text

_MOMENTS = 20
_MARKS = {Outcome.PASSED: "✓", Outcome.FAILED: "✕", Outcome.NOT_CHECKED: "–"}
_SIGNS = {Numerics.IDENTICAL: "●", Numerics.ROUNDING: "◆", Numerics.LOSSY: "■"}


def plan_page(plan: Plan) -> str:
    """The page of a plan; every number in it comes from the record."""
    return _page(plan, plan, None, {})


def fitted_page(fitted: Fitted) -> str:
    """The page of a plan and its verdict, with both steps drawn over each other."""
    drawn = plan_figures.steps(fitted)
    return _page(fitted, fitted.plan, fitted, {"steps": drawn} if drawn else {})


def verdict_page(verdict: Verdict) -> str:
    """The page of a verdict."""
    header = (
        f'<p class="eyebrow">What was promised and what was measured</p><h1>{text(verdict.workload)}</h1>'
        f'<p class="conditions">torch {text(verdict.torch)}</p>'
        f'<p class="reached">{text(plan_rows.outcome(verdict))}.</p>'
    )
    body = _verdict_section(verdict)
    return document(verdict, title=verdict.workload, header=header, body=body, pictures={})


def _page(record: Plan | Fitted, plan: Plan, fitted: Fitted | None, more: dict[str, Figure]) -> str:
    verdict = fitted.verdict if fitted else None
    pictures = {"waterfall": plan_figures.waterfall(plan, verdict), **more}
    if frontier := plan_figures.frontier(plan):
        pictures["frontier"] = frontier
    body = "".join(_sections(plan, fitted))
    return document(record, title=plan.workload, header=_header(plan, verdict), body=body, pictures=pictures)


def _header(plan: Plan, verdict: Verdict | None) -> str:
    fits = "" if plan.status is Status.INFEASIBLE else "It fits: "
    measured = plan_rows.measured_peak(verdict) if verdict else None
    pairs = "".join(
        f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in plan_rows.summary(plan, verdict)
    )
    return (
        f'<p class="eyebrow">A plan for one training step</p><h1>{text(plan.workload)}</h1>'
        f'<p class="conditions">start {number(plan.before.peak)} → need {number(plan.budget.bytes)} '
        f"· torch {text(plan.torch)}</p>"
        f'<div class="hero">{_hero(plan.after.peak, "predicted")}'
        + (_hero(round(measured.got), "measured", also="second") if measured else "")
        + f'</div><p class="reached">{fits}{text(plan_rows.spare(plan))}.</p>'
        f'<dl class="summary">{pairs}</dl>'
    )


def _hero(nbytes: int, basis: str, *, also: str = "") -> str:
    """A large number and what it is; the two stay together where the line wraps."""
    return (
        f'<div class="pair"><p class="peak {also}">{number(nbytes)}</p>'
        f'<p class="basis"><span class="tag">{basis}</span></p></div>'
    )


def _sections(plan: Plan, fitted: Fitted | None) -> Iterable[str]:
    verdict = fitted.verdict if fitted else None
    if plan.status is Status.INFEASIBLE:
        yield section("floor", "Why nothing fits", "predicted", _floor(plan))
    yield section("levers", "From the start to the budget", "predicted", _levers(plan, verdict))
    if verdict:
        yield _verdict_section(verdict)
    if fitted and fitted.before_curve and fitted.after_curve:
        yield section("when", "Over the step", "traced", _steps(fitted))
    if plan.frontier:
        yield section("choice", "What it was chosen from", "predicted", _frontier(plan))
    if plan.refused:
        yield section("refused", "Refused", "", _refused(plan))
    rows = "".join(
        f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in plan_rows.conditions(plan)
    )
    yield section("facts", "How these numbers were made", "", f"<dl>{rows}</dl>")


def _floor(plan: Plan) -> str:
    return (
        f'<p class="lead">The lowest peak found is {number(plan.after.peak)}. Alive there:</p>'
        f"{_list(plan.floor_holds)}"
        f'<p class="lead apart">What would have to be allowed:</p>{_list(plan_rows.needed(plan))}'
    )


def _list(texts: Sequence[str]) -> str:
    return f'<ul class="plain">{"".join(f"<li>{text(each)}</li>" for each in texts)}</ul>'


def _levers(plan: Plan, verdict: Verdict | None) -> str:
    rows = plan_rows.levers(plan)
    said = "; ".join(f"{row.title} {format_signed_bytes(-row.freed)}" for row in rows) or "no lever"
    sentence = (
        f"From {format_bytes(plan.before.peak)} to {format_bytes(plan.after.peak)} predicted, "
        f"with a budget of {format_bytes(plan.budget.bytes)}: {said}."
    )
    start = table_row('<td class="n"></td><th scope=row>start</th>', bytes_cell(plan.before.peak), _blank(2))
    body = "".join(
        table_row(
            f'<td class="n">{place}</td>',
            f"<th scope=row>{text(row.title)}"
            + (f'<p class="made">{text(row.why)}</p>' if row.why else "")
            + "</th>",
            f'<td class="n strong"><span data-bytes="{-row.freed}" title="{-row.freed:,} bytes">'
            f"{format_signed_bytes(-row.freed)}</span></td>",
            f'<td class="n">{plan_rows.times(row.slowdown_ratio)}</td>',
            f'<td class="kind">{_numerics(row.numerics)}</td>',
        )
        for place, row in enumerate(rows, start=1)
    )
    end = table_row(
        '<td class="n"></td><th scope=row>end = peak</th>',
        bytes_cell(plan.after.peak),
        f'<td class="n">{plan_rows.times(plan.slowdown_ratio)}</td>',
        f'<td class="kind">{_numerics(plan_rows.plan_numerics(plan))}</td>',
    )
    head = column_heads(":n", "lever:t", "at the peak", "step", "numerics:t")
    return (
        f"{_legend()}"
        f"{picture('waterfall', sentence, height=plan_figures.waterfall_height(plan, verdict))}"
        f'<table class="levers">{head}<tbody>{start}{body}</tbody><tfoot>{end}</tfoot></table>'
    )


def _blank(cells: int) -> str:
    return "<td></td>" * cells


def _numerics(numerics: Numerics | None) -> str:
    return f"{_swatch(numerics)}{text(numerics.value)}" if numerics else ""


def _swatch(numerics: Numerics) -> str:
    sign = _SIGNS[numerics]
    return f'<span class="sign" aria-hidden="true" style="color:var(--{numerics.value})">{sign}</span>'


def _legend() -> str:
    items = "".join(f"<li>{_numerics(each)}: {text(plan_rows.NUMERICS[each])}</li>" for each in Numerics)
    return f'<ul class="legend">{items}</ul>'


def _frontier(plan: Plan) -> str:
    sentence = (
        f"{len(plan.frontier)} plans that no other beats in both peak and time. This plan: "
        f"{format_bytes(plan.after.peak)} at {plan_rows.times(plan.slowdown_ratio)}; "
        f"the budget is {format_bytes(plan.budget.bytes)}."
    )
    body = "".join(
        table_row(
            bytes_cell(row.point.peak),
            f'<td class="n">{plan_rows.times(row.point.slowdown_ratio)}</td>',
            f'<td class="kind">{_numerics(row.point.numerics)}</td>',
            f"<td>{'<strong>chosen</strong>' if row.chosen else 'yes' if row.fits else 'no'}</td>",
            f"<td>{text(row.plan)}</td>",
        )
        for row in plan_rows.frontier(plan)
    )
    head = column_heads("peak:n", "step", "numerics:t", "fits:t", "plan:t")
    return (
        '<p class="lead">Each mark is a plan that no other beats in both peak and time. Point at one to see '
        f"what it does.</p>{_legend()}{picture('frontier', sentence)}"
        f"<details><summary>The same, as a table</summary><p>{text(sentence)}</p>"
        f'<table class="frontier">{head}<tbody>{body}</tbody></table></details>'
    )


def _refused(plan: Plan) -> str:
    body = "".join(
        table_row(f"<th scope=row>{text(each.lever)}</th>", f"<td>{text(each.reason)}</td>")
        for each in plan.refused
    )
    return f"<table>{column_heads('lever', 'reason:t')}<tbody>{body}</tbody></table>"


def _verdict_section(verdict: Verdict) -> str:
    body = "".join(
        table_row(
            f"<th scope=row>{text(row.name)}"
            + (f'<p class="made">{text(row.how)}</p>' if row.how else "")
            + "</th>",
            f'<td class="outcome {row.outcome.name.lower()}">{_MARKS[row.outcome]} {row.outcome.value}</td>',
            f'<td class="n">{text(row.expected)}</td>',
            f'<td class="n strong">{text(row.got or "–")}</td>',
            f'<td class="n wide">{text(row.tolerance)}</td>',
        )
        for row in plan_rows.checks(verdict)
    )
    head = column_heads("check", "outcome:t", "predicted", "measured", "tolerance:n wide")
    table = f'<table class="checks">{head}<tbody>{body}</tbody></table>'
    return section("verdict", "Verdict", plan_rows.outcome(verdict), table)


def _steps(fitted: Fitted) -> str:
    before, after = max(fitted.before_curve), max(fitted.after_curve)
    budget = fitted.plan.budget.bytes
    sentence = (
        f"Bytes alive over the plain step, at most {format_bytes(before)}, and over the planned one, "
        f"at most {format_bytes(after)}; the budget is {format_bytes(budget)}."
    )
    body = "".join(
        table_row(
            f'<td class="n">{100 * each.share:.0f} %</td>', bytes_cell(each.before), bytes_cell(each.after)
        )
        for each in plan_rows.moments(fitted, limit=_MOMENTS)
    )
    head = column_heads("of the step, up to:n", "before, at most", "after, at most")
    return (
        '<ul class="legend"><li><i class="stroke dotted"></i>before</li>'
        '<li><i class="stroke"></i>after</li></ul>'
        f"{picture('steps', sentence)}"
        f"<details><summary>The same, as a sentence and a table</summary><p>{text(sentence)}</p>"
        f"<table>{head}<tbody>{body}</tbody></table></details>"
    )
