"""The largest batch as a card and as a notebook cell: what it says, where nothing fits, hostile names."""

from __future__ import annotations

from dataclasses import replace

from enxuto.records import Facts, LargestBatch, TracedPeak, World, display
from enxuto.reporting import to_text
from tests.reporting.samples import ESCAPE, KIB, MARKUP, SCRIPT

FITS = LargestBatch(
    world=World.DRY,
    facts=Facts(workload=f"net {MARKUP} {SCRIPT}", torch="2.13.0", batch_size=7, scratch="measured"),
    budget=20 * KIB,
    batch_size=7,
    predicted=19 * KIB,
    peak=19 * KIB,
    next_size=8,
    next_peak=21 * KIB,
    fixed=5 * KIB,
    per_item=2 * KIB,
    traces=tuple(TracedPeak(batch_size=n, peak=(5 + 2 * n) * KIB) for n in (4, 6, 7, 8)),
    notes=(f"a note {ESCAPE}",),
)


def test_the_card_has_both_sides_of_the_budget() -> None:
    assert to_text(FITS).splitlines() == [
        f"net {MARKUP} {SCRIPT}  training",
        "budget              20.0 KiB",
        "largest batch size  7",
        "its peak            19.0 KiB predicted (dry trace), 1.0 KiB to spare",
        "by the line         the same, from two smaller traces",
        "at batch size 8     21.0 KiB predicted (dry trace), 1.0 KiB over the budget",
        "growth              2.0 KiB per item beside 5.0 KiB, between the traces nearest to the budget",
        "traces              batch sizes 4, 6, 7, 8",
        "kernel scratch      measured",
        "torch               2.13.0",
        "note                a note \ufffd[31mred\ufffd[0m",
    ]


def test_the_card_says_that_nothing_fits_and_that_a_line_was_wrong() -> None:
    nothing = replace(FITS, batch_size=0, peak=0, predicted=None, next_size=1, next_peak=21 * KIB)
    text = to_text(nothing)
    assert "largest batch size  none: nothing fits" in text
    assert "its peak" not in text and "by the line" not in text
    wrong = replace(FITS, predicted=9 * KIB, fixed=-1)
    assert "9.0 KiB, from two smaller traces: the traces decided" in to_text(wrong)
    assert "2.0 KiB per item, between" in to_text(wrong)


def test_the_cell_of_a_notebook_holds_text_alone() -> None:
    cell = display.html(FITS)
    assert cell is not None
    assert "&lt;script&gt;" in cell and "<script" not in cell and "\x1b" not in cell
    assert "1.0 KiB to spare" in cell
