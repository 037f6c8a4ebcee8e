"""The guard's stored figures: every cell is there, holds what was promised, and is what the shipped bound does."""

from __future__ import annotations

import json

import pytest

from benchmarks.guard import DISCORDANCES, ERROR, RESULT, RULES, SIZES, TOLERANCE, accepts
from benchmarks.tables import guard_table

FOUND = json.loads(RESULT.read_text())


def test_every_cell_is_drawn_often_and_holds() -> None:
    assert FOUND["draws"] >= 100_000
    assert {(cell["n"], cell["discordance"]) for cell in FOUND["cells"]} == {
        (n, discordance) for n in SIZES for discordance in DISCORDANCES
    }
    assert max(cell["ours"] for cell in FOUND["cells"]) <= 5.5
    assert FOUND["power"]["ours"] >= 75
    assert max(row["ratio"] for row in FOUND["scan"] if row["rule"] == "ours") <= 1.05


@pytest.mark.parametrize("rule", RULES)
def test_drawn_and_exact_agree_with_the_code(rule: str) -> None:
    for cell in FOUND["cells"]:
        exact = cell[f"{rule}_exact"]
        assert abs(cell[rule] - exact) <= 5 * (exact * (100 - exact) / FOUND["draws"]) ** 0.5 + 0.01
        if cell["n"] <= 1_000:
            of = cell["n"], cell["discordance"], cell["drop"]
            assert exact == pytest.approx(100 * accepts(RULES[rule], *of, TOLERANCE, ERROR), abs=6e-4)


def test_the_table_has_a_row_for_each_rule() -> None:
    assert len(guard_table().splitlines()) == 2 + len(RULES) + 2
