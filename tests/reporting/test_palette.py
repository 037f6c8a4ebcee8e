"""The palette's claims, computed: distance between colours for four kinds of sight, contrast on surfaces."""

from __future__ import annotations

from dataclasses import astuple
from itertools import combinations, pairwise

import numpy as np
import pytest

from enxuto.records import CATEGORIES
from enxuto.reporting.palette import SHADES, SURFACES, ink

THEMES = ("light", "dark", "either")

#: CIEDE2000 between neighbours in the stack, and between any two: what lies between them may be empty.
#: About 1 is the smallest difference that can be seen side by side, and 10 is seen at a glance.
NEIGHBOURS = {"light": 20.0, "dark": 15.0, "either": 15.0}
ANY_TWO = {"light": 10.0, "dark": 10.0, "either": 8.5}

CONTRAST = 3.0  # WCAG 2.2, 1.4.11: parts of graphics
TEXT_CONTRAST = 4.5  # WCAG 2.2, 1.4.3: text

#: Machado, Oliveira, Fernandes: A Physiologically-based Model for Simulation of Color Vision Deficiency
#: (2009), severity 1.0, for linear RGB.
SIGHTS = {
    "normal": np.eye(3),
    "protan": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deutan": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritan": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}

_SRGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_D65 = np.array([0.95047, 1.0, 1.08883])


def linear(colour: str) -> np.ndarray:
    """`#rrggbb` as linear RGB."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(colour: str, sight: np.ndarray) -> np.ndarray:
    """CIE Lab of a colour as someone with this sight sees it."""
    ratio = _SRGB_TO_XYZ @ np.clip(sight @ linear(colour), 0, 1) / _D65
    x, y, z = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def ciede2000(first: np.ndarray, second: np.ndarray) -> float:
    """Sharma, Wu, Dalal: The CIEDE2000 Color-Difference Formula (2005), with all weights 1."""
    (l1, a1, b1), (l2, a2, b2) = first, second
    seventh = ((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2) ** 7
    a1, a2 = (a * (1.5 - 0.5 * np.sqrt(seventh / (seventh + 25**7))) for a in (a1, a2))
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.degrees(np.arctan2(b1, a1)) % 360, np.degrees(np.arctan2(b2, a2)) % 360
    turn = (h2 - h1 + 180) % 360 - 180 if c1 * c2 else 0.0
    hue = (h1 + turn / 2) % 360 if c1 * c2 else h1 + h2
    l_mean, c_mean = (l1 + l2) / 2, (c1 + c2) / 2
    waves = ((-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.20, 4, -63))
    t = 1 + sum(size * np.cos(np.radians(times * hue + shift)) for size, times, shift in waves)
    light = (l2 - l1) / (1 + 0.015 * (l_mean - 50) ** 2 / np.sqrt(20 + (l_mean - 50) ** 2))
    chroma = (c2 - c1) / (1 + 0.045 * c_mean)
    tone = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2)) / (1 + 0.015 * c_mean * t)
    spread = np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2)))
    rotation = -2 * np.sqrt(c_mean**7 / (c_mean**7 + 25**7)) * np.sin(spread)
    return float(np.sqrt(light**2 + chroma**2 + tone**2 + rotation * chroma * tone))


def contrast(first: str, second: str) -> float:
    """WCAG 2.2 contrast ratio of two colours."""
    low, high = sorted(float(_SRGB_TO_XYZ[1] @ linear(colour)) for colour in (first, second))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [  # from the test data published with the formula
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, 2.5, 0.0), (50.0, 0.0, -2.5), 4.3065),
        ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
        ((50.0, 2.5, 0.0), (58.0, 24.0, 15.0), 19.4535),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_the_distance_is_ciede2000(
    first: tuple[float, ...], second: tuple[float, ...], expected: float
) -> None:
    assert ciede2000(np.array(first), np.array(second)) == pytest.approx(expected, abs=1e-4)


def test_every_category_has_one_colour() -> None:
    assert tuple(SHADES) == CATEGORIES
    for theme in THEMES:
        assert len({getattr(shade, theme) for shade in SHADES.values()}) == len(CATEGORIES)


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("theme", THEMES)
def test_colours_stay_apart(theme: str, sight: str) -> None:
    seen = [lab(getattr(SHADES[category], theme), SIGHTS[sight]) for category in CATEGORIES]
    assert min(ciede2000(*pair) for pair in pairwise(seen)) >= NEIGHBOURS[theme]
    assert min(ciede2000(*pair) for pair in combinations(seen, 2)) >= ANY_TWO[theme]


def test_the_check_sees_a_palette_that_fails() -> None:
    """A red and an olive that normal sight tells apart and deutan sight does not."""
    red, green = "#c8503c", "#7d7d2d"
    assert ciede2000(lab(red, SIGHTS["normal"]), lab(green, SIGHTS["normal"])) > ANY_TWO["light"]
    assert ciede2000(lab(red, SIGHTS["deutan"]), lab(green, SIGHTS["deutan"])) < ANY_TWO["light"]


@pytest.mark.parametrize("surface", ["page", "surface"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_fills_stand_out_from_what_they_are_on(theme: str, surface: str) -> None:
    ground = getattr(SURFACES[surface], theme)
    fills = [*SHADES.values(), SURFACES["unexplained"]]
    assert min(contrast(getattr(shade, theme), ground) for shade in fills) >= CONTRAST


@pytest.mark.parametrize("ground", ["#ffffff", "#000000"])
def test_fills_for_unknown_backgrounds_stand_out_on_white_and_on_black(ground: str) -> None:
    fills = [*SHADES.values(), SURFACES["unexplained"]]
    assert min(contrast(shade.either, ground) for shade in fills) >= CONTRAST


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_legible(theme: str) -> None:
    colours = {name: getattr(shade, theme) for name, shade in SURFACES.items()}
    for ground in ("page", "surface", "block", "band"):
        assert contrast(colours["text"], colours[ground]) >= TEXT_CONTRAST
    for ground in ("page", "surface", "band"):
        assert contrast(colours["muted"], colours[ground]) >= TEXT_CONTRAST


def test_text_on_every_fill_is_legible() -> None:
    colours = {colour for shade in SHADES.values() for colour in astuple(shade)}
    assert min(contrast(ink(colour), colour) for colour in colours) >= TEXT_CONTRAST
