"""The pictures of a compression as plain plotly JSON: size against drop, and what each layer needs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..records import Compressed
from ..units import format_bytes
from . import compressed_rows as rows
from .compressed_rows import CandidateRow
from .figures import AXIS, Figure, axis_text, base_layout, shown, wrapped

#: Group of candidates: its mark in pictures and in text, and its colour.
GROUPS = {
    "original": ("square", "■", "text"),
    "on the front": ("circle", "●", "identical"),
    "behind it": ("diamond", "◆", "unexplained"),
}
_LINE = {"color": "@text", "width": 1.5, "dash": "dash"}
_FAR = 6  # times the drop allowed: beyond is the upper edge, or a collapse would flatten the rest
_TICKS = 4  # on a phone there is no room for more
_ROW, _AROUND = 44, 62  # pixels of a layer with its name, and of the heads and the margins
_RIGHT = 0.54  # of the width: where the weights' bars start
_NAME_COLUMNS = 20  # of a layer's name; the whole name is in the table


def group(row: CandidateRow) -> str:
    """Where a candidate stands among the others."""
    if row.candidate.settings is None:
        return "original"
    return "on the front" if row.pareto else "behind it"


def choice(compressed: Compressed) -> Figure:
    """File size against the drop with its upper bound, one mark a candidate; lines are the limits."""
    every = rows.candidates(compressed)
    scale = 100 if rows.is_share(compressed) else 1
    top = _top(compressed)
    inside = [row for row in every if row.candidate.drop <= top]
    beyond = [row for row in every if row.candidate.drop > top]
    low = min(0.0, *(row.candidate.drop for row in every))
    pad = 0.06 * (top - low)
    unit = "points" if scale == 100 else "the metric's units"
    layout = {
        **base_layout(),
        "margin": {"t": 26, "l": 52, "r": 14, "b": 46},
        "showlegend": False,
        "hovermode": "closest",
        "xaxis": {
            **AXIS,
            **_sizes_axis(compressed),
            "showgrid": False,
            "title": _title("size of the file, on a logarithmic scale"),
        },
        "yaxis": {
            **AXIS,
            "range": [scale * (low - pad), scale * (top + pad)],
            "title": _title(f"drop in {unit}, up to its bound"),
            "nticks": 7,
            "automargin": True,
        },
        "shapes": [_drop_line(compressed, scale), *_file_line(compressed)],
        "annotations": [
            _drop_name(compressed, scale),
            *_file_name(compressed),
            *_chosen_name(compressed, scale),
        ],
    }
    marks = [_marks(inside, name, scale, compressed) for name in GROUPS]
    traces = [_front(compressed, scale), *filter(None, marks), *_beyond(beyond, top, scale, compressed)]
    return {"data": [*traces, *_chosen(compressed, scale)], "layout": layout}


def far(compressed: Compressed) -> int:
    """How many candidates lose more than the picture shows."""
    top = _top(compressed)
    return sum(each.drop > top for each in compressed.candidates)


def _top(compressed: Compressed) -> float:
    """The largest drop drawn to scale."""
    allowed = compressed.limits.max_drop
    bounds = [each.upper_drop for each in compressed.candidates]
    told = [compressed.candidates[compressed.chosen].upper_drop] if compressed.chosen >= 0 else []
    near = [bound for bound in bounds if bound <= _FAR * allowed] if allowed > 0 else bounds
    return max(1.25 * allowed, *near, *told, 0.0) or 1.0


def _title(text: str) -> Figure:
    return {"text": text, "font": {"color": "@muted", "size": 12}}


def _sizes_axis(compressed: Compressed) -> Figure:
    """A logarithmic axis from the smallest to the largest file, marked at powers of two."""
    sizes = [each.file_bytes for each in compressed.candidates]
    sizes += [compressed.limits.file] if _shows_file_limit(compressed) else []
    low, high = (max(size, 1) for size in (min(sizes), max(sizes)))
    exponents = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
    ticks = [2**exponent for exponent in exponents[:: -(-len(exponents) // _TICKS) or 1]]
    ticks = ticks if len(ticks) > 1 else sorted({low, high})
    pad = 0.06 * math.log10(high / low) + 0.04
    return {
        "type": "log",
        "range": [math.log10(low) - pad, math.log10(high) + pad],
        "tickangle": 0,
        "tickvals": ticks,
        "ticktext": [axis_text(tick) for tick in ticks],
    }


def _shows_file_limit(compressed: Compressed) -> bool:
    """Whether there is such a limit, not so far off that it would squeeze the candidates together."""
    sizes = [each.file_bytes for each in compressed.candidates]
    return min(sizes) / 4 <= compressed.limits.file <= 4 * max(sizes)


def _front(compressed: Compressed, scale: int) -> Figure:
    front = [compressed.candidates[index] for index in compressed.pareto]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [each.file_bytes for each in front],
        "y": [scale * each.drop for each in front],
        "line": {"shape": "hv", "width": 1.2, "color": "@identical"},
        "hoverinfo": "skip",
    }


def _marks(every: Sequence[CandidateRow], name: str, scale: int, compressed: Compressed) -> Figure | None:
    alike = [row for row in every if group(row) == name]
    if not alike:
        return None
    symbol, _, colour = GROUPS[name]
    bounds = [scale * _whisker(row) for row in alike]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [row.candidate.file_bytes for row in alike],
        "y": [scale * row.candidate.drop for row in alike],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": bounds,
            "arrayminus": [0.0] * len(alike),
            "color": f"@{colour}",
            "thickness": 1.2,
            "width": 4,
        },
        "marker": {
            "size": 10,
            "symbol": symbol,
            "color": f"@{colour}",
            "line": {"width": 1, "color": "@surface"},
        },
        "hovertext": [_about(row, compressed) for row in alike],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _whisker(row: CandidateRow) -> float:
    """From the drop to its bound; the original loses nothing against itself, whatever a bound says."""
    each = row.candidate
    return max(each.upper_drop - each.drop, 0.0) if each.settings else 0.0


def _beyond(every: Sequence[CandidateRow], top: float, scale: int, compressed: Compressed) -> list[Figure]:
    """Arrows at the upper edge for what loses more than is drawn to scale."""
    if not every:
        return []
    marker = {
        "size": 11,
        "symbol": "triangle-up",
        "color": "@lossy",
        "line": {"width": 1, "color": "@surface"},
    }
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "beyond",
            "x": [row.candidate.file_bytes for row in every],
            "y": [scale * top] * len(every),
            "marker": marker,
            "hovertext": [_about(row, compressed) for row in every],
            "hovertemplate": "%{hovertext}<extra></extra>",
        }
    ]


def _about(row: CandidateRow, compressed: Compressed) -> str:
    drop = rows.drop_text(compressed, row.candidate.drop)
    bound = rows.drop_text(compressed, row.candidate.upper_drop)
    size = f"{format_bytes(row.candidate.file_bytes)}, {row.metric}, drop {drop}, at most {bound}"
    refused = f"<br>refused: {wrapped(row.refused)}" if row.refused else ""
    return f"<b>{wrapped(row.name)}</b><br>{shown(size)}{refused}"


def _chosen(compressed: Compressed, scale: int) -> list[Figure]:
    chosen = compressed.artefact
    if chosen is None:
        return []
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "chosen",
            "x": [chosen.file_bytes],
            "y": [scale * chosen.drop],
            "marker": {"size": 19, "symbol": "circle-open", "color": "@text", "line": {"width": 2.5}},
            "hoverinfo": "skip",
            "cliponaxis": False,
        }
    ]


def _chosen_name(compressed: Compressed, scale: int) -> list[Figure]:
    """The chosen one's label, under its mark and towards the middle of the picture."""
    chosen = compressed.artefact
    if chosen is None:
        return []
    sizes = [each.file_bytes for each in compressed.candidates]
    left = chosen.file_bytes**2 > min(sizes) * max(sizes)  # right of the middle, as the scale is logarithmic
    return [
        {
            "x": math.log10(max(chosen.file_bytes, 1)),  # annotations on such an axis stand at logarithms
            "y": scale * chosen.drop,
            "xanchor": "right" if left else "left",
            "yanchor": "top",
            "xshift": -4 if left else 4,
            "yshift": -12,
            "text": f"<b>chosen {format_bytes(chosen.file_bytes)}</b>",
            "showarrow": False,
            "font": {"color": "@text", "size": 13},
        }
    ]


def _drop_line(compressed: Compressed, scale: int) -> Figure:
    y = scale * compressed.limits.max_drop
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": _LINE}


def _drop_name(compressed: Compressed, scale: int) -> Figure:
    allowed = compressed.limits.max_drop
    return {
        "x": 1,
        "xref": "paper",
        "y": scale * allowed,
        "xanchor": "right",
        "yanchor": "bottom",
        "text": f"<b>drop allowed {rows.drop_text(compressed, allowed)}</b>",
        "showarrow": False,
        "font": {"color": "@text", "size": 12},
    }


def _file_line(compressed: Compressed) -> list[Figure]:
    if not _shows_file_limit(compressed):
        return []
    x = compressed.limits.file
    return [{"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": _LINE}]


def _file_name(compressed: Compressed) -> list[Figure]:
    if not _shows_file_limit(compressed):
        return []
    limit = compressed.limits.file
    sizes = [limit, *(each.file_bytes for each in compressed.candidates)]
    right = limit**2 > min(sizes) * max(sizes)
    return [
        {
            "x": math.log10(limit),
            "y": 1,
            "yref": "paper",
            "yanchor": "bottom",
            "xanchor": "right" if right else "left",
            "text": f"<b>file allowed {format_bytes(limit)}</b>",
            "showarrow": False,
            "font": {"color": "@text", "size": 12},
        }
    ]


def layers(compressed: Compressed, *, limit: int) -> Figure | None:
    """Each layer's KL and, beside it, the number of its weights; None where no layer was looked at."""
    drawn = rows.layers(compressed, limit=limit)
    if not drawn:
        return None
    places = list(range(len(drawn)))
    texts = [rows.layer_text(layer) for layer in drawn]
    kl = _bars([layer.kl for layer in drawn], "x", "@saved-activation")
    weights = _bars([layer.weights for layer in drawn], "x2", "@parameter")
    kl["hovertext"] = weights["hovertext"] = [
        f"<b>{wrapped(name)}</b><br>{shown(f'KL {nats}, {count} weights')}" for name, nats, count in texts
    ]
    layout = {
        **base_layout(),
        "margin": {"t": 26, "l": 4, "r": 14, "b": 12},
        "showlegend": False,
        "xaxis": _half([0, _RIGHT - 0.06], max(layer.kl for layer in drawn)),
        "xaxis2": _half([_RIGHT, 1], max(layer.weights for layer in drawn)),
        "yaxis": {**AXIS, "visible": False, "range": [len(drawn) - 0.65, -0.85], "fixedrange": True},
        "annotations": [
            _head(0, "KL, nats"),
            _head(_RIGHT, "weights"),
            *(
                _above(0, place, f"{_short(texts[place][0])}  <b>{drawn[place].kl:.3g}</b>")
                for place in places
            ),
            *(_above(_RIGHT, place, f"<b>{texts[place][2]}</b>") for place in places),
        ],
    }
    return {"data": [kl, weights], "layout": layout}


def layers_height(compressed: Compressed, *, limit: int) -> int:
    """Pixels that the picture of the layers needs."""
    return _AROUND + _ROW * len(rows.layers(compressed, limit=limit))


def _bars(values: Sequence[float], axis: str, colour: str) -> Figure:
    return {
        "type": "bar",
        "orientation": "h",
        "x": list(values),
        "y": list(range(len(values))),
        "xaxis": axis,
        "width": 0.4,
        "marker": {"color": colour},
        "hovertemplate": "%{hovertext}<extra></extra>",
        "cliponaxis": False,
    }


def _half(domain: list[float], top: float) -> Figure:
    return {**AXIS, "domain": domain, "range": [0, top or 1.0], "visible": False, "fixedrange": True}


def _head(x: float, text: str) -> Figure:
    return {
        "x": x,
        "xref": "paper",
        "y": 1,
        "yref": "paper",
        "xanchor": "left",
        "yanchor": "bottom",
        "text": text,
        "showarrow": False,
        "font": {"color": "@muted", "size": 12},
    }


def _above(x: float, place: int, text: str) -> Figure:
    """A label above the bar of a place; its own texts are safe already."""
    return {
        "x": x,
        "xref": "paper",
        "y": place - 0.22,
        "xanchor": "left",
        "yanchor": "bottom",
        "text": text,
        "showarrow": False,
        "font": {"color": "@text", "size": 12},
        "bgcolor": "@surface",
        "borderpad": 0,
    }


def _short(name: str) -> str:
    """The end of a layer's name, which tells more than its beginning."""
    return shown(name if len(name) <= _NAME_COLUMNS else f"…{name[1 - _NAME_COLUMNS :]}")
