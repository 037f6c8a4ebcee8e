"""The page of a compression: offline, its numbers are the record's, hostile text is inert."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from enxuto.records import Category, Compressed, Numerics, from_json
from enxuto.reporting import compressed_rows, to_html
from enxuto.reporting.palette import NUMERICS_SHADES, SHADES, SURFACES
from enxuto.units import format_bytes
from tests.reporting import compressed_samples, samples
from tests.reporting.browser import Opened, Page, before_end, fills, needs_chromium, open_in_chromium

RECORDS: dict[str, Callable[[], Compressed]] = {
    "chosen": compressed_samples.chosen,
    "nothing": compressed_samples.nothing,
    "undecided": compressed_samples.undecided,
    "scored": compressed_samples.scored,
    "many": compressed_samples.many,
    "alone": compressed_samples.alone,
    "hostile": compressed_samples.hostile,
    "plain_file": compressed_samples.plain_file,
}
each_record = pytest.mark.parametrize("name", RECORDS)


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """Every sample's page."""
    return {name: to_html(make()) for name, make in RECORDS.items()}


def figures(html: str) -> dict[str, Any]:
    """The page's pictures."""
    return dict(json.loads(Page(html).script("enxuto-figures")))


def sizes(record: Compressed, *, limit: int | None = None) -> list[int]:
    """The bytes of the size table, row by row."""
    shown = compressed_rows.candidates(record, limit=limit)
    each = [(row.candidate.file_bytes, row.candidate.gzip_bytes, row.candidate.ram_bytes) for row in shown]
    return [nbytes for row in each for nbytes in row if nbytes]


def check_numbers(page: Page, record: Compressed) -> None:
    """Every marked number is the record's, in the order of the rows."""
    chosen, was = record.artefact, record.original
    heroes = [chosen.file_bytes, *([chosen.ram_bytes] if chosen.ram_bytes else [])] if chosen else []
    assert page.numbers("") == [*heroes, was.file_bytes]
    long = sizes(record) if len(record.candidates) > 12 else []
    assert page.numbers("choice") == sizes(record, limit=12) + long
    parts = [was, *([chosen] if chosen else [])]
    split = [n for each in parts for n in (each.weight_bytes, each.file_bytes - each.weight_bytes)]
    assert page.numbers("bytes") == split
    index = record.chosen if record.chosen >= 0 else compressed_rows.nearest(record)
    now, limits = record.candidates[index], record.limits
    rows = [
        (was.file_bytes, now.file_bytes, limits.file),
        (was.gzip_bytes, now.gzip_bytes, limits.gzip),
        (was.ram_bytes, now.ram_bytes, limits.ram),
    ]
    assert page.numbers("limits") == [n for row in rows for n in row if n]


@each_record
def test_the_numbers_are_the_records(name: str, pages: dict[str, str]) -> None:
    page, record = Page(pages[name]), RECORDS[name]()
    check_numbers(page, record)
    assert from_json(page.script("enxuto-record"), expect=Compressed) == record


@each_record
def test_the_page_asks_for_nothing(name: str, pages: dict[str, str]) -> None:
    for element in Page(pages[name]).elements:
        assert "src" not in element.attributes
        assert element.attributes.get("href", "data:,") == "data:,"
        assert not any(attribute.startswith("on") for attribute in element.attributes)


@each_record
def test_every_candidate_is_a_mark_with_a_whisker_to_its_bound(name: str, pages: dict[str, str]) -> None:
    record = RECORDS[name]()
    scale = 1 if name == "scored" else 100
    traces = [trace for trace in figures(pages[name])["choice-picture"]["data"] if "hovertext" in trace]
    drawn = [mark for trace in traces if "error_y" in trace for mark in
             zip(trace["x"], trace["y"], trace["error_y"]["array"], strict=True)]  # fmt: skip
    beyond = [x for trace in traces if trace["name"] == "beyond" for x in trace["x"]]
    assert len(drawn) + len(beyond) == len(record.candidates)
    wanted = {
        (each.file_bytes, scale * each.drop): each.upper_drop if each.settings else 0.0
        for each in record.candidates
        if each.file_bytes not in beyond
    }
    for x, y, whisker in drawn:
        assert y + whisker == pytest.approx(scale * max(wanted[x, y], y / scale))
    top = figures(pages[name])["choice-picture"]["layout"]["yaxis"]["range"][1]
    lost = {each.file_bytes for each in record.candidates if scale * each.drop > top}
    assert lost <= set(beyond)
    assert all(y + whisker <= top or whisker > 0 for _, y, whisker in drawn)


def test_a_mark_within_the_picture_is_drawn_to_scale_though_its_bound_is_not() -> None:
    base = compressed_samples.chosen()
    loose = replace(base.candidates[2], drop=0.015, upper_drop=0.3)
    record = replace(base, candidates=(*base.candidates[:2], loose, *base.candidates[3:]))
    every = [trace for trace in figures(to_html(record))["choice-picture"]["data"] if "hovertext" in trace]
    found = {
        (x, y) for trace in every if "error_y" in trace for x, y in zip(trace["x"], trace["y"], strict=True)
    }
    assert (loose.file_bytes, 1.5) in found
    beyond = [trace["x"] for trace in every if trace["name"] == "beyond"]
    assert beyond == [[base.candidates[1].file_bytes]]


def test_the_front_and_the_limits_are_lines(pages: dict[str, str]) -> None:
    record = compressed_samples.chosen()
    figure = figures(pages["chosen"])["choice-picture"]
    front = figure["data"][0]
    assert front["x"] == [record.candidates[index].file_bytes for index in record.pareto]
    drop, file = figure["layout"]["shapes"]
    assert (drop["y0"], drop["y1"], file["x0"]) == (1.0, 1.0, record.limits.file)
    last = figure["data"][-1]
    assert record.artefact is not None
    assert (last["x"], last["y"]) == ([record.artefact.file_bytes], [100 * record.artefact.drop])
    low, high = (10**end for end in figure["layout"]["xaxis"]["range"])
    assert low < min(each.file_bytes for each in record.candidates) and record.limits.file < high
    assert len(figures(pages["plain_file"])["choice-picture"]["layout"]["shapes"]) == 1  # no limit, no line


def test_groups_are_told_apart_by_more_than_colour(pages: dict[str, str]) -> None:
    traces = figures(pages["many"])["choice-picture"]["data"]
    symbols = [trace["marker"]["symbol"] for trace in traces if "marker" in trace]
    assert len(set(symbols)) == len(symbols) == 5  # original, front, behind, beyond, chosen


def test_each_layers_bars_are_its_kl_and_its_weights(pages: dict[str, str]) -> None:
    kl, weights = figures(pages["chosen"])["layers-picture"]["data"]
    assert kl["x"] == [layer.kl for layer in compressed_samples.LAYERS]
    assert weights["x"] == [layer.weights for layer in compressed_samples.LAYERS]
    assert "layers-picture" not in figures(pages["scored"])


def test_every_picture_has_an_equivalent_in_text(pages: dict[str, str]) -> None:
    page, record = Page(pages["chosen"]), compressed_samples.chosen()
    pictures = {
        e.attributes["id"]: e.attributes["aria-label"] for e in page.elements if e.attributes.get("role")
    }
    assert list(pictures) == ["choice-picture", "layers-picture"]
    sentence = pictures["choice-picture"]
    for index in record.pareto:
        assert format_bytes(record.candidates[index].file_bytes) in sentence
    assert "Allowed: a file of 300.0 KiB and a drop of 1.00 points" in sentence
    assert "1 candidate beyond the upper edge." in sentence
    assert "features.0 0.0412 nats" in pictures["layers-picture"]
    for section in ("choice", "layers", "bytes", "limits"):
        assert "table" in [element.tag for element in page.elements if element.section == section]


def test_why_nothing_was_chosen_stands_first(pages: dict[str, str]) -> None:
    for name, html in pages.items():
        first = next(element.section for element in Page(html).elements if element.tag == "section")
        assert (first == "why") == (RECORDS[name]().chosen < 0)
    assert "2,609 samples that certify" in pages["undecided"]


def test_the_decision_of_the_certificate_is_in_its_heading(pages: dict[str, str]) -> None:
    def tag(name: str) -> str:
        found = (e for e in Page(pages[name]).elements if e.section == "certificate")
        return next(e.text for e in found if e.attributes.get("class") == "tag")

    assert [tag(name) for name in ("chosen", "undecided", "nothing")] == [
        "accepted",
        "undecidable",
        "not certified",
    ]


def test_hostile_text_is_only_text(pages: dict[str, str]) -> None:
    page = Page(pages["hostile"])
    assert {"img", "b"}.isdisjoint(element.tag for element in page.elements)
    assert not any("<" in page.script(name) for name in ("enxuto-record", "enxuto-figures"))
    assert "\x1b" not in pages["hostile"]
    assert samples.SCRIPT in next(element.text for element in page.elements if element.tag == "h1")


@pytest.fixture(scope="module")
def opened(pages: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Opened]:
    """Pages in a browser, each opened once and only if asked for."""
    click = "<script>document.getElementById('theme').click()</script>"
    openings = {
        "dark": (pages["chosen"], "dark"),
        "clicked": (before_end(pages["chosen"], click), "light"),
        **{name: (html, "light") for name, html in pages.items()},
    }

    @cache
    def open_page(name: str) -> Opened:
        html, scheme = openings[name]
        return open_in_chromium(html, tmp_path_factory.mktemp(name), scheme=scheme)

    return open_page


@needs_chromium
@pytest.mark.parametrize("name", ["dark", "clicked", "chosen", "many", "alone", "hostile"])
def test_the_browser_has_nothing_to_complain_about(name: str, opened: Callable[[str], Opened]) -> None:
    assert opened(name).complaints == []
    assert opened(name).requests == []


@needs_chromium
@pytest.mark.parametrize("name", ["chosen", "many", "hostile"])
def test_the_numbers_are_the_records_after_the_scripts_ran(
    name: str, opened: Callable[[str], Opened]
) -> None:
    check_numbers(Page(opened(name).dom), RECORDS[name]())


@needs_chromium
def test_the_pictures_are_drawn(opened: Callable[[str], Opened]) -> None:
    dom = opened("chosen").dom
    for name in ("choice-picture", "layers-picture"):
        assert re.search(rf'<div id="{name}"[^>]*class="[^"]*js-plotly-plot', dom), name
    assert len(re.findall(r'class="point"', dom)) >= 8 + 2 * len(compressed_samples.LAYERS) - 1
    for text in ("file allowed 300.0 KiB", "drop allowed 1.00 points", "chosen 271.0 KiB"):
        assert text in dom, text


@needs_chromium
def test_the_limit_its_name_and_the_chosen_one_stand_where_the_axis_says(
    opened: Callable[[str], Opened],
) -> None:
    """On a logarithmic axis marks and lines take values, annotations logarithms: all end up in place."""
    dom, record = opened("chosen").dom, compressed_samples.chosen()
    plot = re.search(r'id="clip\w+xy"><rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', dom)
    line = re.search(r'<path data-index="1"[^>]* d="M([\d.]+),', dom)
    name = re.search(r'<g class="annotation" data-index="1".*?translate\(([\d.]+),', dom)
    ring = re.search(r'<path class="point" transform="translate\(([\d.]+),[^>]*stroke-width: 2.5px', dom)
    assert plot and line and name and ring and record.artefact
    left, width = map(float, plot.groups())
    low, high = figures(dom)["choice-picture"]["layout"]["xaxis"]["range"]

    def place(nbytes: int) -> float:
        return (math.log10(nbytes) - low) / (high - low) * width

    assert float(line[1]) - left == pytest.approx(place(record.limits.file), abs=1.0)
    assert float(name[1]) - left == pytest.approx(place(record.limits.file), abs=2.0)
    assert float(ring[1]) == pytest.approx(place(record.artefact.file_bytes), abs=1.0)


@needs_chromium
def test_pictures_follow_the_theme(opened: Callable[[str], Opened]) -> None:
    shades = [
        NUMERICS_SHADES[Numerics.IDENTICAL],
        NUMERICS_SHADES[Numerics.LOSSY],
        SHADES[Category.PARAMETER],
        SURFACES["text"],
    ]
    for name, theme, other in (
        ("chosen", "light", "dark"),
        ("dark", "dark", "light"),
        ("clicked", "dark", "light"),
    ):
        found = fills(opened(name).dom)
        assert {getattr(shade, theme) for shade in shades} <= found, name
        assert not found & {getattr(shade, other) for shade in shades}, name


@needs_chromium
def test_hostile_text_is_inert_in_the_browser(opened: Callable[[str], Opened]) -> None:
    page = Page(opened("hostile").dom)
    assert "img" not in [element.tag for element in page.elements]
    assert not any(name.startswith("on") for e in page.elements for name in e.attributes)
