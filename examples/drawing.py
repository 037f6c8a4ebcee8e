"""Two small pictures as SVG, for pages that draw their own figures: bars and a curve.

They follow the reader's light or dark theme, and need nothing but a browser.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from enxuto.units import format_bytes

_WIDTH, _LABELS, _ROW = 640, 200, 28
_STYLE = (
    "text{font:14px system-ui,sans-serif;fill:#1b1f23}.title{font-weight:600}.muted{fill:#5f666d;font-size:12px}"
    ".mark{fill:#1869d1}.line{fill:none;stroke:#1869d1;stroke-width:1.5}.rule{stroke:#9aa4ad}"
    "@media(prefers-color-scheme:dark){text{fill:#e8ebed}.muted{fill:#9aa4ad}.mark{fill:#508bf9}"
    ".line{stroke:#508bf9}}"
)


def bars(path: str, title: str, nbytes: Mapping[str, int]) -> None:
    """Write one bar for each label, with its bytes beside it."""
    most, room = max(nbytes.values()), _WIDTH - _LABELS - 90
    rows = []
    for index, (label, value) in enumerate(nbytes.items()):
        y, length = 40 + index * _ROW, room * value / most
        rows.append(
            f'<text x="{_LABELS - 10}" y="{y + 15}" text-anchor="end">{escape(label)}</text>'
            f'<rect class="mark" x="{_LABELS}" y="{y}" width="{max(length, 1):.1f}" height="20" rx="2"/>'
            f'<text class="muted" x="{_LABELS + length + 8:.1f}" y="{y + 15}">{format_bytes(value)}</text>'
        )
    _write(path, title, rows, 48 + len(nbytes) * _ROW)


def curve(path: str, title: str, nbytes: Sequence[int], marks: Mapping[str, int]) -> None:
    """Write bytes over time; `marks` names the ticks at which something begins."""
    top, left, height, room = max(nbytes), 20, 180, _WIDTH - 40
    columns = [max(nbytes[a:b]) for a, b in _stretches(len(nbytes), 300)]
    points = " ".join(
        f"{left + room * i / (len(columns) - 1):.1f},{50 + height * (1 - value / top):.1f}"
        for i, value in enumerate(columns)
    )
    rows = [f'<polyline class="line" points="{points}"/>']
    rows.append(f'<text class="muted" x="{left}" y="44">{format_bytes(top)}</text>')
    for name, tick in marks.items():
        x = left + room * tick / len(nbytes)
        rows.append(f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="50" y2="{50 + height}"/>')
        rows.append(f'<text class="muted" x="{x + 4:.1f}" y="{66 + height}">{escape(name)}</text>')
    _write(path, title, rows, 76 + height)


def _stretches(length: int, most: int) -> list[tuple[int, int]]:
    count = min(length, most)
    return [(i * length // count, (i + 1) * length // count) for i in range(count)]


def _write(path: str, title: str, rows: Sequence[str], height: int) -> None:
    Path(path).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" role="img">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
        f'<text class="title" x="20" y="24">{escape(title)}</text>' + "".join(rows) + "</svg>\n"
    )
