"""Plans and verdicts as text and in notebooks: they add up, say what is measured, fit, and stay text."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from enxuto.cli import app
from enxuto.records import Fitted, Numerics, Outcome, Plan, Verdict, display, write
from enxuto.reporting import plan_rows, print_record, to_text
from enxuto.units import format_bytes
from tests.reporting import plan_samples, samples

RECORDS: dict[str, Plan | Verdict | Fitted] = {
    "optimal": plan_samples.optimal(),
    "feasible": plan_samples.feasible(),
    "infeasible": plan_samples.infeasible(),
    "nothing": plan_samples.nothing(),
    "hostile": plan_samples.hostile(),
    "verdict": plan_samples.verdict(),
    "fitted": plan_samples.fitted(),
    "failed": plan_samples.failed(),
}
PLANS = {name: record for name, record in RECORDS.items() if isinstance(record, Plan)}
each_record = pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
each_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


def flat(record: object, *, width: int = 200) -> str:
    return " ".join(to_text(record, width=width).split())


@each_plan
def test_the_levers_lead_from_the_start_to_the_end(plan: Plan) -> None:
    rows = plan_rows.levers(plan)
    assert plan.before.peak - sum(row.freed for row in rows) == plan.after.peak
    ends = [plan.before.peak, *(row.after for row in rows)]
    assert [row.before for row in rows] == ends[:-1]
    assert ends[-1] == plan.after.peak


def test_what_no_lever_frees_by_itself_has_a_row() -> None:
    *levers, rest = plan_rows.levers(plan_samples.feasible())
    assert rest.title == plan_rows.NOT_BY_A_LEVER
    assert rest.freed == 7 * samples.MIB
    assert all(row.title != plan_rows.NOT_BY_A_LEVER for row in levers)


def test_alike_levers_are_one_row_that_sums_them() -> None:
    rows = plan_rows.levers(plan_samples.optimal())
    assert [row.title for row in rows][1] == "h.3–h.11 run again, keeping 4 products each"
    assert rows[1].freed == 900 * samples.MIB
    assert rows[1].slowdown_ratio == pytest.approx(1.01**9)


def test_a_row_is_as_lossy_as_its_worst_lever() -> None:
    assert plan_rows.plan_numerics(plan_samples.nothing()) is Numerics.IDENTICAL
    assert plan_rows.plan_numerics(plan_samples.optimal()) is Numerics.ROUNDING
    assert plan_rows.plan_numerics(plan_samples.feasible()) is Numerics.LOSSY


@each_record
@pytest.mark.parametrize("width", [40, 60, 80, 99, 100, 120])
def test_no_line_is_wider_than_the_terminal(record: object, width: int) -> None:
    assert max(cell_len(line) for line in to_text(record, width=width).splitlines()) <= width


@each_record
def test_a_pipe_gets_neither_colours_nor_escape_codes(record: object) -> None:
    stream = io.StringIO()
    print_record(record, file=stream, width=80)
    assert "\x1b" not in stream.getvalue()


def test_the_card_at_eighty_columns_is_the_golden_one() -> None:
    golden = Path(__file__).parent / "golden" / "fitted.txt"
    assert to_text(plan_samples.fitted(), width=80) == golden.read_text(encoding="utf-8")


def test_measured_stands_beside_predicted() -> None:
    text = flat(plan_samples.fitted())
    assert "1.8 GiB predicted, 234.0 MiB to spare" in text
    assert "1.8 GiB measured, +6.0 MiB (+0.3 %) against the predicted; passed" in text
    assert "gradients passed 0 predicted, 3.1e-07 measured (±1e-05)" in text
    assert "cap not checked 2.0 GiB predicted, not measured" in text
    alone = flat(plan_samples.optimal())
    assert "measured" not in alone


def test_a_peak_that_was_not_measured_is_said_to_be_so() -> None:
    base = plan_samples.fitted()
    memory, *others = base.verdict.checks
    unmade = replace(memory, outcome=Outcome.NOT_CHECKED)
    record = replace(base, verdict=replace(base.verdict, checks=(unmade, *others)))
    assert "to spare not measured step" in flat(record)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (plan_samples.verdict(), "passed (4 passed, 1 not checked)"),
        (plan_samples.verdict(fails=True), "failed (3 passed, 1 failed, 1 not checked)"),
        (replace(plan_samples.verdict(), checks=()), "not verified: no check was made"),
        (replace(plan_samples.verdict(), checks=plan_samples.verdict().checks[-1:]), "not verified"),
    ],
)
def test_a_verdict_in_one_phrase(record: Verdict, said: str) -> None:
    assert said in flat(record)


def test_infeasible_names_the_floor_and_what_would_have_to_be_allowed() -> None:
    plan = plan_samples.infeasible()
    text = flat(plan)
    assert "414.0 MiB over the budget" in text
    for held in plan.floor_holds:
        assert held in text
    assert f"a budget of 1.8 GiB ({plan.after.peak:,} bytes), with this plan" in text
    assert "or a step that takes ×1.65 (lossy): then 1.4 GiB is reached" in text
    assert "or levers that were to stay as they are: smaller-batch" in text
    assert plan_rows.needed(plan_samples.optimal()) == []


def test_status_says_how_good_the_plan_is() -> None:
    assert "no cheaper plan of these levers fits, proved" in flat(plan_samples.optimal())
    assert "by at most 3.2 % of the plain step's time" in flat(plan_samples.feasible())


def test_a_short_frontier_keeps_the_ends_and_the_chosen_plan() -> None:
    plan = plan_samples.optimal()
    rows = plan_rows.frontier(plan)
    short = plan_rows.frontier(plan, limit=8)
    assert len(rows) == 20 and len(short) <= 8
    assert (short[0], short[-1]) == (rows[0], rows[-1])
    assert [row.point.peak for row in short if row.chosen] == [plan.after.peak]
    assert f"{20 - len(short)} more plans between these." in flat(plan)


def test_every_refusal_has_its_reason() -> None:
    text = flat(plan_samples.optimal())
    for refusal in plan_samples.optimal().refused:
        assert f"{refusal.lever} {refusal.reason}" in text


def test_text_from_a_model_stays_text() -> None:
    text = to_text(plan_samples.failed(), width=200)
    assert samples.MARKUP in text and samples.SCRIPT in text and "\x1b" not in text


@each_record
def test_a_notebooks_card_is_inert_and_its_numbers_are_the_records(record: Plan | Verdict | Fitted) -> None:
    html = record._repr_html_()
    assert html is not None and html == display.html(record)
    assert not re.search(r"<(script|style|link|img|b|i)\b|src=\"|href=|url\(", html)
    assert "\x1b" not in html
    if isinstance(record, Verdict):
        return
    plan = record if isinstance(record, Plan) else record.plan
    start, budget, first, *freed, end = (int(n) for n in re.findall(r'data-bytes="(-?\d+)"', html))
    assert (start, budget, first, end) == (
        plan.before.peak,
        plan.budget.bytes,
        plan.before.peak,
        plan.after.peak,
    )
    assert first + sum(freed) == end


@each_record
def test_the_command_shows_a_saved_record(record: Plan | Verdict | Fitted, tmp_path: Path) -> None:
    saved, page = tmp_path / "record.json", tmp_path / "record.html"
    write(record, saved)
    shown = CliRunner().invoke(app, ["report", str(saved)])
    assert shown.exit_code == 0, shown.output
    assert format_bytes(2048 * samples.MIB) in shown.output or record.kind == "plan"
    assert CliRunner().invoke(app, ["report", str(saved), "--html", str(page)]).exit_code == 0
    assert "<!doctype html>" in page.read_text(encoding="utf-8")[:20]
