"""The HTML page: offline, its numbers are the record's, hostile text is inert, a real browser draws it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from enxuto.records import Category, Explanation
from enxuto.reporting import to_html
from enxuto.reporting.palette import SHADES
from enxuto.units import format_bytes
from tests.reporting import samples
from tests.reporting.browser import OUTSIDE, Opened, Page, before_end, fills, needs_chromium, open_in_chromium

RECORDS: dict[str, Callable[[], Explanation]] = {
    "explanation": lambda: samples.explanation(unexplained=4096),
    "generation": samples.generation,
    "hostile": samples.hostile,
    "empty": samples.empty,
}
each_record = pytest.mark.parametrize("name", RECORDS)


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """Every sample's page."""
    return {name: to_html(make()) for name, make in RECORDS.items()}


def check_numbers(page: Page, record: Explanation) -> None:
    """The receipt adds up, and every marked number is in the record or is a sum that the tables name."""
    *parts, total = page.numbers("receipt")
    assert sum(parts) == total == record.peak
    assert parts == [share.nbytes for share in record.shares] + [record.unexplained]
    assert sum(page.numbers("owners")) == (record.peak if record.owners else 0)
    assert sum(page.numbers("sites")) == (record.peak if record.sites else 0)
    assert page.numbers("phases") == [cost.peak for cost in record.phases]
    others = [other.peak for other in record.alternatives]
    assert page.numbers("alternatives") == ([record.peak, *others] if others else [])
    assert page.numbers("findings") == [finding.nbytes for finding in record.findings]
    parts_of_model = page.numbers("where")
    assert sum(parts_of_model) == (2 * record.peak if record.modules else 0)  # by part, and by module


@each_record
def test_the_numbers_are_the_records(name: str, pages: dict[str, str]) -> None:
    page, record = Page(pages[name]), RECORDS[name]()
    check_numbers(page, record)
    assert Explanation.from_json(page.script("enxuto-record")) == record


@each_record
def test_the_page_asks_for_nothing(name: str, pages: dict[str, str]) -> None:
    page = Page(pages[name])
    for element in page.elements:
        assert "src" not in element.attributes
        assert element.attributes.get("href", "data:,") == "data:,"
        assert not any(name.startswith("on") for name in element.attributes)
    styles = "".join(element.text for element in page.elements if element.tag == "style")
    assert not re.search(r"@import|url\(", styles)
    policy = next(e.attributes["content"] for e in page.elements if "http-equiv" in e.attributes)
    assert policy.startswith("default-src 'none';")


@each_record
def test_plotly_is_there_at_most_once_and_only_our_scripts_are(name: str, pages: dict[str, str]) -> None:
    scripts = [element for element in Page(pages[name]).elements if element.tag == "script"]
    ids = [script.attributes.get("id") for script in scripts]
    assert ids == ["enxuto-record", "enxuto-figures", "enxuto-themes", None, None]
    assert pages[name].count("* plotly.js v") == (name != "empty")  # nothing to draw, nothing to draw with


def test_hostile_text_is_only_text(pages: dict[str, str]) -> None:
    page = Page(pages["hostile"])
    assert {"img", "b"}.isdisjoint(element.tag for element in page.elements)
    data = [page.script(name) for name in ("enxuto-record", "enxuto-figures")]
    assert not any("<" in text for text in data)
    assert "\x1b" not in pages["hostile"]
    heading = next(element.text for element in page.elements if element.tag == "h1")
    assert samples.SCRIPT in heading
    assert samples.HANDLER in heading


def test_every_picture_has_an_equivalent_in_text(pages: dict[str, str]) -> None:
    page, record = Page(pages["explanation"]), RECORDS["explanation"]()
    pictures = [element for element in page.elements if element.attributes.get("role") == "img"]
    assert [picture.attributes["id"] for picture in pictures] == ["treemap", "timeline"]
    for picture in pictures:
        assert format_bytes(record.peak) in picture.attributes["aria-label"]
    for section in ("where", "when"):
        tags = [element.tag for element in page.elements if element.section == section]
        assert tags.index("details") < len(tags) - 1 - tags[::-1].index("table")
    assert record.peak in page.numbers("when")


def test_every_number_says_where_it_comes_from(pages: dict[str, str]) -> None:
    for name, word in (("explanation", "predicted"), ("generation", "recorded")):
        tags = {e.section: e.text for e in Page(pages[name]).elements if e.attributes.get("class") == "tag"}
        assert tags.pop("").startswith(word)
        tags.pop("findings", None)
        assert set(tags.values()) == {word}
        assert {"receipt", "where", "when", "phases"} <= set(tags)


# In a browser


@pytest.fixture(scope="module")
def opened(pages: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Opened]:
    """Pages in a browser, each opened once and only if asked for."""
    click = "<script>document.getElementById('theme').click()</script>"
    openings = {
        "light": (pages["explanation"], "light"),
        "dark": (pages["explanation"], "dark"),
        "clicked": (before_end(pages["explanation"], click), "light"),
        "hostile": (pages["hostile"], "light"),
        "empty": (pages["empty"], "light"),
    }

    @cache
    def open_page(name: str) -> Opened:
        html, scheme = openings[name]
        return open_in_chromium(html, tmp_path_factory.mktemp(name), scheme=scheme)

    return open_page


@needs_chromium
@pytest.mark.parametrize("name", ["light", "dark", "clicked", "hostile", "empty"])
def test_the_browser_has_nothing_to_complain_about(name: str, opened: Callable[[str], Opened]) -> None:
    assert opened(name).complaints == []
    assert opened(name).requests == []


@needs_chromium
def test_the_browser_check_sees_errors_and_requests(tmp_path: Path) -> None:
    broken = f"<html><body><script>undefinedName()</script>{OUTSIDE}</body></html>"
    seen = open_in_chromium(broken, tmp_path)
    assert any("undefinedName" in line for line in seen.complaints)
    assert seen.requests == ["http://example.invalid/x.png"]


@needs_chromium
def test_the_pages_policy_stops_requests(pages: dict[str, str], tmp_path: Path) -> None:
    """Even an image that got into the page would not be loaded."""
    seen = open_in_chromium(before_end(pages["empty"], OUTSIDE), tmp_path)
    assert [line for line in seen.complaints if "violates the following Content Security Policy" in line]


@needs_chromium
def test_both_pictures_are_drawn(opened: Callable[[str], Opened]) -> None:
    dom = opened("light").dom
    for name in ("treemap", "timeline"):
        assert re.search(rf'<div id="{name}"[^>]*class="[^"]*js-plotly-plot', dom), name
    assert dom.count('class="main-svg"') >= 4
    areas = [line for line in RECORDS["explanation"]().curve.categories if any(line.nbytes)]
    assert len(re.findall(r'<path class="js-fill"', dom)) == len(areas)
    assert dom.count("slicetext") > 20
    for text in ("layer1", "forward", "backward", "optimizer →", "2 GiB"):
        assert re.search(rf">{text}<", dom), text


@needs_chromium
@pytest.mark.parametrize("name", ["light", "hostile"])
def test_the_numbers_are_the_records_after_the_scripts_ran(
    name: str, opened: Callable[[str], Opened]
) -> None:
    check_numbers(Page(opened(name).dom), RECORDS["explanation" if name == "light" else name]())


@needs_chromium
def test_pictures_follow_the_theme(opened: Callable[[str], Opened]) -> None:
    light, dark = ({getattr(shade, theme) for shade in SHADES.values()} for theme in ("light", "dark"))
    for name, wanted, other in (("light", light, dark), ("dark", dark, light), ("clicked", dark, light)):
        found = fills(opened(name).dom)
        assert len(found & wanted) >= 8, name
        assert not found & other, name
    saved = SHADES[Category.SAVED_ACTIVATION]
    assert saved.light in fills(opened("light").dom)
    assert saved.dark in fills(opened("clicked").dom)


@needs_chromium
def test_hostile_text_is_inert_in_the_browser(opened: Callable[[str], Opened]) -> None:
    page = Page(opened("hostile").dom)
    assert "img" not in [element.tag for element in page.elements]
    assert len([element for element in page.elements if element.tag == "script"]) == 5 + 1  # PROBE
    assert not any(name.startswith("on") for e in page.elements for name in e.attributes)
    drawn = [element.text for element in page.elements if element.tag in ("text", "tspan")]
    assert any(samples.SCRIPT in text for text in drawn)
    assert any("<b>bold</b>@text" in text for text in drawn)
