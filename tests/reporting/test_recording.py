"""A watched run as a card and as a page: every figure with its word, texts of the run escaped."""

from __future__ import annotations

from dataclasses import replace

import pytest

from enxuto.records import (
    Category,
    Cause,
    Ending,
    How,
    Phase,
    PhaseCost,
    RecordedStep,
    Recording,
    Retained,
    Share,
    Site,
    Source,
    Step,
    StepKind,
    Steps,
)
from enxuto.reporting import to_html, to_text
from enxuto.reporting.live import Live
from enxuto.reporting.recording_rows import drawn
from tests.reporting.browser import OUTSIDE, Page
from tests.reporting.samples import explanation

MIB = 2**20


def rows(number: int = 40) -> list[Step]:
    return [
        Step(
            step=n,
            covers=1,
            kind=StepKind.UPDATE if n % 4 else StepKind.CALL,
            seconds=0.25,
            peak=(10 + n % 3) * MIB,
            peak_how=How.RECORDED if n < 4 else How.REPEATED,
            host=300 * MIB + n * MIB,
            host_peak=310 * MIB + n * MIB,
        )
        for n in range(1, number + 1)
    ]


def recording() -> Recording:
    step = RecordedStep(
        step=2,
        kind=StepKind.UPDATE,
        signature=0,
        seconds=0.25,
        cost=0.125,
        peak=12 * MIB,
        end=3 * MIB,
        shares=(
            Share(category=Category.PARAMETER, nbytes=3 * MIB, blocks=4),
            Share(category=Category.SAVED_ACTIVATION, nbytes=9 * MIB, blocks=7),
        ),
        phases=(PhaseCost(phase=Phase.FORWARD, ops=12, flops=100, peak=12 * MIB),),
        site=Site(file="train.py", line=7, function="f"),
    )
    kept = Retained(
        owner="val_hist",
        place="the globals of train.py",
        what="list element",
        kind=StepKind.UPDATE,
        first=1,
        last=30,
        per_step=MIB,
        total=30 * MIB,
        tensors=30,
        graph=MIB,
    )
    cause = Cause(
        id="M03", evidence=f"`val_hist` {OUTSIDE} grows", fix="stop", frees=30 * MIB, ruled_out=("x",)
    )
    return Recording(
        source=Source(name=f"train.py{OUTSIDE}", torch="2", base=300 * MIB, budget=64 * MIB),
        steps=Steps.of(rows()),
        signatures=("Net(8×3)",),
        recorded=(step,),
        retained=(kept,),
        causes=(cause,),
        ending=Ending.FINISHED,
        seconds=10.0,
    )


def test_the_card_says_how_each_figure_was_come_by() -> None:
    text = to_text(recording())
    assert "40 steps in 10.0 s, to its end" in text
    assert "12.0 MiB of tensors, recorded, in step 2, at train.py:7" in text
    assert "at most 350.0 MiB (kernel), +36.0 MiB from step 4 to the end" in text
    assert "30 updates, 10 calls without an update" in text
    assert "1 step in full, which took 125 ms, 1.2 % of the time" in text
    assert "M03" in text and "frees: 30.0 MiB (by calculation)" in text and "enxuto explain M03" in text


def test_the_card_says_which_scratch_its_peaks_leave_out() -> None:
    explained = explanation()
    unknown = replace(explained, facts=replace(explained.facts, scratch_unknown=3))
    text = to_text(replace(recording(), explanations=(unknown,)))
    assert "scratch of 3 op calls that `enxuto explain` has not measured" in " ".join(text.split())
    known = replace(explained, facts=replace(explained.facts, scratch_unknown=0))
    assert "scratch of" not in to_text(replace(recording(), explanations=(known,)))


def test_a_run_without_anything_has_a_card_too() -> None:
    empty = Recording(source=Source(name="x", torch="2"), steps=Steps.of([]))
    assert "no step was seen" in to_text(empty)
    assert "its log has no end" in to_text(empty)
    assert to_html(empty)


def test_the_page_escapes_and_adds_up() -> None:
    page = Page(to_html(recording()))
    assert OUTSIDE not in page.html
    assert [e for e in page.elements if e.tag in ("img", "iframe")] == []
    numbers = page.numbers("receipt")
    assert numbers == [3 * MIB, 9 * MIB, 12 * MIB]
    assert page.numbers("kept") == [MIB, MIB]
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("points", [1, 7, 40, 1000])
def test_drawing_never_cuts_the_highest_off(points: int) -> None:
    curve = drawn(recording(), points=points)
    assert len(curve.step) == min(points, 40)
    assert max(value or 0 for value in curve.host) == 50 * MIB  # 350 at the end, 300 before the first step
    assert curve.step == sorted(curve.step)


def test_the_live_line() -> None:
    live = Live(64 * MIB)
    assert "no step yet" in live.line()
    for row in rows(12):
        live.add(row)
    assert live.line() == (
        "step 9 + 3 calls  peak 10.0 MiB (repeated, 16 % of the budget)  process 312.0 MiB (+11.0 MiB)"
    )
    for text in live.rows(60):
        assert "\n" not in text
    assert "64.0 MiB budget" in live.rows(120)[0]


def test_a_peak_that_nobody_recorded() -> None:
    unknown = [replace(row, peak=-1, peak_how=How.KERNEL) for row in rows()]
    text = to_text(replace(recording(), steps=Steps.of(unknown), recorded=()))
    assert "not recorded; the process had at most 350.0 MiB (kernel)" in text
