"""The difference of two receipts: its rows sum to the change of the peak."""

from __future__ import annotations

import pytest

from enxuto.explaining import difference, receipt
from enxuto.records import Category, Change, Difference, Explanation, Facts
from enxuto.tracing import trace
from tests.explaining.timelines import Script
from tests.explaining.works import WORKS


def parameters(sizes: dict[str, int], *, inputs: int = 0, facts: Facts | None = None) -> Explanation:
    script = Script(ticks=2, facts=facts or Facts(workload="net", torch="2.13.0"))
    for module, nbytes in sizes.items():
        script.block(nbytes, Category.PARAMETER, 0, 2, name=f"{module}.weight")
    if inputs:
        script.block(inputs, Category.INPUT, 0, 2)
    return receipt(script.timeline())


def check_sums(result: Difference) -> None:
    change = result.peak.after - result.peak.before
    assert sum(row.after - row.before for row in result.categories) == change
    assert sum(row.after - row.before for row in result.modules) == change


def test_only_changed_modules_largest_change_first() -> None:
    result = difference(
        parameters({"a": 10, "b": 20, "gone": 5}), parameters({"a": 12, "b": 20, "new": 9}, inputs=3)
    )
    assert result.peak == Change(label="peak", before=35, after=44)
    assert result.categories == (
        Change(label="parameter", before=35, after=41),
        Change(label="input", before=0, after=3),
    )
    assert result.modules == (
        Change(label="new", before=0, after=9),
        Change(label="gone", before=5, after=0),
        Change(label="", before=0, after=3),
        Change(label="a", before=10, after=12),
    )
    check_sums(result)


def test_the_modules_beyond_thirty_are_one_row() -> None:
    before = parameters({f"m{index}": 100 for index in range(40)})
    after = parameters({f"m{index}": 100 + index for index in range(40)})
    result = difference(before, after)
    assert len(result.modules) == 31
    assert result.modules[0] == Change(label="m39", before=100, after=139)
    assert result.modules[-1] == Change(label="other modules", before=900, after=945)  # m1 to m9
    check_sums(result)


def test_what_modules_do_not_explain_has_a_row() -> None:
    from dataclasses import replace

    before, after = parameters({"a": 10}), parameters({"a": 10})
    result = difference(before, replace(after, peak=14, unexplained=4))
    assert result.categories[-1] == Change(label="unexplained", before=0, after=4)
    assert result.modules == (Change(label="unexplained", before=0, after=4),)


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        (("net", 8), ("wide", 8), ("net", "wide")),
        (("net", 8), ("net", 16), ("net, batch size 8", "net, batch size 16")),
        (("net", 8), ("net", 8), ("net (before)", "net (after)")),
        (("net", 0), ("net", 8), ("net (before)", "net (after)")),
    ],
)
def test_the_two_sides_have_names_that_differ(
    first: tuple[str, int], second: tuple[str, int], names: tuple[str, str]
) -> None:
    left, right = (
        parameters({"a": 1}, facts=Facts(workload=name, torch="2.13.0", batch_size=size))
        for name, size in (first, second)
    )
    result = difference(left, right)
    assert (result.before, result.after) == names


def test_real_nets_and_the_same_twice() -> None:
    small, large = (receipt(trace(WORKS["gpt"].at_batch(size), steps=2, calibrate=False)) for size in (2, 4))
    result = difference(small, large)
    assert result.peak.after > result.peak.before
    check_sums(result)
    same = difference(small, small)
    assert same.modules == ()
    assert all(row.before == row.after for row in same.categories)
