"""Comparisons as text, as a page and in a notebook: what is shown, what is left out, and nothing hostile."""

from __future__ import annotations

from dataclasses import replace

import pytest

from enxuto.records import ComparedNet, Comparison, Scenario, from_json
from enxuto.reporting import comparison_figures, comparison_rows, render, to_html, to_text
from tests.reporting.comparison_samples import MIB, comparison, in_runtime, net, usual


def test_a_comparison_travels_as_json() -> None:
    measured = replace(net("zoo:a", 3, 70.0), measured=in_runtime())
    record = comparison(measured, net("zoo:b", 4), own="zoo:b", budget=5 * MIB)
    assert from_json(render(record, "json"), expect=Comparison) == record


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_every_width_has_names_and_what_is_sorted_by(width: int) -> None:
    text = to_text(usual(), width=width)
    assert all(len(line) <= width for line in text.splitlines())
    for name, training in (("zoo:small", "32.0 MiB"), ("zoo:middle", "48.0 MiB"), ("zoo:worse", "52.0 MiB")):
        line = next(line for line in text.splitlines() if name in line)
        assert training in line


def test_wide_terminals_show_every_column_and_narrow_ones_say_what_is_missing() -> None:
    assert "left out" not in to_text(usual(), width=160)
    narrow = to_text(usual(), width=60)
    assert "left out at this width" in narrow
    for head in comparison_rows.heads(usual()):
        assert head in narrow  # as a column, or among those left out


def test_who_is_behind_whom_is_said() -> None:
    text = " ".join(to_text(usual()).split())
    assert "zoo:worse behind zoo:middle" in text
    assert "* zoo:small" in text and "* zoo:middle" in text
    assert "* zoo:worse" not in text


def test_hostile_texts_are_harmless_everywhere() -> None:
    record = usual()
    page, cell, text = to_html(record), record._repr_html_() or "", to_text(record)
    for html in (page, cell):
        assert "<script>alert" not in html
    assert "\x1b" not in text
    assert "[red]" in text  # taken as it is, not as a colour


def test_the_page_draws_the_front_against_accuracy() -> None:
    figure = comparison_figures.scatter(usual())
    assert figure is not None
    front, *marks = figure["data"]
    assert front["x"] == [32 * MIB, 48 * MIB]
    assert front["y"] == [58.0, 69.0]
    assert sorted(x for trace in marks for x in trace["x"]) == [32 * MIB, 48 * MIB, 52 * MIB]
    assert {a["text"] for a in figure["layout"]["annotations"]} == {"small", "middle"}


def test_without_accuracies_the_other_axis_is_latency_or_file() -> None:
    nets = (net("zoo:a", 32), net("zoo:b", 24, file=8))
    assert "latency" in comparison_figures.sentence(comparison(*nets))
    by_latency = comparison(*nets, scenario=Scenario.LATENCY)
    assert "against file" in comparison_figures.sentence(by_latency)
    assert comparison_figures.scatter(comparison(net("zoo:a", 32))) is None  # one point is no picture
    assert "front-picture" not in to_html(comparison(net("zoo:a", 32)))


def test_suggestions_say_how_far_each_fits_and_what_is_not_known() -> None:
    own = net("mine.py:work", 90)
    record = comparison(
        net("zoo:small", 32, 58.0),
        own,
        net("zoo:big", 95, 80.0, file=2),
        own="mine.py:work",
        budget=40 * MIB,
    )
    assert [record.fits(each) for each in record.nets] == [True, False, False]
    first, second = comparison_rows.verdicts(record)
    assert first == "mine.py:work needs 90.0 MiB, and 40.0 MiB are allowed."
    assert "zoo:small needs 32.0 MiB, 8.0 MiB below the budget" in second
    assert "58.0 % on ImageNet" in second and "on your data not known" in second


def test_where_nothing_fits_it_is_said() -> None:
    record = comparison(net("a.py:b", 90), net("zoo:c", 80), own="a.py:b", budget=MIB)
    assert comparison_rows.verdicts(record)[-1].startswith("None of the zoo's nets fits")


def test_measured_figures_have_their_columns() -> None:
    measured = replace(net("zoo:a", 3), measured=in_runtime())
    record = comparison(measured, net("zoo:b", 4), scenario=Scenario.LATENCY)
    text = to_text(record, width=200)
    assert "10.0 MiB (9.0 MiB)" in text and "1.25×" in text
    assert comparison_rows.wanted_head(record) == "latency in ORT"


def test_a_comparison_of_failures_is_drawn_too() -> None:
    record = comparison(ComparedNet(target="a.py:b", failed="it is not there"))
    assert "it is not there" in to_text(record)
    assert "it is not there" in to_html(record)
