"""The two pictures of a page as plain plotly JSON: the peak as a treemap, the step as a stacked curve.

Colours are tokens such as `@gradient`; `page.js` puts in those of the theme in use, so that one figure serves
light and dark. Texts pass through plotly's own small markup, hence `shown`.
"""

from __future__ import annotations

from collections import defaultdict
from html import escape
from textwrap import wrap
from typing import Any

from ..records import CATEGORIES, Category, CurveSample, Explanation, Phase, PhaseSpan
from ..units import format_bytes
from . import rows, wording
from .palette import NUMERICS_SHADES, SHADES, SURFACES, ink, slug
from .rows import UNEXPLAINED, Part

Figure = dict[str, Any]

#: What every axis has in common.
AXIS: Figure = {
    "gridcolor": "@line",
    "linecolor": "@line",
    "zeroline": False,
    "tickfont": {"color": "@muted"},
}

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"
_HOVER_COLUMNS = 54
_LEAVES = 1500  # a browser draws this many rectangles at once; smaller ones are summed by part of the model
_FRAMED = 0.02  # of the peak: smaller modules have no frame, whose header would hide their colours
_TICKS = 5
_NAMED_BAND = 0.16  # of the width: room for a phase's name on a phone


def themes() -> dict[str, dict[str, str]]:
    """What each colour token stands for on light and on dark."""
    return {"light": _tokens("light"), "dark": _tokens("dark")}


def _tokens(theme: str) -> dict[str, str]:
    tokens = {f"@{name}": getattr(shade, theme) for name, shade in SURFACES.items()}
    for category, shade in SHADES.items():
        colour = getattr(shade, theme)
        tokens |= {f"@{slug(category)}": colour, f"@{slug(category)}-ink": ink(colour)}
    tokens |= {f"@{numerics.value}": getattr(shade, theme) for numerics, shade in NUMERICS_SHADES.items()}
    return tokens | {"@unexplained-ink": ink(tokens["@unexplained"])}


def token(category: Category | None) -> str:
    """The colour token of a category, or of bytes without one."""
    return f"@{slug(category) if category else 'unexplained'}"


def treemap(explanation: Explanation) -> Figure | None:
    """The peak as rectangles: modules inside modules, bytes coloured by category. None without bytes."""
    boxes = _boxes(explanation)
    if not boxes:
        return None
    trace = {
        "type": "treemap",
        "branchvalues": "total",
        "ids": [box["id"] for box in boxes],
        "parents": [box["parent"] for box in boxes],
        "labels": [box["label"] for box in boxes],
        "values": [box["nbytes"] for box in boxes],
        "text": [format_bytes(box["nbytes"]) for box in boxes],
        "hovertext": [box["hover"] for box in boxes],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "texttemplate": "%{label}<br>%{text}",
        "textfont": {"color": [box["ink"] for box in boxes], "size": 12, "family": _FONT},
        "pathbar": {"thickness": 24, "textfont": {"size": 12, "color": "@text"}},
        "tiling": {"packing": "squarify", "pad": 2},
        "marker": {
            "colors": [box["fill"] for box in boxes],
            "line": {"width": 1, "color": "@surface"},
            "pad": {"t": 20, "l": 3, "r": 3, "b": 3},
        },
        "sort": True,
    }
    layout = {
        **base_layout(),
        "margin": {"t": 0, "l": 0, "r": 0, "b": 0},
        "uniformtext": {"minsize": 10, "mode": "hide"},  # a name that does not fit is in the hover text
    }
    return {"data": [trace], "layout": layout}


def _boxes(explanation: Explanation) -> list[dict[str, Any]]:
    leaves = _drawn_leaves(explanation)
    whole = sum(nbytes for parts in leaves.values() for _, nbytes in parts)
    inside: defaultdict[str, int] = defaultdict(int)
    for path, parts in leaves.items():
        for prefix in _prefixes(path):
            inside[prefix] += sum(nbytes for _, nbytes in parts)
    framed = _framed(inside, leaves, whole)
    frames = [_frame(path, inside[path], framed, whole) for path in sorted(framed)]
    boxes = [_leaf(path, part, framed, whole) for path in sorted(leaves) for part in leaves[path]]
    return frames + boxes if boxes else []


def _framed(inside: dict[str, int], leaves: dict[str, list[Part]], whole: int) -> set[str]:
    """The modules that get a frame: large ones that hold more than one thing, be it a leaf or a module."""
    single = {_parent(path) for path, nbytes in inside.items() if path and inside[_parent(path)] == nbytes}
    single |= {path for path, parts in leaves.items() if [size for _, size in parts] == [inside[path]]}
    return {path for path, nbytes in inside.items() if nbytes >= _FRAMED * whole and path not in single} | {
        ""
    }


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _around(path: str, framed: set[str]) -> str:
    """The nearest framed module at or above a path."""
    while path not in framed:
        path = _parent(path)
    return path


def _drawn_leaves(explanation: Explanation) -> dict[str, list[Part]]:
    """Bytes by module and category; beyond `_LEAVES` the smallest are summed in their top-level part."""
    ranked = sorted(rows.module_leaves(explanation), key=lambda leaf: -leaf[1][1])
    sums: defaultdict[tuple[str, Category | None], int] = defaultdict(int)
    for place, (path, (category, nbytes)) in enumerate(ranked):
        if nbytes > 0:
            kept = path if place < _LEAVES or not path else f"{path.split('.')[0]}.(smaller modules)"
            sums[kept, category] += nbytes
    leaves: defaultdict[str, list[Part]] = defaultdict(list)
    for (path, category), nbytes in sums.items():
        leaves[path].append((category, nbytes))
    return dict(leaves)


def _prefixes(path: str) -> set[str]:
    names = path.split(".")
    return {"", *(".".join(names[: depth + 1]) for depth in range(len(names)))}


def _frame(path: str, nbytes: int, framed: set[str], whole: int) -> dict[str, Any]:
    above = _around(_parent(path), framed)
    return {
        "id": f"module {path}",
        "parent": f"module {above}" if path else "",
        "label": shown(_below(path, above)) if path else "peak",
        "nbytes": nbytes,
        "fill": "@block",
        "ink": "@text",
        "hover": _hover(path if path else "the whole peak", "", nbytes, whole),
    }


def _leaf(path: str, part: Part, framed: set[str], whole: int) -> dict[str, Any]:
    """The bytes of one category in one module, in the nearest frame around it."""
    category, nbytes = part
    kind = category.value if category else "unexplained"
    frame = _around(path, framed)
    name = _below(path, frame)
    return {
        "id": f"leaf {kind} {path}",
        "parent": f"module {frame}",
        "label": shown(name) if name else kind if path else f"outside modules: {kind}",
        "nbytes": nbytes,
        "fill": token(category),
        "ink": f"{token(category)}-ink",
        "hover": _hover(wording.module_name(path), "" if path == UNEXPLAINED else kind, nbytes, whole),
    }


def _below(path: str, above: str) -> str:
    return path.removeprefix(above).removeprefix(".") if above else path


def _hover(module: str, kind: str, nbytes: int, whole: int) -> str:
    size = f"{format_bytes(nbytes)} · {wording.percent(nbytes, whole)} of the peak"
    return "<br>".join([f"<b>{wrapped(module)}</b>", *([kind] if kind else []), shown(size)])


def timeline(explanation: Explanation) -> Figure | None:
    """Bytes alive at each event of the step, stacked by category, over bands for the phases. None without
    events."""
    curve = explanation.curve
    if not curve.ticks:
        return None
    x = [*curve.ticks, curve.total_ticks]  # what was alive at the last sample is so until the step ends
    areas = [
        _area(x, line.category, [*line.nbytes, line.nbytes[-1]])
        for line in sorted(curve.categories, key=lambda line: CATEGORIES.index(line.category))
        if any(line.nbytes)
    ]
    top = max(max(rows.totals(curve)), explanation.peak)
    return {
        "data": [*areas, _hover_line(explanation), _peak_mark(explanation)],
        "layout": _timeline_layout(explanation, top),
    }


def _area(x: list[int], category: Category, nbytes: list[int]) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": category.value,
        "x": x,
        "y": nbytes,
        "stackgroup": "alive",
        "fillcolor": token(category),
        "line": {"shape": "hv", "width": 0.5, "color": "@surface"},
        "hoverinfo": "skip",
    }


def _hover_line(explanation: Explanation) -> Figure:
    curve = explanation.curve
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "total",
        "x": list(curve.ticks),
        "y": rows.totals(curve),
        "line": {"shape": "hv", "width": 1, "color": "@text"},
        "hovertext": [_moment(curve, index) for index in range(len(curve.ticks))],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _moment(curve: CurveSample, index: int) -> str:
    """What ran at a sampled tick and what was alive then, largest first."""
    alive = sorted(
        ((line.nbytes[index], line.category.value) for line in curve.categories if line.nbytes[index]),
        reverse=True,
    )
    total = sum(nbytes for nbytes, _ in alive)
    tick = curve.ticks[index]
    return "<br>".join(
        [
            f"<b>{wrapped(curve.labels[index])}</b>",
            f"{phase_at(curve, tick)} · tick {tick:,}",
            f"<b>{format_bytes(total)}</b> alive",
            *(f"{format_bytes(nbytes)}  {name}" for nbytes, name in alive),
        ]
    )


def phase_at(curve: CurveSample, tick: int) -> str:
    """The name of the phase that a tick belongs to."""
    inside = (span.phase for span in curve.phases if span.start <= tick < span.stop)
    return next(inside, Phase.BEFORE).value


def _peak_mark(explanation: Explanation) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "peak",
        "x": [explanation.instant.tick],
        "y": [explanation.peak],
        "marker": {"size": 9, "color": "@surface", "line": {"width": 2.5, "color": "@text"}},
        "hoverinfo": "skip",
        "cliponaxis": False,
    }


def _timeline_layout(explanation: Explanation, top: int) -> Figure:
    curve = explanation.curve
    spans = [span for span in rows.bands(curve) if span.phase is not Phase.BEFORE]
    values = binary_ticks(top)
    return {
        **base_layout(),
        "margin": {"t": 34, "l": 70, "r": 14, "b": 46},
        "showlegend": False,
        "hovermode": "x",
        "hoverdistance": -1,
        "uirevision": "keep",
        "xaxis": {
            **AXIS,
            "range": [0, curve.total_ticks],
            "showgrid": False,
            "nticks": 7,
            "tickformat": ",d",
            "title": {"text": "events in the step (ticks)", "font": {"color": "@muted", "size": 12}},
        },
        "yaxis": {
            **AXIS,
            "range": [0, 1.12 * top],
            "fixedrange": True,
            "tickvals": values,
            "ticktext": [axis_text(value) for value in values],
        },
        "shapes": [shape for place, span in enumerate(spans) for shape in _band(span, place)],
        "annotations": [*_band_names(spans, curve.total_ticks), _peak_name(explanation)],
    }


def _band(span: PhaseSpan, place: int) -> list[Figure]:
    edges = {"x0": span.start, "xref": "x", "yref": "paper", "y0": 0, "y1": 1}
    tint = {**edges, "type": "rect", "x1": span.stop, "fillcolor": "@band", "line": {"width": 0}}
    border = {"width": 1, "dash": "dot", "color": "@muted"}
    begin = {**edges, "type": "line", "x1": span.start, "y1": 1.06, "line": border}
    return [{**tint, "layer": "below"}] * (place % 2 == 0) + [begin]


def _band_names(spans: list[PhaseSpan], ticks: int) -> list[Figure]:
    """Names over the bands. A narrow band is named on its left if there is room; else only hovering tells."""
    names = []
    room = 0.0
    for span in spans:
        width = (span.stop - span.start) / ticks
        if width >= _NAMED_BAND:
            names.append(_band_name(span.start, span.phase.value, "left"))
        elif room >= 2 * _NAMED_BAND:
            names.append(_band_name(span.start, f"{span.phase.value} →", "right"))
        room = width
    return names


def _band_name(x: int, text: str, anchor: str) -> Figure:
    return {
        "x": x,
        "y": 1,
        "yref": "paper",
        "xanchor": anchor,
        "yanchor": "bottom",
        "xshift": 4 if anchor == "left" else -4,
        "text": text,
        "showarrow": False,
        "font": {"color": "@muted", "size": 12},
    }


def _peak_name(explanation: Explanation) -> Figure:
    """The peak's label, on the side of the mark that has more room."""
    left = explanation.instant.tick > explanation.curve.total_ticks / 2
    return {
        "x": explanation.instant.tick,
        "y": explanation.peak,
        "text": f"<b>peak {format_bytes(explanation.peak)}</b>",
        "showarrow": False,
        "xanchor": "right" if left else "left",
        "xshift": -10 if left else 10,
        "yanchor": "bottom",
        "font": {"color": "@text", "size": 13},
    }


def base_layout() -> Figure:
    """What every figure's layout has in common."""
    return {
        "autosize": True,
        "paper_bgcolor": "@surface",
        "plot_bgcolor": "@surface",
        "font": {"family": _FONT, "size": 12, "color": "@text"},
        "hoverlabel": {
            "bgcolor": "@surface",
            "bordercolor": "@line",
            "align": "left",
            "font": {"family": _FONT, "size": 12, "color": "@text"},
        },
    }


def binary_ticks(top: int) -> list[int]:
    """Axis ticks at multiples of a power of two bytes, at most `_TICKS` above zero.

    >>> binary_ticks(3 * 2**30) == [0, 2**30, 2 * 2**30, 3 * 2**30]
    True
    """
    step = 1
    while step * _TICKS < top:
        step *= 2
    return list(range(0, top + 1, step))


def axis_text(nbytes: int) -> str:
    """Bytes for an axis, without a needless decimal.

    >>> axis_text(512 * 2**20), axis_text(3 * 2**29)
    ('512 MiB', '1.5 GiB')
    """
    return format_bytes(nbytes).replace(".0 ", " ")


def wrapped(text: str) -> str:
    """Text in lines short enough to hover over a phone."""
    return "<br>".join(shown(line) for line in wrap(wording.plain(text), _HOVER_COLUMNS)) or "–"


def shown(text: str) -> str:
    """Text for plotly, whose labels know a few tags and entities: `<` and `&` stand for themselves."""
    return escape(wording.plain(text), quote=False)
