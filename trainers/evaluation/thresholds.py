"""Decisions at a threshold that was chosen on validation, never on the cases that are evaluated."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from trainers.evaluation.auroc import given
from trainers.evaluation.case_scores import CaseScores
from trainers.evaluation.intervals import Estimate, percentile
from trainers.evaluation.ranked import too_few
from trainers.evaluation.ranking import BLOCK
from trainers.evaluation.redraws import Bootstrap

Rule = Literal["youden", "sensitivity"]
METRICS = ("sensitivity", "specificity", "accuracy", "balanced_accuracy", "precision", "f1")


def choose(
    validation: CaseScores, *, rule: Rule = "youden", sensitivity: float | None = None
) -> dict[str, float | None]:
    """Choose a threshold per pathology; a case is called positive when its score is at or above it.

    Args:
        validation: case scores of the validation partition.
        rule: "youden" maximizes sensitivity + specificity − 1 (Youden, Cancer 3:32, 1950; of several the highest
            threshold); "sensitivity" takes the highest threshold that reaches the target.
        sensitivity: the target, between 0 and 1, for that rule.

    Returns:
        By pathology; None where validation lacks a class.

    Raises:
        ValueError: the target is missing or out of bounds.
    """
    if rule == "sensitivity" and (sensitivity is None or not 0 < sensitivity <= 1):
        raise ValueError(f"rule 'sensitivity' needs a target in (0, 1], not {sensitivity}")
    labels, scores = validation.labels, validation.scores
    return {
        name: threshold(labels[:, index], scores[:, index], rule=rule, sensitivity=sensitivity)
        for index, name in enumerate(validation.pathologies)
    }


def threshold(
    labels: np.ndarray, scores: np.ndarray, *, rule: Rule = "youden", sensitivity: float | None = None
) -> float | None:
    """Choose one pathology's threshold; see `choose`."""
    from sklearn.metrics import roc_curve  # imported where it is used: reading a report does not wait for it

    positive, values = given(labels, scores)
    if positive.all() or not positive.any():
        return None
    false_rate, true_rate, cuts = roc_curve(positive, values, drop_intermediate=False)
    if rule == "youden":
        # Rates are ratios of counts: rounding must not decide between equal ones.
        best = int(np.argmax(np.round((true_rate - false_rate)[1:], 12))) + 1
    else:
        best = int(np.argmax(true_rate >= (sensitivity or 0) - 1e-12))
        best = max(best, 1)
    return float(cuts[best])


def decisions(
    true_positives: np.ndarray, false_positives: np.ndarray, *, positives: np.ndarray, negatives: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the metrics of a confusion table, elementwise, NaN where a denominator is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity = true_positives / positives
        specificity = 1 - false_positives / negatives
        precision = true_positives / (true_positives + false_positives)
        return {
            "sensitivity": sensitivity,
            "specificity": specificity,
            "accuracy": (true_positives + negatives - false_positives) / (positives + negatives),
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "precision": precision,
            "f1": 2 * true_positives / (true_positives + false_positives + positives),
        }


def estimates(
    scores: CaseScores,
    units: np.ndarray,
    drawn: np.ndarray,
    *,
    bootstrap: Bootstrap,
    at: Mapping[str, float | None],
    macro_over: Sequence[str],
) -> dict[str, dict[str, Estimate]]:
    """Return the decision metrics at given thresholds per pathology and macro, with percentile intervals.

    Args:
        scores: the cases.
        units: (cases,) index of each case's unit.
        drawn: (units, redraws) counts.
        bootstrap: level of the intervals.
        at: threshold by pathology; None leaves that pathology's metrics undefined.
        macro_over: the pathologies macro averages; undefined if one of them is.
    """
    names = scores.pathologies
    points: dict[str, list[float]] = {metric: [] for metric in METRICS}
    redrawn: dict[str, list[np.ndarray]] = {metric: [] for metric in METRICS}
    columns = zip(names, scores.labels.T, scores.scores.T, strict=True)
    for name, labels, values in columns:
        cut = at.get(name)
        table = _table(labels, values, np.inf if cut is None else cut)
        once = _measure(table.sum(axis=0)[:, None])
        often = _measure(redrawn_sums(table, units, drawn))
        if too_few(labels, units):
            often = {metric: np.full_like(values, np.nan) for metric, values in often.items()}
        for metric in METRICS:
            points[metric].append(float("nan") if cut is None else float(once[metric][0]))
            redrawn[metric].append(often[metric])
    listed = [names.index(name) for name in macro_over]
    return {
        metric: _with_macro(names, points[metric], redrawn[metric], listed, level=bootstrap.level) for metric in METRICS
    }


def _with_macro(
    names: Sequence[str], points: list[float], redrawn: list[np.ndarray], columns: list[int], *, level: float
) -> dict[str, Estimate]:
    macro = float(np.mean([points[index] for index in columns])) if columns else float("nan")
    empty = np.full_like(redrawn[0], np.nan)
    redrawn_macro = np.mean([redrawn[index] for index in columns], axis=0) if columns else empty
    return {
        name: percentile(None if np.isnan(point) else point, values, level=level)
        for name, point, values in zip((*names, "macro"), [*points, macro], [*redrawn, redrawn_macro], strict=True)
    }


def redrawn_sums(table: np.ndarray, units: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Return the column sums of a table (cases, k) in every redraw, float64 (k, redraws)."""
    per_unit = np.stack([np.bincount(units, weights=column, minlength=len(drawn)) for column in table.T])
    blocks = range(0, drawn.shape[1], BLOCK)  # a block at a time: all counts as floats could fill the memory
    return np.hstack([per_unit @ drawn[:, first : first + BLOCK].astype(np.float64) for first in blocks])


def _table(labels: np.ndarray, scores: np.ndarray, cut: float) -> np.ndarray:
    """Return per case (called & positive, called & negative, positive, negative) as 0 or 1; 0 where not given."""
    called, positive, negative = scores >= cut, labels == 1, labels == 0
    return np.stack([called & positive, called & negative, positive, negative], axis=1).astype(np.float64)


def _measure(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Return the metrics of summed tables (4, n), each (n,)."""
    true_positives, false_positives, positives, negatives = sums
    return decisions(true_positives, false_positives, positives=positives, negatives=negatives)
