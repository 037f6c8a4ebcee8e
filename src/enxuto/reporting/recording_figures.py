"""The picture of a watched run as plain plotly JSON: tensors, process and workers over the steps."""

from __future__ import annotations

from ..records import Recording
from ..units import format_bytes
from .figures import AXIS, Figure, axis_text, base_layout, binary_ticks
from .recording_rows import Drawn

_DASH = {"color": "@text", "width": 1.5, "dash": "dash"}


def run(recording: Recording, curve: Drawn) -> Figure | None:
    """The curve of a run; None where there are no two points."""
    if len(curve.step) < 2:
        return None
    budget = recording.source.budget
    lines = [
        _line("process", curve.step, curve.host, "@unexplained", "dot"),
        _line("workers", curve.step, curve.workers, "@saved-activation", "dot"),
        _line("tensors", curve.step, curve.peak, "@gradient", "solid"),
    ]
    shown = [line for line in lines if any(value is not None for value in line["y"])]
    top = max(budget, *(value or 0 for line in shown for value in line["y"]))
    ticks = binary_ticks(top)
    layout = {
        **base_layout(),
        "margin": {"t": 20, "l": 70, "r": 14, "b": 46},
        "showlegend": False,
        "hovermode": "x unified",
        "xaxis": {
            **AXIS,
            "showgrid": False,
            "nticks": 6,
            "title": {"text": "step", "font": {"color": "@muted", "size": 12}},
        },
        "yaxis": {
            **AXIS,
            "range": [0, 1.12 * top],
            "fixedrange": True,
            "tickvals": ticks,
            "ticktext": [axis_text(value) for value in ticks],
        },
        "shapes": [_across(budget)] if budget else [],
        "annotations": [_name(budget)] if budget else [],
    }
    return {"data": shown, "layout": layout}


def _line(name: str, x: list[int], y: list[int | None], colour: str, dash: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": x,
        "y": y,
        "connectgaps": True,
        "line": {"width": 2, "color": colour, "dash": dash},
        "hovertext": ["" if value is None else format_bytes(value) for value in y],
        "hovertemplate": f"{name} %{{hovertext}}<extra></extra>",
    }


def _across(budget: int) -> Figure:
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": budget, "y1": budget, "line": _DASH}


def _name(budget: int) -> Figure:
    return {
        "x": 1,
        "xref": "paper",
        "y": budget,
        "xanchor": "right",
        "yanchor": "bottom",
        "text": f"<b>budget {format_bytes(budget)}</b>",
        "showarrow": False,
        "bgcolor": "@surface",
        "font": {"color": "@text", "size": 12},
    }
