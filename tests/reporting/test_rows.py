"""Laws of the tables and pictures: whatever is cut, folded or grouped, the peak stays the peak."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enxuto.records import CATEGORIES, Category, Explanation, ModuleShare, Phase, PhaseSpan, Site, SiteShare
from enxuto.reporting import figures, rows
from tests.reporting import samples

PATHS = st.lists(st.sampled_from(["", "a", "b", "0", "1", "block", "…", "x y"]), max_size=5).map(".".join)
SHARES = st.builds(
    ModuleShare,
    module=PATHS,
    category=st.sampled_from(CATEGORIES),
    nbytes=st.integers(0, 2**20) | st.integers(0, 2**44),
)


@st.composite
def explanations(draw: st.DrawFn) -> Explanation:
    """Any modules; the bytes that no module explains are unexplained."""
    shares = tuple(
        draw(st.lists(SHARES, max_size=40, unique_by=lambda share: (share.module, share.category)))
    )
    unexplained = draw(st.integers(0, 2**20))
    lines = draw(st.lists(st.integers(0, 2**30), max_size=12))
    sites = tuple(
        SiteShare(site=Site(file="train.py", line=line, function="f"), nbytes=nbytes, blocks=1)
        for line, nbytes in enumerate(lines)
    )
    peak = max(sum(share.nbytes for share in shares) + unexplained, sum(lines))
    return replace(samples.empty(), peak=peak, unexplained=unexplained, modules=shares, sites=sites)


@given(explanations(), st.integers(2, 20))
def test_every_table_adds_up_to_the_peak(explanation: Explanation, limit: int) -> None:
    for table in (rows.modules, rows.module_table):
        shown = table(explanation, limit=limit)
        assert sum(row.nbytes for row in shown) == explanation.peak
        assert len(shown) <= limit
    sites = rows.sites(explanation, limit=limit)
    assert sum(row.nbytes for row in sites) == explanation.peak


@given(explanations())
def test_categories_stay_what_they_are_in_every_table(explanation: Explanation) -> None:
    expected: Counter[Category | None] = Counter()
    for _, (category, nbytes) in rows.module_leaves(explanation):
        expected[category] += nbytes
    for limit in (2, 50):
        for table in (rows.modules, rows.module_table):
            found: Counter[Category | None] = Counter()
            for row in table(explanation, limit=limit):
                found.update(dict(row.parts))
            assert found == expected


@settings(deadline=None)
@given(explanations())
def test_the_treemap_holds_the_peak_and_every_frame_its_contents(explanation: Explanation) -> None:
    figure = figures.treemap(explanation)
    assert (figure is None) == (explanation.peak == 0)
    if figure is None:
        return
    trace = figure["data"][0]
    assert trace["branchvalues"] == "total"
    assert len(set(trace["ids"])) == len(trace["ids"])
    values = dict(zip(trace["ids"], trace["values"], strict=True))
    inside: Counter[str] = Counter()
    for parent, nbytes in zip(trace["parents"], trace["values"], strict=True):
        inside[parent] += nbytes
    assert inside.pop("") == explanation.peak
    assert all(values[parent] == total for parent, total in inside.items())
    frames = {name for name in trace["ids"] if name.startswith("module ")}
    assert frames == set(inside)


def test_a_huge_treemap_sums_its_smallest_leaves() -> None:
    shares = tuple(
        ModuleShare(
            module=f"h.{index}.{'attn' if index % 2 else 'mlp'}", category=category, nbytes=1000 + index
        )
        for index in range(1500)
        for category in (Category.PARAMETER, Category.GRADIENT)
    )
    total = sum(share.nbytes for share in shares)
    trace = _treemap(replace(samples.empty(), peak=total, modules=shares))
    leaves = [n for n, name in zip(trace["values"], trace["ids"], strict=True) if name.startswith("leaf")]
    assert sum(leaves) == total
    assert len(leaves) <= 1510
    assert any("(smaller modules)" in label for label in trace["labels"])


def _treemap(explanation: Explanation) -> figures.Figure:
    figure = figures.treemap(explanation)
    assert figure is not None
    trace: figures.Figure = figure["data"][0]
    return trace


def test_a_deep_model_is_opened_to_its_blocks() -> None:
    shares = [ModuleShare(module="lm.head", category=Category.PARAMETER, nbytes=5)]
    shares += [
        ModuleShare(module=f"lm.h.{block}.{part}", category=Category.PARAMETER, nbytes=10 + block)
        for block in range(4)
        for part in ("attn", "mlp")
    ]
    explanation = replace(samples.empty(), peak=97, modules=tuple(shares))
    for limit in (6, 8, 10):
        labels = [row.label for row in rows.modules(explanation, limit=limit)]
        assert labels == ["lm.h.3", "lm.h.2", "lm.h.1", "lm.h.0", "lm.head"]
    wide = [row.label for row in rows.modules(explanation, limit=14)]
    assert wide[:2] == ["lm.h.1", "lm.h.0"]  # the larger blocks 3 and 2 are opened


def test_a_modules_own_bytes_are_named_apart_from_its_children() -> None:
    shares = (
        ModuleShare(module="net", category=Category.PARAMETER, nbytes=4),
        ModuleShare(module="net.fc", category=Category.PARAMETER, nbytes=8),
        ModuleShare(module="", category=Category.INPUT, nbytes=2),
    )
    explanation = replace(samples.empty(), peak=15, unexplained=1, modules=shares)
    labels = [row.label for row in rows.modules(explanation, limit=10)]
    assert labels == ["net.fc", "net (itself)", "(outside modules)", "(unexplained)"]


def test_cut_owners_are_summed_and_missing_ones_are_said() -> None:
    explanation = samples.explanation()
    dropped = explanation.owners[-1]
    shown, rest = rows.owners(replace(explanation, owners=explanation.owners[:-1]), limit=3)
    assert sum(owner.nbytes for owner in shown) + sum(row.nbytes for row in rest) == explanation.peak
    assert [row.label for row in rest] == ["all other groups", "(in no group)"]
    assert rest[1].nbytes == dropped.nbytes


@pytest.mark.parametrize("columns", [1, 7, 100])
def test_buckets_keep_the_peak_and_hold_the_level_between_samples(columns: int) -> None:
    curve = samples.explanation().curve
    levels = rows.buckets(curve, columns)
    assert len(levels) == columns
    assert max(levels) == max(rows.totals(curve))
    sparse = replace(
        curve,
        ticks=(0, 90),
        total_ticks=100,
        labels=("", ""),
        categories=(replace(curve.categories[0], nbytes=(5, 9)),),
    )
    assert rows.buckets(sparse, 10) == [5] * 9 + [9]


def test_bands_join_neighbours_of_one_phase() -> None:
    curve = samples.empty().curve
    spans = tuple(
        PhaseSpan(phase=phase, start=start, stop=start + 2)
        for start, phase in ((0, Phase.FORWARD), (2, Phase.FORWARD), (4, Phase.BACKWARD), (8, Phase.BACKWARD))
    )
    joined = [(span.start, span.stop) for span in rows.bands(replace(curve, phases=spans, total_ticks=10))]
    assert joined == [(0, 4), (4, 6), (8, 10)]
    assert rows.bands(replace(curve, phases=spans, total_ticks=1000)) == []  # too short to be seen


def test_growth_ends_in_its_total() -> None:
    explanation = samples.generation()
    table = rows.growth(explanation, limit=5)
    assert [row.label for row in table[-2:]] == ["8 more modules", "total"]
    assert (
        table[-1].nbytes == sum(row.nbytes for row in table[:-1]) == sum(g.nbytes for g in explanation.growth)
    )
    assert table[-1].per_token == sum(row.per_token for row in table[:-1])


@pytest.mark.parametrize("top", [1, 5, 6, 1000, 2**30, 3 * 2**30 + 7, 80 * 2**30])
def test_axis_ticks_are_few_even_and_binary(top: int) -> None:
    ticks = figures.binary_ticks(top)
    steps = {right - left for left, right in pairwise(ticks)}
    assert ticks[0] == 0
    assert 1 <= len(ticks) - 1 <= 5
    assert len(steps) == 1
    step = steps.pop()
    assert step & (step - 1) == 0
    assert top - ticks[-1] < step


def test_the_timeline_stacks_to_the_curve_and_marks_the_peak() -> None:
    explanation = samples.explanation()
    figure = figures.timeline(explanation)
    assert figure is not None
    *areas, total, mark = figure["data"]
    assert [area["name"] for area in areas] == [
        c.value for c in CATEGORIES if any(line.category is c for line in explanation.curve.categories)
    ]
    stacked = [sum(column) for column in zip(*(area["y"] for area in areas), strict=True)]
    assert stacked[:-1] == total["y"] == rows.totals(explanation.curve)
    assert (mark["x"], mark["y"]) == ([explanation.instant.tick], [explanation.peak])
    assert all(len(area["x"]) == len(area["y"]) for area in areas)
