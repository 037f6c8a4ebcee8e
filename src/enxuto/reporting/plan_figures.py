"""The pictures of a plan as plain plotly JSON: from the start to the budget, the frontier, both steps."""

from __future__ import annotations

from collections.abc import Sequence

from ..records import Fitted, FrontierPoint, Numerics, Plan, Verdict
from ..units import format_bytes, format_signed_bytes
from . import plan_rows
from .figures import AXIS, Figure, axis_text, base_layout, binary_ticks, shown, wrapped

SYMBOLS = {Numerics.IDENTICAL: "circle", Numerics.ROUNDING: "diamond", Numerics.LOSSY: "square"}
_ROW, _AROUND = 46, 74  # pixels of a bar with its name, and of the axis and the margins
_NAME_COLUMNS = 40  # of a bar's name; the whole name is in the table
_DASH = {"color": "@text", "width": 1.5, "dash": "dash"}


def waterfall(plan: Plan, verdict: Verdict | None = None) -> Figure:
    """From the start, each lever's saving, to the end; a line marks the budget."""
    bars = _waterfall_bars(plan, verdict)
    top = max(plan.budget.bytes, *(bar["base"] + bar["size"] for bar in bars))
    trace = {
        "type": "bar",
        "orientation": "h",
        "base": [bar["base"] for bar in bars],
        "x": [bar["size"] for bar in bars],
        "y": list(range(len(bars))),
        "width": 0.42,
        "marker": {"color": [bar["fill"] for bar in bars]},
        "hovertext": [bar["hover"] for bar in bars],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "cliponaxis": False,
    }
    layout = {
        **base_layout(),
        "margin": {"t": 26, "l": 4, "r": 14, "b": 34},
        "showlegend": False,
        "xaxis": {**AXIS, **_bytes_axis(top), "range": [0, 1.04 * top]},
        "yaxis": {**AXIS, "visible": False, "range": [len(bars) - 0.65, -0.85], "fixedrange": True},
        "shapes": [*_steps(bars), _budget_across(plan)],
        "annotations": [
            *(_bar_name(place, bar) for place, bar in enumerate(bars)),
            _budget_on_top(plan, top),
        ],
    }
    return {"data": [trace], "layout": layout}


def waterfall_height(plan: Plan, verdict: Verdict | None = None) -> int:
    """Pixels that a waterfall needs, each bar having its name above it."""
    return _AROUND + _ROW * len(_waterfall_bars(plan, verdict))


def _waterfall_bars(plan: Plan, verdict: Verdict | None) -> list[Figure]:
    start = _bar("start", 0, plan.before.peak, "@unexplained", format_bytes(plan.before.peak))
    bars = [start]
    for place, row in enumerate(plan_rows.levers(plan), start=1):
        size = f"{format_signed_bytes(-row.freed)}, {plan_rows.times(row.slowdown_ratio)}"
        fill = f"@{row.numerics.value}" if row.numerics else "@unexplained"
        low = min(row.before, row.after)
        bars.append(_bar(f"{place} {row.title}", low, abs(row.freed), fill, size, after=row.after))
    end = f"{format_bytes(plan.after.peak)} predicted"
    bars.append(_bar("end", 0, plan.after.peak, "@unexplained", end))
    measured = plan_rows.measured_peak(verdict) if verdict else None
    if measured:
        got = round(measured.got)
        bars.append(_bar("end", 0, got, "@text", f"{format_bytes(got)} measured"))
    return bars


def _bar(name: str, base: int, size: int, fill: str, said: str, *, after: int | None = None) -> Figure:
    hover = f"<b>{wrapped(name)}</b><br>{shown(said)}"
    leads_to = base + size if after is None else after
    return {
        "name": name,
        "base": base,
        "size": size,
        "fill": fill,
        "said": said,
        "hover": hover,
        "after": leads_to,
    }


def _bar_name(place: int, bar: Figure) -> Figure:
    name = bar["name"] if len(bar["name"]) <= _NAME_COLUMNS else bar["name"][: _NAME_COLUMNS - 1] + "…"
    return {
        "x": 0,
        "y": place - 0.23,
        "xanchor": "left",
        "yanchor": "bottom",
        "text": f"{shown(name)}  <b>{shown(bar['said'])}</b>",
        "showarrow": False,
        "font": {"color": "@text", "size": 12},
        "bgcolor": "@surface",
        "borderpad": 0,
    }


def _steps(bars: Sequence[Figure]) -> list[Figure]:
    """Thin lines that lead from where one bar ends to the next one."""
    return [
        {
            "type": "line",
            "x0": bar["after"],
            "x1": bar["after"],
            "y0": place + 0.21,
            "y1": place + 0.79,
            "line": {"color": "@muted", "width": 1, "dash": "dot"},
            "layer": "below",
        }
        for place, bar in enumerate(bars[:-1])
    ]


def _budget_across(plan: Plan) -> Figure:
    x = plan.budget.bytes
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": _DASH}


def _budget_on_top(plan: Plan, top: int) -> Figure:
    right = plan.budget.bytes > top / 2
    return {
        "x": plan.budget.bytes,
        "y": 1,
        "yref": "paper",
        "yanchor": "bottom",
        "xanchor": "right" if right else "left",
        "text": f"<b>budget {format_bytes(plan.budget.bytes)}</b>",
        "showarrow": False,
        "font": {"color": "@text", "size": 12},
    }


def frontier(plan: Plan) -> Figure | None:
    """Peak against the time of the step, one mark a plan; None where there is no frontier."""
    if not plan.frontier:
        return None
    points = sorted(plan.frontier, key=lambda point: point.slowdown_ratio)
    ratios = [*(point.slowdown_ratio for point in points), plan.slowdown_ratio]
    left, right = min(ratios), max(ratios)
    pad = 0.05 * (right - left) or 0.02
    top = max(plan.budget.bytes, plan.after.peak, *(point.peak for point in points))
    limit = plan.budget.max_slowdown_ratio
    layout = {
        **base_layout(),
        "margin": {"t": 20, "l": 70, "r": 14, "b": 46},
        "showlegend": False,
        "hovermode": "closest",
        "xaxis": {
            **AXIS,
            "range": [left - pad, right + pad],
            "tickprefix": "×",
            "nticks": 7,
            "showgrid": False,
            "title": {"text": "time of a step, predicted", "font": {"color": "@muted", "size": 12}},
        },
        "yaxis": {**AXIS, **_bytes_axis(top), "range": [0, 1.12 * top], "fixedrange": True},
        "shapes": [_budget_along(plan), *([_limit_line(limit)] if left < limit < right else [])],
        "annotations": [
            _budget_beside(plan, below=not plan.fits),  # plans that are slow end just above a missed budget
            _chosen_name(plan, (left + right) / 2),
            *([_limit_name(limit)] if left < limit < right else []),
        ],
    }
    marks = [_marks(points, numerics) for numerics in Numerics]
    return {"data": [_stairs(points), *filter(None, marks), _chosen(plan)], "layout": layout}


def _stairs(points: Sequence[FrontierPoint]) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [point.slowdown_ratio for point in points],
        "y": [point.peak for point in points],
        "line": {"shape": "hv", "width": 1, "color": "@muted"},
        "hoverinfo": "skip",
    }


def _marks(points: Sequence[FrontierPoint], numerics: Numerics) -> Figure | None:
    alike = [point for point in points if point.numerics is numerics]
    if not alike:
        return None
    return {
        "type": "scatter",
        "mode": "markers",
        "name": numerics.value,
        "x": [point.slowdown_ratio for point in alike],
        "y": [point.peak for point in alike],
        "marker": {
            "size": 10,
            "symbol": SYMBOLS[numerics],
            "color": f"@{numerics.value}",
            "line": {"width": 1, "color": "@surface"},
        },
        "hovertext": [_about(point) for point in alike],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _about(point: FrontierPoint) -> str:
    size = f"{format_bytes(point.peak)}, {plan_rows.times(point.slowdown_ratio)}, {point.numerics.value}"
    return f"<b>{shown(size)}</b><br>{wrapped(plan_rows.name_plan(point.actions))}"


def _chosen(plan: Plan) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "chosen",
        "x": [plan.slowdown_ratio],
        "y": [plan.after.peak],
        "marker": {"size": 19, "symbol": "circle-open", "color": "@text", "line": {"width": 2.5}},
        "hoverinfo": "skip",
        "cliponaxis": False,
    }


def _chosen_name(plan: Plan, middle: float) -> Figure:
    """The chosen plan's label, under its mark and towards the middle of the picture."""
    left = plan.slowdown_ratio > middle
    return {
        "x": plan.slowdown_ratio,
        "y": plan.after.peak,
        "xanchor": "right" if left else "left",
        "yanchor": "top",
        "xshift": -4 if left else 4,
        "yshift": -16,
        "text": f"<b>this plan {format_bytes(plan.after.peak)}</b>",
        "showarrow": False,
        "font": {"color": "@text", "size": 13},
    }


def _budget_along(plan: Plan) -> Figure:
    y = plan.budget.bytes
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": _DASH}


def _budget_beside(plan: Plan, *, below: bool = False) -> Figure:
    """The budget's name above its line at the right, or below it at the left."""
    return {
        "x": 0 if below else 1,
        "xref": "paper",
        "y": plan.budget.bytes,
        "xanchor": "left" if below else "right",
        "yanchor": "top" if below else "bottom",
        "xshift": 4 if below else 0,
        "yshift": -2 if below else 2,
        "text": f"<b>budget {format_bytes(plan.budget.bytes)}</b>",
        "showarrow": False,
        "bgcolor": "@surface",
        "font": {"color": "@text", "size": 12},
    }


def _limit_line(ratio: float) -> Figure:
    line = {"color": "@muted", "width": 1.5, "dash": "dot"}
    return {"type": "line", "yref": "paper", "x0": ratio, "x1": ratio, "y0": 0, "y1": 1, "line": line}


def _limit_name(ratio: float) -> Figure:
    return {
        "x": ratio,
        "y": 1,
        "yref": "paper",
        "xanchor": "right",
        "yanchor": "top",
        "xshift": -4,
        "text": f"longest step allowed {plan_rows.times(ratio)}",
        "showarrow": False,
        "font": {"color": "@muted", "size": 12},
    }


def steps(fitted: Fitted) -> Figure | None:
    """Bytes alive over the plain step and over the planned one, each on its own clock; None without curves."""
    if not (fitted.before_curve and fitted.after_curve):
        return None
    top = max(fitted.plan.budget.bytes, *fitted.before_curve, *fitted.after_curve)
    layout = {
        **base_layout(),
        "margin": {"t": 20, "l": 70, "r": 14, "b": 46},
        "showlegend": False,
        "hovermode": "x unified",
        "xaxis": {
            **AXIS,
            "range": [0, 100],
            "ticksuffix": " %",
            "nticks": 6,
            "showgrid": False,
            "title": {"text": "of the step, each by its own clock", "font": {"color": "@muted", "size": 12}},
        },
        "yaxis": {**AXIS, **_bytes_axis(top), "range": [0, 1.12 * top], "fixedrange": True},
        "shapes": [_budget_along(fitted.plan)],
        "annotations": [_budget_beside(fitted.plan)],
    }
    before = _curve("before", fitted.before_curve, "@unexplained", dash="dot")
    after = _curve("after", fitted.after_curve, "@gradient")
    return {"data": [before, after], "layout": layout}


def _curve(name: str, curve: Sequence[int], colour: str, *, dash: str = "solid") -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [round(100 * place / max(len(curve) - 1, 1), 3) for place in range(len(curve))],
        "y": list(curve),
        "line": {"shape": "hv", "width": 2, "color": colour, "dash": dash},
        "hovertext": [format_bytes(nbytes) for nbytes in curve],
        "hovertemplate": f"{name} %{{hovertext}}<extra></extra>",
    }


def _bytes_axis(top: int) -> Figure:
    values = binary_ticks(top)
    return {"tickvals": values, "ticktext": [axis_text(value) for value in values]}
