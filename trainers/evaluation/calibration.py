"""Do probabilities mean what they say: Brier score and expected calibration error."""

from collections.abc import Sequence

import numpy as np

from trainers.evaluation.case_scores import CaseScores
from trainers.evaluation.intervals import Estimate, percentile
from trainers.evaluation.redraws import Bootstrap
from trainers.evaluation.thresholds import redrawn_sums

BINS = 15


def brier(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Return the mean squared difference of probability and label (Brier, 1950); None without given labels."""
    known = ~np.isnan(labels)
    return float(np.mean((scores[known] - labels[known]) ** 2)) if known.any() else None


def expected_calibration_error(labels: np.ndarray, scores: np.ndarray, *, bins: int = BINS) -> float | None:
    """Return Σ n_b/n · |mean label − mean probability| over equal-width bins (Naeini et al., AAAI 2015).

    Args:
        labels: (n,) 1, 0, NaN not given.
        scores: (n,) probabilities in [0, 1].
        bins: number of bins; the last one includes 1.

    Returns:
        None without given labels.
    """
    table = _table(labels, scores, bins)
    if not (~np.isnan(labels)).any():
        return None
    return float(_error(table.sum(axis=0)[:, None])[0])


def estimates(
    scores: CaseScores,
    units: np.ndarray,
    drawn: np.ndarray,
    *,
    bootstrap: Bootstrap,
    macro_over: Sequence[str],
) -> dict[str, dict[str, Estimate]]:
    """Return Brier score and expected calibration error per pathology and macro, with percentile intervals.

    Scores outside [0, 1] are no probabilities: then both are undefined.
    """
    names = scores.pathologies
    metrics = ("brier", "ece")
    labels, values = scores.labels, scores.scores
    if values.min() < 0 or values.max() > 1:
        return {metric: {name: Estimate(None) for name in (*names, "macro")} for metric in metrics}
    found: dict[str, dict[str, Estimate]] = {metric: {} for metric in metrics}
    for metric in metrics:
        points, redrawn = [], []
        for index in range(len(names)):
            table = _table(labels[:, index], values[:, index], BINS if metric == "ece" else 1)
            sums = redrawn_sums(table, units, drawn)
            measure = _error if metric == "ece" else _squared
            points.append(float(measure(table.sum(axis=0)[:, None])[0]))
            redrawn.append(measure(sums))
        columns = [names.index(name) for name in macro_over]
        points.append(float(np.mean([points[i] for i in columns])) if columns else float("nan"))
        empty = np.full(bootstrap.redraws, np.nan)
        redrawn.append(np.mean([redrawn[i] for i in columns], axis=0) if columns else empty)
        for name, point, sampled in zip((*names, "macro"), points, redrawn, strict=True):
            found[metric][name] = percentile(None if np.isnan(point) else point, sampled, level=bootstrap.level)
    return found


def _table(labels: np.ndarray, scores: np.ndarray, bins: int) -> np.ndarray:
    """Return per case and bin (1, label, probability, squared difference), zero outside its bin or if not given."""
    known = ~np.isnan(labels)
    which = np.minimum((scores * bins).astype(int), bins - 1)
    table = np.zeros((len(labels), 4, bins))
    rows = np.flatnonzero(known)
    values = np.stack([np.ones(len(rows)), labels[rows], scores[rows], (scores[rows] - labels[rows]) ** 2], axis=1)
    table[rows, :, which[rows]] = values
    return table.reshape(len(labels), 4 * bins)


def _error(sums: np.ndarray) -> np.ndarray:
    counts, labels, scores, _ = sums.reshape(4, -1, sums.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        error: np.ndarray = np.abs(labels - scores).sum(axis=0) / counts.sum(axis=0)
    return error


def _squared(sums: np.ndarray) -> np.ndarray:
    counts, _, _, squares = sums.reshape(4, -1, sums.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: np.ndarray = squares.sum(axis=0) / counts.sum(axis=0)
    return mean
