"""The bounds of a drop: what they are by definition, that they cover, that more samples and less harm tighten them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.guard import accepts, ours, point, tango, wald
from enxuto.records import bounds

ERRORS = st.sampled_from([0.1, 0.05, 0.025, 0.05 / 6, 0.05 / 30])


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int, int]:
    n = draw(st.integers(1, 20_000))
    hurt = draw(st.integers(0, n))
    return hurt, draw(st.integers(0, n - hurt)), n


@given(counts(), ERRORS)
@settings(deadline=None)
def test_a_bound_is_the_drop_at_which_the_statistic_gives_up(of: tuple[int, int, int], error: float) -> None:
    hurt, helped, n = of
    upper = bounds.upper_drop(hurt, helped, n, error)
    limit = -bounds.normal_quantile(1 - error)
    assert (hurt - helped) / n <= upper <= 1
    below = upper - 1e-9
    assert below <= (hurt - helped) / n or bounds.drop_statistic(hurt, helped, n, below) > limit
    above = upper + 1e-9
    assert above >= 1 or bounds.drop_statistic(hurt, helped, n, above) <= limit


@given(counts(), ERRORS)
@settings(deadline=None)
def test_more_harm_less_help_and_less_error_raise_the_bound(of: tuple[int, int, int], error: float) -> None:
    hurt, helped, n = of
    upper = bounds.upper_drop(hurt, helped, n, error)
    assert bounds.upper_drop(hurt, helped, n, error / 2) >= upper
    if hurt + helped < n:
        assert bounds.upper_drop(hurt + 1, helped, n, error) >= upper
        assert bounds.upper_drop(hurt, helped + 1, n, error) <= upper + 1e-12
    if helped:
        assert bounds.upper_drop(hurt + 1, helped - 1, n, error) >= upper


@given(counts(), st.floats(-0.9, 0.9))
@settings(deadline=None)
def test_the_rates_behind_the_variance_are_the_likeliest(of: tuple[int, int, int], drop: float) -> None:
    hurt, helped, n = of
    q = (float(bounds.null_variance(hurt, helped, n, drop)) - drop * (1 - drop)) / 2
    least, most = max(0.0, -drop), (1 - drop) / 2

    def likelihood(help_: float) -> float:
        rates = (help_ + drop, help_, 1 - 2 * help_ - drop)
        seen = (hurt, helped, n - hurt - helped)
        return sum(k * math.log(max(rate, 1e-300)) for k, rate in zip(seen, rates, strict=True) if k)

    assert least - 1e-9 <= q <= most + 1e-9
    best = likelihood(min(max(q, least), most))
    assert all(
        likelihood(float(other)) <= best + 1e-6 * (1 + abs(best)) for other in np.linspace(least, most, 41)
    )


def test_nothing_discordant_still_has_a_bound() -> None:
    # n D - 1 = z √(n D (1 - D)), solved by hand
    z2 = bounds.normal_quantile(0.95) ** 2
    for n in (10, 100, 1_000, 100_000):
        a, b, c = n * (n + z2), -n * (2 + z2), 1.0
        assert bounds.upper_drop(0, 0, n, 0.05) == pytest.approx(
            (-b + math.sqrt(b * b - 4 * a * c)) / (2 * a)
        )
    assert bounds.upper_drop(0, 0, 100, 0.05) > 3 / 100  # the rule of three is exact, and ours is not below


def test_ends() -> None:
    assert bounds.upper_drop(50, 0, 50, 0.05) == 1.0
    assert -1 < bounds.upper_drop(0, 50, 50, 0.05) < -0.8


@pytest.mark.parametrize("n", [100, 1_000, 10_000])
def test_a_drop_of_the_tolerance_is_accepted_in_at_most_one_of_twenty(n: int) -> None:
    """Exact probabilities, summed over all counts: no draw is involved."""
    found = [accepts(ours, n, discordance, 0.01, 0.01, 0.05) for discordance in (0.011, 0.02, 0.05, 0.1, 0.2)]
    assert max(found) <= 0.05
    rng = np.random.default_rng(n)  # and by draws, through the bound itself
    differ = rng.binomial(n, 0.05, 400)
    hurt = rng.binomial(differ, 0.6).tolist()
    drawn = [bounds.upper_drop(b, m - b, n, 0.05) <= 0.01 for b, m in zip(hurt, differ.tolist(), strict=True)]
    assert np.mean(drawn) <= 0.08  # 5 % and three standard errors


def test_other_rules_break_what_ours_keeps() -> None:
    few = {"n": 100, "drop": 0.01, "tolerance": 0.01, "error": 0.05}
    assert accepts(point, discordance=0.02, **few) > 0.6
    assert accepts(wald, discordance=0.02, **few) > 0.2
    assert accepts(tango, discordance=0.0588, **few) > 0.055
    assert accepts(ours, discordance=0.0588, **few) < 0.05


def test_every_error_is_kept_at_every_size_and_tolerance() -> None:
    for error in (0.1, 0.05, 0.05 / 6):
        worst = max(
            accepts(ours, n, discordance, tolerance, tolerance, error)
            for n in (20, 100, 500)
            for tolerance in (0.005, 0.02, 0.1)
            for discordance in np.geomspace(1.001 * tolerance, 1, 12).tolist()
        )
        assert worst <= 1.04 * error


def test_what_is_needed_is_enough_and_not_much_more() -> None:
    for discordance, tolerance in ((0.05, 0.01), (0.02, 0.01), (0.1, 0.02), (0.05, 0.005)):
        n = bounds.needed_samples(discordance, tolerance)
        assert 0.79 <= accepts(ours, n, discordance, 0.0, tolerance, 0.05) <= 0.82
        assert accepts(ours, n * 9 // 10, discordance, 0.0, tolerance, 0.05) < 0.79
    nothing = bounds.needed_samples(0.0, 0.01)
    assert bounds.upper_drop(0, 0, nothing, 0.05) <= 0.01 < bounds.upper_drop(0, 0, nothing - 1, 0.05)


def test_power_at_no_drop() -> None:
    assert accepts(ours, 3_100, 0.05, 0.0, 0.01, 0.05) >= 0.75


@given(st.integers(1, 60), st.sampled_from([0.05, 0.1]))
def test_looks_never_spend_more_than_the_error(looks: int, error: float) -> None:
    open_end = [bounds.error_of_look(error, look, 0) for look in range(1, looks + 1)]
    planned = [bounds.error_of_look(error, look, looks) for look in range(1, looks + 1)]
    assert sum(open_end) < error and sum(planned) == pytest.approx(error)
    for look in range(1, looks + 1):
        assert max(open_end[look - 1], planned[look - 1]) <= error / look * (1 + 1e-12)


def test_the_bound_of_a_mean_is_students_where_nothing_is_skewed() -> None:
    expected = 0.2 + 1.5 * stats.t.ppf(0.95, 39) / math.sqrt(40)
    assert bounds.upper_mean(0.2, 1.5, 0.0, 40, 0.05) == pytest.approx(expected)
    assert bounds.upper_mean(0.2, 0.0, 0.0, 40, 0.05) == 0.2
    slightly = [bounds.upper_mean(0.2, 1.5, skewness, 40, 0.05) for skewness in (1e-5, -1e-5)]
    assert slightly == pytest.approx([expected, expected], abs=1e-5)


@given(st.floats(0.01, 6), st.integers(30, 5_000))
def test_the_bound_of_a_mean_undoes_halls_transformation(skewness: float, n: int) -> None:
    mean, deviation = 0.3, 2.0
    upper = bounds.upper_mean(mean, deviation, skewness, n, 0.05)
    u = (mean - upper) / deviation
    hall = math.sqrt(n) * (u + skewness * u**2 / 3 + skewness**2 * u**3 / 27 + skewness / (6 * n))
    assert hall == pytest.approx(-stats.t.ppf(0.95, n - 1), abs=1e-6)
    assert upper > bounds.upper_mean(mean, deviation, 0.0, n, 0.05)
    assert bounds.upper_mean(mean, deviation, -skewness, n, 0.05) >= bounds.upper_mean(
        mean, deviation, 0.0, n, 0.05
    )


def test_skewed_harm_is_accepted_less_often_than_by_student() -> None:
    rng = np.random.default_rng(0)
    harms = rng.lognormal(0, 1, (2_000, 200)) - math.exp(0.5)  # of true mean 0
    mean, deviation, skewness = harms.mean(1), harms.std(1, ddof=1), stats.skew(harms, axis=1)
    rows = list(zip(mean.tolist(), deviation.tolist(), skewness.tolist(), strict=True))
    ours_accepts = np.mean([bounds.upper_mean(m, s, g, 200, 0.05) <= 0 for m, s, g in rows])
    student_accepts = np.mean([bounds.upper_mean(m, s, 0.0, 200, 0.05) <= 0 for m, s, g in rows])
    assert student_accepts > 0.085 > 0.075 > ours_accepts


def test_scores_need_what_gives_four_chances_in_five() -> None:
    n = bounds.needed_scores(0.5, 0.05, 0.05)
    assert n == math.ceil(((1.6448536 + 0.8416212) * 0.5 / 0.05) ** 2)
    assert bounds.needed_scores(0.0, 0.05, 0.05) == bounds.LEAST_SCORES
