"""Bootstrap intervals from redrawn values."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval.

    Attributes:
        value: on the cases as they are; None undefined.
        low: lower end of the interval; None if the value is, or if too few redraws were defined.
        high: upper end.
        undefined_redraws: redraws in which the value had no meaning (a class was absent, or occurs in too few units
            for redraws to tell anything: `ranked.FEWEST_UNITS`); left out of the interval.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    undefined_redraws: int = 0


def percentile(value: float | None, redrawn: np.ndarray, *, level: float = 0.95) -> Estimate:
    """Return the percentile interval.

    Args:
        value: the statistic on the cases as they are.
        redrawn: (redraws,), NaN undefined.
        level: e.g. 0.95 for the 2.5th and 97.5th percentiles.
    """
    defined = redrawn[~np.isnan(redrawn)]
    undefined = len(redrawn) - len(defined)
    if value is None or len(defined) < 2:
        return Estimate(value, undefined_redraws=undefined)
    low, high = np.percentile(defined, [50 * (1 - level), 50 * (1 + level)])
    return Estimate(value, float(low), float(high), undefined)


def bca(value: float | None, redrawn: np.ndarray, jackknife: np.ndarray, *, level: float = 0.95) -> Estimate:
    """Return the bias-corrected and accelerated interval (Efron and Tibshirani 1993, eq. 14.10, 14.14, 14.15).

    Args:
        value: the statistic on the cases as they are.
        redrawn: (redraws,), NaN undefined.
        jackknife: (blocks,), the statistic without each block of units, NaN undefined.
        level: of the interval.
    """
    defined = redrawn[~np.isnan(redrawn)]
    left_out = jackknife[~np.isnan(jackknife)]
    undefined = len(redrawn) - len(defined)
    if value is None or len(defined) < 2 or len(left_out) < 2:
        return Estimate(value, undefined_redraws=undefined)
    share = (np.sum(defined < value) + 0.5 * np.sum(defined == value)) / len(defined)
    if share in (0, 1):  # no redraw on one side: the correction is infinite
        return percentile(value, redrawn, level=level)
    bias = ndtri(share)
    deviations = left_out.mean() - left_out
    spread = float(np.sum(deviations**2))
    acceleration = float(np.sum(deviations**3)) / (6 * spread**1.5) if spread > 0 else 0.0
    quantiles = ndtri([(1 - level) / 2, (1 + level) / 2])
    shifted = ndtr(bias + (bias + quantiles) / (1 - acceleration * (bias + quantiles)))
    low, high = np.quantile(defined, shifted)
    return Estimate(value, float(low), float(high), undefined)


def jackknife_counts(units: int, *, blocks: int = 1000) -> np.ndarray:
    """Return counts, uint16 (units, min(units, blocks)), that leave out one block of units each.

    Leaving out single units is the jackknife; with more units than `blocks`, blocks of neighbours are left out, which
    estimates the same acceleration (Shao and Wu, Ann. Stat. 17:1176, 1989) at a bounded cost.
    """
    blocks = min(units, blocks)
    counts = np.ones((units, blocks), dtype=np.uint16)
    counts[np.arange(units), np.arange(units) * blocks // units] = 0
    return counts
