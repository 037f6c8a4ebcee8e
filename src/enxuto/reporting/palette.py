"""One colour per Category, the same in every picture, in three variants: on light, on dark, on either.

How it was chosen. The hues are those that torch.profiler's memory timeline taught its readers (parameters
green, optimizer gold, gradients blue, activations red, temporaries purple, input near black, unknown grey),
moved to what Okabe and Ito (2008) found safe for colour-blind readers: green towards blue, red towards
vermillion. Within those hue ranges a search (simulated annealing over CIE LCh) chose lightness and chroma
so that the worst pair stays as far apart as possible, in CIEDE2000, for normal sight and for the protan,
deutan and tritan sight of Machado, Oliveira and Fernandes (2009) at severity 1.
`tests/reporting/test_palette.py` computes all of it again and states the bars: neighbours in the stack, any
two categories (as those between may be empty), and the contrast against the surface that they are drawn on.
Fills in the pictures also get an outline in the surface's colour.

`either` is for places whose background is not known, such as terminals and notebooks: at least 3:1 on white
and on black, at the price of a smaller distance between colours; there, every colour has its name beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..records import Category, Numerics


@dataclass(frozen=True, slots=True, kw_only=True)
class Shade:
    """One colour as `#rrggbb`, for light, dark and unknown surroundings."""

    light: str
    dark: str
    either: str


SHADES: dict[Category, Shade] = {
    Category.PARAMETER: Shade(light="#1d5f4b", dark="#92c09d", either="#256d57"),
    Category.OPTIMIZER_STATE: Shade(light="#c67e03", dark="#fdcc11", either="#ce8300"),
    Category.GRADIENT: Shade(light="#0964c9", dark="#508bf9", either="#1869d1"),
    Category.SAVED_ACTIVATION: Shade(light="#b54d22", dark="#e15822", either="#be4f2c"),
    Category.TEMPORARY_FORWARD: Shade(light="#502c73", dark="#6857c6", either="#784b83"),
    Category.TEMPORARY_BACKWARD: Shade(light="#b07ac3", dark="#ec8ec1", either="#b182c2"),
    Category.TEMPORARY_OPTIMIZER: Shade(light="#754b72", dark="#a06591", either="#a95e84"),
    Category.SCRATCH: Shade(light="#737a54", dark="#c1bb70", either="#747852"),
    Category.BUFFER: Shade(light="#008b91", dark="#04cafb", either="#218f9d"),
    Category.INPUT: Shade(light="#373d44", dark="#d7e2e8", either="#555d65"),
    Category.OTHER: Shade(light="#948c86", dark="#7c7a74", either="#93938d"),
}

#: How far a lever changes what is computed; three hues of the above that every sight keeps apart.
NUMERICS_SHADES: dict[Numerics, Shade] = {
    Numerics.IDENTICAL: SHADES[Category.GRADIENT],
    Numerics.ROUNDING: SHADES[Category.OPTIMIZER_STATE],
    Numerics.LOSSY: SHADES[Category.SAVED_ACTIVATION],
}

#: What is no category: the page, the cards on it, text, lines, the phase bands, bytes that nobody explains.
SURFACES: dict[str, Shade] = {
    "page": Shade(light="#f6f6f4", dark="#0c0f12", either="#ffffff"),
    "surface": Shade(light="#ffffff", dark="#14181c", either="#ffffff"),
    "block": Shade(light="#eceeee", dark="#22282e", either="#eceeee"),
    "text": Shade(light="#1b1f23", dark="#e8ebed", either="#1b1f23"),
    "muted": Shade(light="#5f666d", dark="#9aa4ad", either="#6b7279"),
    "line": Shade(light="#e2e4e5", dark="#2a3138", either="#c9cdd0"),
    "band": Shade(light="#f4f5f5", dark="#1a1f24", either="#f4f5f5"),
    "unexplained": Shade(light="#777d83", dark="#8b949c", either="#7d8389"),
}

_INK_DARK, _INK_LIGHT = "#000000", "#ffffff"


def slug(category: Category) -> str:
    """The category's name in CSS and in the colour tokens of the figures.

    >>> slug(Category.SAVED_ACTIVATION)
    'saved-activation'
    """
    return category.name.lower().replace("_", "-")


def ink(colour: str) -> str:
    """Black or white, whichever reads better on this colour.

    >>> ink("#1d5f4b"), ink("#fdcc11")
    ('#ffffff', '#000000')
    """
    luminance = _luminance(colour)
    # WCAG contrast is (lighter + 0.05) / (darker + 0.05); black has luminance 0 and white 1
    return _INK_DARK if (luminance + 0.05) ** 2 > 1.05 * 0.05 else _INK_LIGHT


def _luminance(colour: str) -> float:
    red, green, blue = (_linear(int(colour[i : i + 2], 16) / 255) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else float(((channel + 0.055) / 1.055) ** 2.4)
