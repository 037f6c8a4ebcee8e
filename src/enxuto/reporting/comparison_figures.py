"""The picture of a comparison as plain plotly JSON: what is asked for against accuracy, and the front."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..records import ComparedNet, Comparison, Scenario
from ..units import format_bytes
from . import comparison_rows as rows
from .figures import AXIS, Figure, axis_text, base_layout, shown, wrapped

#: Group of nets: its mark in pictures and in text, and its colour.
GROUPS = {
    "your own": ("square", "■", "text"),
    "on the front": ("circle", "●", "identical"),
    "behind another": ("diamond", "◆", "unexplained"),
}
_TICKS = 4  # on a phone there is no room for more


def group(comparison: Comparison, net: ComparedNet) -> str:
    """Where a net stands among the others."""
    if comparison.own and net.target == comparison.own:
        return "your own"
    return "behind another" if net.dominated_by else "on the front"


def by_accuracy(comparison: Comparison) -> bool:
    """Whether accuracy is the picture's other axis: where it is known of two nets; else it is predicted latency."""
    return sum(net.published is not None and comparison.needs(net) is not None for net in comparison.nets) > 1


def drawn(comparison: Comparison) -> list[ComparedNet]:
    """The nets that have both values."""
    return [net for net in comparison.nets if comparison.needs(net) is not None and _height(comparison, net)]


def scatter(comparison: Comparison) -> Figure | None:
    """What the scenario asks for against accuracy, or against latency; None where fewer than two nets have both."""
    nets = drawn(comparison)
    if len(nets) < 2:
        return None
    layout = {
        **base_layout(),
        "margin": {"t": 26, "l": 52, "r": 14, "b": 46},
        "showlegend": False,
        "hovermode": "closest",
        "xaxis": {
            **AXIS,
            **_across(comparison, nets),
            "showgrid": False,
            "title": _title(_across_name(comparison)),
        },
        "yaxis": {
            **AXIS,
            "type": "linear" if by_accuracy(comparison) else "log",
            "title": _title(_height_name(comparison)),
            "nticks": 7,
            "automargin": True,
        },
        "shapes": _budget(comparison, nets),
        "annotations": [_name(comparison, net, place) for place, net in enumerate(_named(comparison, nets))],
    }
    marks = [_marks(comparison, nets, name) for name in GROUPS]
    return {"data": [_front(comparison, nets), *filter(None, marks)], "layout": layout}


def _title(said: str) -> Figure:
    return {"text": said, "font": {"color": "@muted", "size": 12}}


def sentence(comparison: Comparison) -> str:
    """The picture in words."""
    front = [net for net in drawn(comparison) if not net.dominated_by]
    said = ", ".join(
        f"{net.target} at {_across_text(comparison, net)} and {_height_text(comparison, net)}"
        for net in front
    )
    return f"{_across_name(comparison)} against {_height_name(comparison)}. On the front: {said or 'none'}."


def _across_name(comparison: Comparison) -> str:
    return f"{rows.WANTED[comparison.scenario]}, on a logarithmic scale"


def _height_name(comparison: Comparison) -> str:
    if by_accuracy(comparison):
        return "published top-1 on ImageNet, %"
    return "file" if comparison.scenario is Scenario.LATENCY else "predicted latency, as a ratio"


def _height(comparison: Comparison, net: ComparedNet) -> float | None:
    if by_accuracy(comparison):
        return net.published.top1 if net.published else None
    if net.figures is None:
        return None
    return net.figures.file_bytes if comparison.scenario is Scenario.LATENCY else net.latency_ratio


def _height_text(comparison: Comparison, net: ComparedNet) -> str:
    height = _height(comparison, net)
    if height is None:
        return rows.NONE
    if by_accuracy(comparison):
        return f"{height:.1f} %"
    return format_bytes(int(height)) if comparison.scenario is Scenario.LATENCY else rows.ratio(height)


def _across_text(comparison: Comparison, net: ComparedNet) -> str:
    needed = comparison.needs(net)
    if needed is None:
        return rows.NONE
    return rows.ratio(needed) if comparison.scenario is Scenario.LATENCY else format_bytes(int(needed))


def _across(comparison: Comparison, nets: Sequence[ComparedNet]) -> Figure:
    """A logarithmic axis over all values, in bytes marked at powers of two."""
    values = [comparison.needs(net) or 1.0 for net in nets]
    values += [float(comparison.budget or 1)] if _shows_budget(comparison, nets) else []
    low, high = min(values), max(values)
    pad = 0.08 * math.log10(high / low) + 0.04
    axis: Figure = {"type": "log", "range": [math.log10(low) - pad, math.log10(high) + pad], "tickangle": 0}
    if comparison.scenario is Scenario.LATENCY:
        return axis
    exponents = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
    ticks = [2**exponent for exponent in exponents[:: -(-len(exponents) // _TICKS) or 1]]
    ticks = ticks if len(ticks) > 1 else sorted({int(low), int(high)})
    return {**axis, "tickvals": ticks, "ticktext": [axis_text(tick) for tick in ticks]}


def _shows_budget(comparison: Comparison, nets: Sequence[ComparedNet]) -> bool:
    """Whether there is one of bytes, not so far off that it would squeeze the nets together."""
    if comparison.budget is None or comparison.scenario is Scenario.LATENCY:
        return False
    values = [comparison.needs(net) or 1.0 for net in nets]
    return min(values) / 4 <= comparison.budget <= 4 * max(values)


def _budget(comparison: Comparison, nets: Sequence[ComparedNet]) -> list[Figure]:
    if not _shows_budget(comparison, nets):
        return []
    line = {"color": "@text", "width": 1.5, "dash": "dash"}
    at = comparison.budget
    return [
        {"type": "line", "xref": "x", "yref": "paper", "x0": at, "x1": at, "y0": 0, "y1": 1, "line": line}
    ]


def _front(comparison: Comparison, nets: Sequence[ComparedNet]) -> Figure:
    front = sorted(
        (net for net in nets if not net.dominated_by), key=lambda net: comparison.needs(net) or 0.0
    )
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [comparison.needs(net) for net in front],
        "y": [_height(comparison, net) for net in front],
        "line": {"shape": "hv", "width": 1.2, "color": "@identical"},
        "hoverinfo": "skip",
    }


def _marks(comparison: Comparison, nets: Sequence[ComparedNet], name: str) -> Figure | None:
    alike = [net for net in nets if group(comparison, net) == name]
    if not alike:
        return None
    symbol, _, colour = GROUPS[name]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [comparison.needs(net) for net in alike],
        "y": [_height(comparison, net) for net in alike],
        "marker": {
            "symbol": symbol,
            "size": 11,
            "color": f"@{colour}",
            "line": {"width": 1.5, "color": "@surface"},
        },
        "hovertext": [_hover(comparison, net) for net in alike],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _hover(comparison: Comparison, net: ComparedNet) -> str:
    why = rows.why_behind(comparison, net)
    lines = [net.target, f"{_across_text(comparison, net)}, {_height_text(comparison, net)}", why]
    return "<br>".join(wrapped(shown(line)) for line in lines if line)


def _named(comparison: Comparison, nets: Sequence[ComparedNet]) -> list[ComparedNet]:
    """The nets whose names stand in the picture: the front, and the user's own."""
    return [net for net in nets if not net.dominated_by or net.target == comparison.own]


def _name(comparison: Comparison, net: ComparedNet, place: int) -> Figure:
    needed, height = comparison.needs(net), _height(comparison, net)
    assert needed is not None and height is not None
    logarithmic = not by_accuracy(comparison)
    return {
        "x": math.log10(needed),
        "y": math.log10(height) if logarithmic else height,
        "xanchor": "center",
        "yanchor": "bottom" if place % 2 == 0 else "top",  # neighbours' names keep out of each other's way
        "yshift": 8 if place % 2 == 0 else -8,
        "text": shown(net.target.partition(":")[2] or net.target),
        "showarrow": False,
        "font": {"color": "@text", "size": 11},
    }
