"""AUROC and average precision of thousands of redraws: sort once, then only add up weights.

A redraw does not change the order of the scores, only how often each unit counts. The sorted cases are cut into
segments in which order no longer matters, so one sparse matrix product per block of redraws gives the positives and
negatives of every segment, and a cumulative sum gives the statistic: exact, ties included, without sorting again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from trainers.evaluation.auroc import given

EXACT = 2**23  # float32 holds whole and half numbers below this exactly, and runs twice as fast; products need float64
BLOCK = 32  # redraws at a time: the block of weights stays in the processor's cache


@dataclass(frozen=True, slots=True)
class Ranking:
    """The sorted cases of one pathology, cut for both statistics.

    Attributes:
        positives: sparse (segments, units), number of positives of each unit in each segment.
        negatives: the same for negatives.
        credit: float32 (segments, 1), what a positive earns for a negative of its own segment: 1, or 0.5 at a tie.
        found: sparse (groups, units), positives in each group of equal scores that has any, highest scores first.
        passed: sparse (groups, units), negatives up to that group since the group before.
    """

    positives: csr_array
    negatives: csr_array
    credit: np.ndarray
    found: csr_array
    passed: csr_array

    def auroc(self, weights: np.ndarray) -> np.ndarray:
        """Return AUROC per redraw, NaN where a class is absent.

        Args:
            weights: float32 (units, redraws), how often each unit counts.
        """
        positives, negatives = self.positives @ weights, self.negatives @ weights
        below = np.cumsum(negatives, axis=0)
        if below[-1].max(initial=0) >= EXACT:
            below = np.cumsum(negatives, axis=0, dtype=np.float64)
        all_positives, all_negatives = positives.sum(axis=0, dtype=np.float64), below[-1].astype(np.float64)
        negatives *= self.credit - 1  # below − (1 − credit) · own
        below += negatives
        wins = np.einsum("sr,sr->r", positives, below, dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio: np.ndarray = wins / (all_positives * all_negatives)
        return ratio

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """Return average precision per redraw, NaN where a class is absent."""
        found = self.found @ weights
        true = np.cumsum(found, axis=0, dtype=np.float64)
        called = np.cumsum(self.passed @ weights, axis=0, dtype=np.float64)
        called += true
        absent = (self.positives @ weights).sum(axis=0) == 0
        absent |= (self.negatives @ weights).sum(axis=0) == 0
        with np.errstate(invalid="ignore", divide="ignore"):
            np.maximum(called, 1, out=called)  # nothing called yet: nothing found either
            precision = np.divide(true, called, out=called)
            value: np.ndarray = np.einsum("gr,gr->r", found.astype(np.float64), precision) / true[-1]
        return np.where(absent, np.nan, value)


def rank(labels: np.ndarray, scores: np.ndarray, *, units: np.ndarray, count: int) -> Ranking | None:
    """Sort the labelled cases of one pathology.

    Args:
        labels: (n,) 1, 0, NaN not given.
        scores: (n,).
        units: (n,) index of the unit each case belongs to.
        count: of units.

    Returns:
        None unless both classes occur.
    """
    positive, values = given(labels, scores)
    owners = np.asarray(units)[~np.isnan(np.asarray(labels, dtype=np.float64))]
    if positive.all() or not positive.any():
        return None
    order = np.argsort(values, kind="stable")
    positive, owners, values = positive[order], owners[order], values[order]
    tie = np.cumsum(np.append(False, np.diff(values) != 0))  # group of equal scores, ascending
    with_positives = np.bincount(tie, weights=positive) > 0
    with_negatives = np.bincount(tie, weights=~positive) > 0
    segment, credit = _segments(with_positives, with_negatives)
    group = _groups(with_positives)
    shape, groups = (len(credit), count), (int(with_positives.sum()), count)
    trailing = group[tie] < groups[0]  # negatives below the lowest positive change no precision
    return Ranking(
        positives=_indicator(segment[tie][positive], owners[positive], shape),
        negatives=_indicator(segment[tie][~positive], owners[~positive], shape),
        credit=credit[:, None],
        found=_indicator(group[tie][positive], owners[positive], groups),
        passed=_indicator(group[tie][~positive & trailing], owners[~positive & trailing], groups),
    )


def redrawn(rankings: Sequence[Ranking | None], counts: np.ndarray, *, metric: str) -> np.ndarray:
    """Return a statistic of every redraw and pathology.

    Args:
        rankings: one per pathology, None where a class is absent altogether.
        counts: (units, redraws) from `redraws.draw`.
        metric: auroc or average_precision.

    Returns:
        float64 (redraws, pathologies), NaN undefined.
    """
    result = np.full((counts.shape[1], len(rankings)), np.nan)
    for first in range(0, counts.shape[1], BLOCK):
        block = np.ascontiguousarray(counts[:, first : first + BLOCK], dtype=np.float32)
        for index, ranking in enumerate(rankings):
            if ranking is not None:
                statistic = ranking.auroc if metric == "auroc" else ranking.average_precision
                result[first : first + BLOCK, index] = statistic(block)
    return result


def _segments(with_positives: np.ndarray, with_negatives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join groups of equal scores: runs of pure negatives followed by runs of pure positives, ties alone.

    Returns:
        The segment of each group, and each segment's credit.
    """
    mixed = with_positives & with_negatives
    before_mixed = np.append(False, mixed[:-1])
    after_positive = np.append(False, with_positives[:-1])
    begins = mixed | before_mixed | (with_negatives & after_positive)
    begins[0] = True
    segment = np.cumsum(begins) - 1
    credit = np.ones(segment[-1] + 1, dtype=np.float32)
    credit[segment[mixed]] = 0.5
    return segment, credit


def _groups(with_positives: np.ndarray) -> np.ndarray:
    """Return for each group of equal scores (ascending) the next group with positives at or below, from the top."""
    descending = with_positives[::-1]
    at_or_before = np.cumsum(descending) - descending
    ascending: np.ndarray = at_or_before[::-1]
    return ascending


def _indicator(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> csr_array:
    return csr_array((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=shape)
