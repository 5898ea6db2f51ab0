"""DeLong's variance of AUROC, for one curve and for pairs on the same cases (Biometrics 44:837, 1988).

By mid-ranks in O(n log n) (Sun and Xu, IEEE Signal Process. Lett. 21:1389, 2014). It takes cases as independent: with
several films per patient use the bootstrap over patients instead.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import norm, rankdata

from trainers.evaluation.auroc import given
from trainers.evaluation.intervals import Estimate

Alternative = Literal["two-sided", "greater", "less"]


@dataclass(frozen=True, slots=True)
class DelongTest:
    """Paired comparison of two AUROCs on the same cases, first minus second.

    Attributes:
        difference: with the normal interval.
        z: the statistic; None if the variance of the difference is 0.
        p_value: of the named alternative.
    """

    difference: Estimate
    z: float | None
    p_value: float | None


def delong(labels: np.ndarray, scores: np.ndarray, *, level: float = 0.95) -> Estimate:
    """Return AUROC with DeLong's interval, cut to [0, 1] as pROC does.

    Args:
        labels: (n,) 1, 0, NaN not given.
        scores: (n,).
        level: of the interval.

    Returns:
        Undefined unless both classes occur; without an interval if one of them occurs once.
    """
    positive, values = given(labels, scores)
    if positive.all() or not positive.any():
        return Estimate(None)
    areas, covariance = _moments(positive, values[None, :])
    if covariance is None:
        return Estimate(float(areas[0]))
    half = norm.ppf((1 + level) / 2) * np.sqrt(covariance[0, 0])
    return Estimate(float(areas[0]), float(max(0.0, areas[0] - half)), float(min(1.0, areas[0] + half)))


def delong_test(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    *,
    alternative: Alternative = "two-sided",
    level: float = 0.95,
) -> DelongTest:
    """Compare two AUROCs on the same cases.

    Args:
        labels: (n,) 1, 0, NaN not given.
        first: (n,) scores.
        second: (n,) scores.
        alternative: "greater" asks whether the first is better.
        level: of the interval of the difference.
    """
    positive, values = given(labels, first)
    _, others = given(labels, second)
    if positive.all() or not positive.any():
        return DelongTest(Estimate(None), None, None)
    areas, covariance = _moments(positive, np.stack([values, others]))
    difference = float(areas[0] - areas[1])
    if covariance is None:
        return DelongTest(Estimate(difference), None, None)
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if variance <= 1e-15:
        return DelongTest(Estimate(difference, difference, difference), None, None)
    half = float(norm.ppf((1 + level) / 2)) * variance**0.5
    z = difference / variance**0.5
    tails = {"greater": norm.sf(z), "less": norm.cdf(z), "two-sided": 2 * norm.sf(abs(z))}
    return DelongTest(Estimate(difference, difference - half, difference + half), z, float(tails[alternative]))


def _moments(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return AUROCs (k,) and their covariance (k, k) of k sets of scores (k, n); None if a class occurs once."""
    above, below = scores[:, positive], scores[:, ~positive]
    positives, negatives = above.shape[1], below.shape[1]
    ranks = rankdata(np.concatenate([above, below], axis=1), axis=1)
    of_positives = (ranks[:, :positives] - rankdata(above, axis=1)) / negatives
    of_negatives = 1 - (ranks[:, positives:] - rankdata(below, axis=1)) / positives
    areas = of_positives.mean(axis=1)
    if min(positives, negatives) < 2:
        return areas, None
    covariance = np.cov(of_positives) / positives + np.cov(of_negatives) / negatives
    return areas, np.atleast_2d(covariance)
