"""How often does a guard accept a candidate that it should not, and one that it should?

    python -m benchmarks.guard                 every cell, half a minute on one core
    python -m benchmarks.guard --draws 100000  faster

A cell is a number of samples and a discordance (the share of samples on which the two models differ in being
right). The true drop is the tolerance, one point, so every acceptance is false, and at 95 % confidence at most 5 %
may be. Four rules decide the same draws: the point estimate ("the measured drop is within the tolerance", as the
toolkits have it), Wald's bound, Tango's score bound, and ours, which is Tango's with Edwards' correction. Beside the
draws stands the exact probability, a sum over all counts. `scan` is where Tango's bound and ours are falsely accepted
most often over many sizes, tolerances and errors, exactly; `scores` is for the means of per-sample differences, by
draws, Student's bound beside ours.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from enxuto.records import bounds, write_atomically

RESULT = Path(__file__).resolve().parent / "results" / "guard.json"

ERROR = 0.05
TOLERANCE = 0.01
SIZES = (100, 1_000, 10_000)
DISCORDANCES = (0.011, 0.02, 0.05, 0.10, 0.20)
POWER_AT = (3_100, 0.05)  # samples and discordance, at no true drop
DRAWS = 1_000_000

Array = NDArray[Any]
Rule = Callable[[Array, Array, int, float, float], Array]


def point(hurt: Array, helped: Array, n: int, tolerance: float, error: float) -> Array:
    """The rule without an error: what was seen is within the tolerance."""
    return (hurt - helped) / n <= tolerance


def wald(hurt: Array, helped: Array, n: int, tolerance: float, error: float) -> Array:
    """The bound with the variance that was seen."""
    drop = (hurt - helped) / n
    spread = np.sqrt(np.maximum((hurt + helped) / n - drop**2, 0) / n)
    return drop + bounds.normal_quantile(1 - error) * spread <= tolerance


def tango(hurt: Array, helped: Array, n: int, tolerance: float, error: float) -> Array:
    """Tango's bound without a correction."""
    score = (hurt - helped - n * tolerance) / np.sqrt(n * bounds.null_variance(hurt, helped, n, tolerance))
    return score <= -bounds.normal_quantile(1 - error)


def ours(hurt: Array, helped: Array, n: int, tolerance: float, error: float) -> Array:
    """The bound that certificates have."""
    return bounds.drop_statistic(hurt, helped, n, tolerance) <= -bounds.normal_quantile(1 - error)


RULES: dict[str, Rule] = {"point": point, "wald": wald, "tango": tango, "ours": ours}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=DRAWS, metavar="N", help="draws in each cell")
    draws = parser.parse_args().draws
    rng = np.random.default_rng(0)
    print(f"{'n':>6} {'discordance':>11} {'drop':>6}" + "".join(f"{rule:>17}" for rule in RULES))
    cells = []
    for n in SIZES:
        for discordance in DISCORDANCES:
            cells.append(cell(rng, n, discordance, TOLERANCE, draws))
    power = cell(rng, *POWER_AT, 0.0, draws)
    content = {
        "machine": {"numpy": np.__version__, "python": platform.python_version()},
        "error": ERROR,
        "tolerance": TOLERANCE,
        "draws": draws,
        "cells": cells,
        "power": power,
        "scan": list(scan()),
        "scores": list(scores(rng)),
    }
    write_atomically(RESULT, (json.dumps(content, indent=1) + "\n").encode())
    print("wrote benchmarks/results/guard.json")
    return 0


def cell(rng: np.random.Generator, n: int, discordance: float, drop: float, draws: int) -> dict[str, Any]:
    """Acceptances of every rule, drawn and exact, in percent."""
    differ = rng.binomial(n, discordance, draws)
    hurt = rng.binomial(differ, share_hurt(discordance, drop))
    check_bound(hurt, differ - hurt, n)
    row: dict[str, Any] = {"n": n, "discordance": discordance, "drop": drop}
    for name, rule in RULES.items():
        accepted = rule(hurt, differ - hurt, n, TOLERANCE, ERROR)
        row[name] = round(100 * float(accepted.mean()), 3)
        row[f"{name}_exact"] = round(100 * accepts(rule, n, discordance, drop, TOLERANCE, ERROR), 3)
    shown = "".join(f"{row[rule]:8.2f} ({row[f'{rule}_exact']:5.2f})" for rule in RULES)
    print(f"{n:>6} {discordance:>11.1%} {drop:>6.1%} {shown}", flush=True)
    return row


def share_hurt(discordance: float, drop: float) -> float:
    """Of the discordant samples, the share that is hurt."""
    return (1 + drop / discordance) / 2


def check_bound(hurt: Array, helped: Array, n: int, *, some: int = 100) -> None:
    """The bound itself decides as the statistic at the tolerance does, on some of the draws."""
    for b, c in zip(hurt[:some].tolist(), helped[:some].tolist(), strict=True):
        by_bound = bounds.upper_drop(b, c, n, ERROR) <= TOLERANCE
        assert by_bound == bool(ours(np.array(b), np.array(c), n, TOLERANCE, ERROR)), (b, c, n)


def accepts(rule: Rule, n: int, discordance: float, drop: float, tolerance: float, error: float) -> float:
    """The exact probability that a rule accepts."""
    differ = np.arange(n + 1)
    most = most_hurt(rule, n, tolerance, error)
    given = stats.binom.cdf(most, differ, share_hurt(discordance, drop))
    return float(stats.binom.pmf(differ, n, discordance) @ given)


def most_hurt(rule: Rule, n: int, tolerance: float, error: float) -> Array:
    """For each number of discordant samples, the most of them that may be hurt; -1 where none may."""
    differ = np.arange(n + 1)
    low, high = np.full(n + 1, -1), differ + 1
    while (open_ := high - low > 1).any():
        middle = (low + high) // 2
        accepted = rule(middle, differ - middle, n, tolerance, error)
        low, high = np.where(open_ & accepted, middle, low), np.where(open_ & ~accepted, middle, high)
    return low


def scan() -> Iterator[dict[str, Any]]:
    """For each error, where Tango's bound and ours are falsely accepted most often, over sizes and tolerances."""
    for error in (0.1, 0.05, 0.025, 0.05 / 6, 0.05 / 30):
        for name in ("tango", "ours"):
            worst = max(
                (accepts(RULES[name], n, discordance, tolerance, tolerance, error), n, tolerance, discordance)
                for n in (20, 50, 100, 200, 500, 1_000, 2_000)
                for tolerance in (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
                for discordance in np.geomspace(1.001 * tolerance, 1, 20).tolist()
            )
            found, n, tolerance, discordance = worst
            row = {
                "error": error,
                "rule": name,
                "accepted": round(100 * found, 4),
                "ratio": round(found / error, 3),
            }
            yield row | {"n": n, "tolerance": tolerance, "discordance": round(discordance, 4)}
            print(
                f"{name:6} error {error:7.3%}: at most {found:7.3%}, n {n}, tolerance {tolerance:.1%}",
                flush=True,
            )


# Differences whose true mean is the tolerance, "worse" positive; what is asked is the bound of their mean.
HARMS: dict[str, Callable[[np.random.Generator, tuple[int, int]], Array]] = {
    "normal": lambda rng, shape: rng.normal(0.01, 1, shape),
    "log-normal, σ = 1": lambda rng, shape: 0.01 + rng.lognormal(0, 1, shape) - np.exp(0.5),
    "log-normal, σ = 1.5": lambda rng, shape: 0.01 + rng.lognormal(0, 1.5, shape) - np.exp(1.125),
    "1 sample in 100 ruined": lambda rng, shape: rng.normal(0, 0.01, shape) + (rng.random(shape) < 0.01),
}


def scores(rng: np.random.Generator, *, draws: int = 10_000) -> Iterator[dict[str, Any]]:
    """False acceptances for means of differences, in percent: Student's bound and ours."""
    for name, draw in HARMS.items():
        for n in (30, 100, 1_000, 5_000):
            found = np.zeros(2)
            done = 0
            while done < draws:
                harms = draw(rng, (min(draws - done, max(1, 2_000_000 // n)), n))
                found += means_accepted(harms).sum(1)
                done += len(harms)
            student, mine = (100 * found / draws).round(2).tolist()
            yield {"harm": name, "n": n, "draws": draws, "student": student, "ours": mine}
            print(f"{name:24} n {n:>6}: Student {student:6.2f} %, ours {mine:6.2f} %", flush=True)


def means_accepted(harms: Array) -> Array:
    """Which of the rows Student's bound and ours accept, shape `[2, rows]`."""
    n = harms.shape[1]
    mean, deviation = harms.mean(1), harms.std(1, ddof=1)
    skewness = stats.skew(harms, axis=1)
    step = bounds.student_quantile(1 - ERROR, n - 1) / np.sqrt(n)
    uppers = [
        bounds.upper_mean(float(m), float(s), float(g), n, ERROR)
        for m, s, g in zip(mean, deviation, skewness, strict=True)
    ]
    return np.stack([mean + deviation * step, np.array(uppers)]) <= TOLERANCE


if __name__ == "__main__":
    sys.exit(main())
