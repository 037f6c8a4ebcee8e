"""What a notebook shows: the record's numbers, no script, nothing that a model's text could change."""

from __future__ import annotations

import re

import pytest

from enxuto.records import Difference, Explanation, Timeline, display
from enxuto.units import format_bytes
from tests.reporting import samples


def numbers(html: str) -> list[int]:
    """The exact bytes behind the shown numbers, in order."""
    marked = re.findall(r'data-bytes="(-?\d+)"[^>]*>([^<]*)<', html)
    assert all(text == format_bytes(int(nbytes)) for nbytes, text in marked)
    return [int(nbytes) for nbytes, _ in marked]


def shown(record: Explanation | Timeline | Difference) -> str:
    html = record._repr_html_()
    assert html is not None
    return html


@pytest.mark.parametrize(
    "record",
    [samples.explanation(unexplained=4096), samples.generation(), samples.hostile(), samples.empty()],
)
def test_an_explanations_card_adds_up_to_the_peak(record: Explanation) -> None:
    title, *parts, total = numbers(shown(record))
    assert title == total == sum(parts) == record.peak
    assert parts == [share.nbytes for share in record.shares] + [record.unexplained]


def test_an_explanations_card_says_where_its_numbers_come_from() -> None:
    html = shown(samples.explanation())
    assert "predicted (dry trace)" in html
    assert "Kernel scratch is partly assumed, for 3 op calls." in html
    assert "layer4.2.conv2" in html


def test_a_timelines_card_adds_up_to_the_peak() -> None:
    timeline = samples.timeline()
    html = shown(timeline)
    *parts, total = numbers(html)
    assert sum(parts) == total == timeline.peak == 7 * 1024
    assert "at tick 2 of 4" in html


def test_a_differences_card_holds_every_row() -> None:
    difference = samples.difference()
    changes = [difference.peak, *difference.categories, *difference.modules]
    assert numbers(shown(difference)) == [n for change in changes for n in (change.before, change.after)]
    assert "+40.0 MiB (+40.0 %)" in shown(difference)


@pytest.mark.parametrize("record", [samples.hostile(), samples.difference()])
def test_hostile_text_is_only_text(record: Explanation | Difference) -> None:
    html = shown(record)
    assert not re.search(r"<(script|img|b|i)\b", html)
    assert "&lt;" in html
    assert "\x1b" not in html


@pytest.mark.parametrize("record", [samples.explanation(), samples.timeline(), samples.difference()])
def test_a_card_needs_neither_scripts_nor_style_sheets(record: Explanation) -> None:
    html = shown(record)
    assert not re.search(r"<(script|style|link)\b|src=|href=|url\(", html)
    assert len(html) < 20_000


def test_records_find_their_cards_by_kind() -> None:
    assert display.html(samples.timeline()) == shown(samples.timeline())
