"""The page of a plan: offline, its numbers are the record's, hostile text is inert, a browser draws it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache

import pytest

from enxuto.records import Fitted, Numerics, Plan, Status, Verdict, from_json
from enxuto.reporting import plan_rows, to_html
from enxuto.reporting.palette import NUMERICS_SHADES, SURFACES
from enxuto.units import format_bytes
from tests.reporting import plan_samples, samples
from tests.reporting.browser import Opened, Page, before_end, fills, needs_chromium, open_in_chromium

RECORDS: dict[str, Callable[[], Plan | Verdict | Fitted]] = {
    "optimal": plan_samples.optimal,
    "feasible": plan_samples.feasible,
    "infeasible": plan_samples.infeasible,
    "nothing": plan_samples.nothing,
    "fitted": plan_samples.fitted,
    "failed": plan_samples.failed,
    "verdict": plan_samples.verdict,
}
each_record = pytest.mark.parametrize("name", RECORDS)


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """Every sample's page."""
    return {name: to_html(make()) for name, make in RECORDS.items()}


def plan_of(record: Plan | Fitted) -> Plan:
    return record if isinstance(record, Plan) else record.plan


def check_numbers(page: Page, record: Plan | Verdict | Fitted) -> None:
    """The levers lead from the start to the end, and every marked number is in the record."""
    if isinstance(record, Verdict):
        return
    plan = plan_of(record)
    start, *freed, end = page.numbers("levers")
    assert (start, end) == (plan.before.peak, plan.after.peak)
    assert start + sum(freed) == end
    assert page.numbers("")[:3] == [plan.before.peak, plan.budget.bytes, plan.after.peak]
    assert sorted(page.numbers("choice")) == sorted(point.peak for point in plan.frontier)
    if plan.status is Status.INFEASIBLE:
        assert page.numbers("floor") == [plan.after.peak]
    if isinstance(record, Fitted):
        check_measured(page, record)


def check_measured(page: Page, fitted: Fitted) -> None:
    """The measured peak stands in the heading; the table of the curves reaches their maxima."""
    memory = plan_rows.measured_peak(fitted.verdict)
    assert memory is not None
    assert page.numbers("")[3:] == [round(memory.got)]
    rows = page.numbers("when")
    if fitted.before_curve:
        assert (max(rows[::2]), max(rows[1::2])) == (max(fitted.before_curve), max(fitted.after_curve))


@each_record
def test_the_numbers_are_the_records(name: str, pages: dict[str, str]) -> None:
    page, record = Page(pages[name]), RECORDS[name]()
    check_numbers(page, record)
    assert from_json(page.script("enxuto-record"), expect=type(record)) == record


@each_record
def test_the_page_asks_for_nothing(name: str, pages: dict[str, str]) -> None:
    page = Page(pages[name])
    for element in page.elements:
        assert "src" not in element.attributes
        assert element.attributes.get("href", "data:,") == "data:,"
        assert not any(attribute.startswith("on") for attribute in element.attributes)
    assert pages[name].count("* plotly.js v") == (name != "verdict")


def test_the_bars_start_at_the_peak_before_and_end_at_the_one_after(pages: dict[str, str]) -> None:
    record = plan_samples.fitted()
    plan = record.plan
    trace = json.loads(Page(pages["fitted"]).script("enxuto-figures"))["waterfall"]["data"][0]
    tops = [base + size for base, size in zip(trace["base"], trace["x"], strict=True)]
    measured = round(record.verdict["memory"].got)
    assert (tops[0], tops[-2], tops[-1]) == (plan.before.peak, plan.after.peak, measured)
    assert trace["base"][1:-2] == [*tops[2:-2], plan.after.peak]  # each saving ends where the next begins
    assert sum(trace["x"][1:-2]) == plan.before.peak - plan.after.peak


def test_the_frontier_marks_every_plan_by_its_numerics_and_the_chosen_one(pages: dict[str, str]) -> None:
    plan = plan_samples.optimal()
    _, *marks, chosen = json.loads(Page(pages["optimal"]).script("enxuto-figures"))["frontier"]["data"]
    assert {mark["name"] for mark in marks} == {numerics.value for numerics in Numerics}
    assert sum(len(mark["x"]) for mark in marks) == len(plan.frontier)
    assert len({mark["marker"]["symbol"] for mark in marks}) == 3  # not by colour alone
    assert (chosen["x"], chosen["y"]) == ([plan.slowdown_ratio], [plan.after.peak])


def test_every_picture_has_an_equivalent_in_text(pages: dict[str, str]) -> None:
    page, plan = Page(pages["fitted"]), plan_samples.optimal()
    pictures = [element for element in page.elements if element.attributes.get("role") == "img"]
    assert [each.attributes["id"] for each in pictures] == ["waterfall", "steps", "frontier"]
    for each in pictures:
        assert format_bytes(plan.budget.bytes) in each.attributes["aria-label"]
    for section in ("levers", "when", "choice"):
        assert "table" in [element.tag for element in page.elements if element.section == section]


def test_predicted_and_measured_are_told_apart(pages: dict[str, str]) -> None:
    def tags(name: str) -> list[str]:
        return [e.text for e in Page(pages[name]).elements if e.attributes.get("class") == "tag"]

    assert tags("fitted")[:2] == ["predicted", "measured"]
    assert "measured" not in tags("optimal")
    assert "✕ failed" in pages["failed"] and "– not checked" in pages["failed"]


def test_hostile_text_is_only_text(pages: dict[str, str]) -> None:
    page = Page(pages["failed"])
    assert {"img", "b"}.isdisjoint(element.tag for element in page.elements)
    assert not any("<" in page.script(name) for name in ("enxuto-record", "enxuto-figures"))
    assert "\x1b" not in pages["failed"]
    assert samples.SCRIPT in next(element.text for element in page.elements if element.tag == "h1")


@pytest.fixture(scope="module")
def opened(pages: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Opened]:
    """Pages in a browser, each opened once and only if asked for."""
    click = "<script>document.getElementById('theme').click()</script>"
    openings = {
        "dark": (pages["fitted"], "dark"),
        "clicked": (before_end(pages["fitted"], click), "light"),
        **{name: (html, "light") for name, html in pages.items()},
    }

    @cache
    def open_page(name: str) -> Opened:
        html, scheme = openings[name]
        return open_in_chromium(html, tmp_path_factory.mktemp(name), scheme=scheme)

    return open_page


@needs_chromium
@pytest.mark.parametrize("name", ["dark", "clicked", "fitted", "failed", "infeasible", "nothing", "verdict"])
def test_the_browser_has_nothing_to_complain_about(name: str, opened: Callable[[str], Opened]) -> None:
    assert opened(name).complaints == []
    assert opened(name).requests == []


@needs_chromium
@pytest.mark.parametrize("name", ["fitted", "failed", "infeasible"])
def test_the_numbers_are_the_records_after_the_scripts_ran(
    name: str, opened: Callable[[str], Opened]
) -> None:
    check_numbers(Page(opened(name).dom), RECORDS[name]())


@needs_chromium
def test_the_pictures_are_drawn(opened: Callable[[str], Opened]) -> None:
    dom = opened("fitted").dom
    for name in ("waterfall", "steps", "frontier"):
        assert re.search(rf'<div id="{name}"[^>]*class="[^"]*js-plotly-plot', dom), name
    assert dom.count('class="point"') >= 6 + 20  # bars, plans
    for text in ("budget 2.0 GiB", "this plan 1.8 GiB", "longest step allowed ×1.50"):
        assert text in dom, text


@needs_chromium
def test_pictures_follow_the_theme(opened: Callable[[str], Opened]) -> None:
    for name, theme, other in (
        ("fitted", "light", "dark"),
        ("dark", "dark", "light"),
        ("clicked", "dark", "light"),
    ):
        found = fills(opened(name).dom)
        shades = [*NUMERICS_SHADES.values(), SURFACES["unexplained"]]
        assert {getattr(shade, theme) for shade in shades} <= found, name
        assert not found & {getattr(shade, other) for shade in shades}, name


@needs_chromium
def test_hostile_text_is_inert_in_the_browser(opened: Callable[[str], Opened]) -> None:
    page = Page(opened("failed").dom)
    assert "img" not in [element.tag for element in page.elements]
    assert not any(name.startswith("on") for e in page.elements for name in e.attributes)
    drawn = [element.text for element in page.elements if element.tag in ("text", "tspan")]
    assert any(samples.SCRIPT in text for text in drawn)
