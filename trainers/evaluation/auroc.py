"""AUROC and average precision, exact with ties, None where undefined."""

import numpy as np


def given(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the binary labels (bool) and scores (float64) of the cases that have a label.

    Args:
        labels: (n,) 1, 0 or NaN (not given).
        scores: (n,), higher means more likely present.

    Raises:
        ValueError: a label between 0 and 1, a score that is not finite, or different lengths.
    """
    labels, scores = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if labels.shape != scores.shape or labels.ndim != 1:
        raise ValueError(f"labels {labels.shape} and scores {scores.shape} must be one-dimensional and equally long")
    known = ~np.isnan(labels)
    labels, scores = labels[known], scores[known]
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels to be evaluated must be 0, 1 or NaN")
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} scores are not finite")
    return labels == 1, scores


def auroc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Return the area under the ROC curve: P(score of a positive > of a negative) + half of P(equal).

    From mid-ranks (Mann-Whitney), so ties are exact.

    Returns:
        None unless both classes occur among the given labels.
    """
    from scipy.stats import rankdata  # a second's import that commands which measure nothing do not wait for

    positive, scores = given(labels, scores)
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if positives == 0 or negatives == 0:
        return None
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Return Σ (recall_k − recall_{k−1}) · precision_k over the distinct scores, as scikit-learn defines it.

    Returns:
        None unless both classes occur (with positives alone it would be 1 whatever the scores).
    """
    positive, scores = given(labels, scores)
    positives = int(positive.sum())
    if positives in (0, len(positive)):
        return None
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    found = np.cumsum(positive[order])[last_of_tie]
    called = np.flatnonzero(last_of_tie) + 1
    return float(np.sum(np.diff(found, prepend=0) * found / called) / positives)
