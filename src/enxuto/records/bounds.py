"""The arithmetic behind a Certificate: bounds of a paired drop in quality, and the samples that a decision needs.

Plain numbers and numpy arrays in and out, so that a certificate can be computed again from its JSON without
torch. Everywhere "worse" is positive: a drop of 0.01 is one point lost. How often each bound errs is measured by
`benchmarks/guard.py`.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np

from ..errors import MissingDependency

#: Fewer samples than this give no t bound that deserves the name; a rule of thumb, not a theorem.
LEAST_SCORES = 30
POWER = 0.8


def error_of_look(error: float, look: int, planned: int) -> float:
    """What one look may spend of the error that all looks at a set share, so that they never spend more than it.

    Args:
        error: of all looks together: 1 - confidence.
        look: which one this is, from 1.
        planned: how many there were to be, fixed ahead: each gets an equal part. 0 is a number that was not fixed:
            look k gets 1/(k(k+1)), and 1/2 + 1/6 + 1/12 + … is 1 however many there are. Both give at most
            error / k to the k-th look; error / k itself would not do, as 1 + 1/2 + 1/3 + … has no end.
    """
    return error / planned if planned else error / (look * (look + 1))


def null_variance(hurt: Any, helped: Any, n: Any, drop: Any) -> Any:
    """n times the variance of the seen drop if the true one were `drop`, at the likeliest rates of harm and help.

    The rate of help q that is likeliest under "rate of harm - q = drop" solves
    2n q² - (hurt + helped - (2n - hurt + helped) drop) q - helped drop (1 - drop) = 0
    (Tango, Statistics in Medicine 17, 1998, section 3).
    """
    half = (hurt + helped - (2 * n - hurt + helped) * drop) / (4 * n)
    product = helped * drop * (1 - drop) / (2 * n)
    root = np.sqrt(np.maximum(half * half + product, 0.0))
    # of the two forms of the larger solution, the one that does not subtract two nearly equal numbers
    q = np.where(half > 0, half + root, product / np.where(root > half, root - half, 1.0))
    return 2 * q + drop * (1 - drop)


def drop_statistic(hurt: Any, helped: Any, n: Any, drop: Any) -> Any:
    """How many standard deviations the seen drop is above `drop`: Tango's score with Edwards' correction.

    Among discordant samples, hurt - helped moves in steps of 2; the correction adds half a step, towards "worse"
    (Edwards, Psychometrika 13, 1948). Without it a drop as large as the tolerance passed in up to 6.9 % of draws
    instead of 5 % (20 samples; 5.6 % at 100).
    """
    return (hurt - helped - n * drop + 1) / np.sqrt(n * null_variance(hurt, helped, n, drop))


def upper_drop(hurt: int, helped: int, n: int, error: float) -> float:
    """The largest true drop that `hurt` and `helped` of n samples leave possible, one-sided at `error`."""
    limit = -normal_quantile(1 - error)
    low, high = (hurt - helped) / n, 1.0
    while (
        low < (middle := (low + high) / 2) < high
    ):  # until floats end: the same bits wherever it is computed
        if drop_statistic(hurt, helped, n, middle) > limit:
            low = middle
        else:
            high = middle
    return high


def upper_mean(mean: float, deviation: float, skewness: float, n: int, error: float) -> float:
    """The largest true mean that n differences leave possible, one-sided at `error`.

    The larger of Student's bound and Hall's, which is corrected for skewness (Hall, Journal of the Royal
    Statistical Society B 54, 1992, equation 2.6): a few samples that get much worse make Student's far too low.
    Neither sees harm that no sample shows.
    """
    step = student_quantile(1 - error, n - 1) / math.sqrt(n)
    if abs(skewness) > 1e-6:  # below that the two agree to more digits than are shown
        bent = 1 - math.cbrt(1 - skewness * (step + skewness / (6 * n)))
        step = max(step, 3 * bent / skewness)
    return mean + deviation * step


def needed_samples(
    discordance: float,
    tolerance: float,
    *,
    drop: float = 0.0,
    error: float = 0.05,
    power: float = POWER,
) -> int:
    """The samples from which on a candidate is told apart from the tolerance, with probability `power`.

    Args:
        discordance: the share of samples on which the two differ in being right.
        tolerance: the drop that is tolerated, as a share: 0.01 is one point.
        drop: the true drop, another one than `tolerance`.
        error: 1 - confidence of the one look.

    >>> needed_samples(0.05, 0.01), needed_samples(0.0, 0.01)
    (3359, 446)
    """
    hurt, helped = (discordance + drop) / 2, (discordance - drop) / 2
    at_tolerance = math.sqrt(null_variance(hurt, helped, 1.0, tolerance))
    at_drop = math.sqrt(max(discordance - drop**2, 0.0))
    spread = normal_quantile(1 - error) * at_tolerance + normal_quantile(power) * at_drop
    gap = abs(tolerance - drop)
    # the n of gap n - 1 = spread √n
    return math.ceil(((spread + math.sqrt(spread**2 + 4 * gap)) / (2 * gap)) ** 2)


def needed_scores(deviation: float, gap: float, error: float) -> int:
    """The same for the mean of differences: Student's bound, normal quantiles, `POWER`."""
    spread = (normal_quantile(1 - error) + normal_quantile(POWER)) * deviation
    return max(LEAST_SCORES, math.ceil((spread / gap) ** 2))


def normal_quantile(share: float) -> float:
    """The quantile of the standard normal distribution."""
    return NormalDist().inv_cdf(share)


def student_quantile(share: float, freedom: int) -> float:
    """The quantile of Student's distribution.

    Raises:
        MissingDependency: there is no scipy.
    """
    try:
        from scipy.special import stdtrit
    except ImportError:
        raise MissingDependency(
            "certificates of per-sample scores need scipy; install it with pip install 'enxuto[compress]'"
        ) from None
    return float(stdtrit(freedom, share))
