"""The procedures of arXiv 2510.07191 as its public code has them, so that its tables can be recomputed.

Not the default, for three reasons: images are redrawn although films of a patient resemble each other; the threshold
is refitted on the test labels inside every redraw, which flatters what depends on it; and the p-value tries both
directions one-sided and is not corrected for the number of tests. (tayebiarasteh/vit-med, Prediction_vitmed.py.)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from trainers.evaluation import ranking, redraws
from trainers.evaluation.auroc import given
from trainers.evaluation.case_scores import CaseScores
from trainers.evaluation.comparison import check_paired
from trainers.evaluation.ranked import rankings
from trainers.evaluation.ranking import BLOCK
from trainers.evaluation.thresholds import decisions

ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class PaperVerdict:
    """The paper's one-sided answer for a pathology or the mean over all.

    Attributes:
        higher: which network the counted redraws favour at 0.05, if any.
        p_value: one minus the share of redraws in which that one is higher (the first one's if neither).
    """

    pathology: str
    higher: Literal["first", "second", "neither"]
    p_value: float


def paper_table(scores: CaseScores, *, redraws_count: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Return mean, standard deviation and 2.5/97.5 percentiles over redraws of images, per metric and pathology.

    The macro row of a redraw is the mean over the pathologies that are defined in it (`nanmean`).

    Args:
        scores: of the test partition.
        redraws_count: number of redraws.
        seed: of the redraws (the paper's were saved to disk, unseeded).
    """
    units = np.arange(len(scores.table))
    drawn = redraws.draw(len(units), redraws=redraws_count, seed=seed)
    sorted_cases = rankings(scores, units)
    values = {metric: ranking.redrawn(sorted_cases, drawn, metric=metric) for metric in ("auroc", "average_precision")}
    values |= _refitted(scores, drawn)
    rows = []
    for metric, redrawn in values.items():
        with_macro = np.column_stack([redrawn, _nanmean(redrawn)])
        for pathology, column in zip((*scores.pathologies, "macro"), with_macro.T, strict=True):
            rows.append({"metric": metric, "pathology": pathology, **_described(column)})
    return pd.DataFrame(rows)


def paper_p_values(
    first: CaseScores, second: CaseScores, *, redraws_count: int = 1000, seed: int = 0
) -> list[PaperVerdict]:
    """Count the redraws in which one network's AUROC is higher, per pathology and for the mean over all.

    Args:
        first: a network's scores.
        second: another's, on the same cases.
        redraws_count: number of redraws, shared by both.
        seed: of the redraws.

    Raises:
        ValueError: not the same cases or labels.
    """
    check_paired(first, second)
    second = second.aligned(first)
    units = np.arange(len(first.table))
    drawn = redraws.draw(len(units), redraws=redraws_count, seed=seed)
    one, other = (ranking.redrawn(rankings(side, units), drawn, metric="auroc") for side in (first, second))
    pairs = [*zip(first.pathologies, one.T, other.T, strict=True), ("macro", _nanmean(one), _nanmean(other))]
    return [_verdict(name, a, b) for name, a, b in pairs]


def _verdict(pathology: str, first: np.ndarray, second: np.ndarray) -> PaperVerdict:
    forward = 1 - float(np.mean(first > second))
    backward = 1 - float(np.mean(second > first))
    if forward <= ALPHA:
        return PaperVerdict(pathology, "first", forward)
    if backward <= ALPHA:
        return PaperVerdict(pathology, "second", backward)
    return PaperVerdict(pathology, "neither", forward)


def _refitted(scores: CaseScores, drawn: np.ndarray) -> dict[str, np.ndarray]:
    """Return the decision metrics (redraws, pathologies) at each redraw's own Youden threshold."""
    labels, values = scores.labels, scores.scores
    columns = [list(_youden_blocks(labels[:, i], values[:, i], drawn)) for i in range(len(scores.pathologies))]
    names = ("sensitivity", "specificity", "accuracy", "balanced_accuracy", "precision", "f1")
    return {
        name: np.stack([np.concatenate([block[name] for block in column]) for column in columns], axis=1)
        for name in names
    }


def _youden_blocks(labels: np.ndarray, scores: np.ndarray, drawn: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """Yield a block of redraws' decision metrics of one pathology.

    Where a redraw has one class only, the threshold is 0.5, as in the paper's code.
    """
    positive, values = given(labels, scores)
    owners = np.flatnonzero(~np.isnan(labels))
    at_half = len(np.unique(values[values >= 0.5]))
    _, tie = np.unique(-values, return_inverse=True)  # highest scores first
    shape = (int(tie.max(initial=-1)) + 1, len(drawn))
    sides = [csr_array((np.ones(side.sum()), (tie[side], owners[side])), shape=shape) for side in (positive, ~positive)]
    for first in range(0, drawn.shape[1], BLOCK):
        weights = drawn[:, first : first + BLOCK].astype(np.float64)
        true, false = (np.pad(np.cumsum(side @ weights, axis=0), ((1, 0), (0, 0))) for side in sides)  # first: none
        positives, negatives = true[-1], false[-1]
        with np.errstate(invalid="ignore", divide="ignore"):
            youden = np.nan_to_num(true / positives - false / negatives, nan=-1.0)
        youden[0] = -1.0  # a threshold is a score
        best = np.where((positives == 0) | (negatives == 0), at_half, np.argmax(youden, axis=0))
        redraw = np.arange(weights.shape[1])
        yield decisions(true[best, redraw], false[best, redraw], positives=positives, negatives=negatives)


def _nanmean(values: np.ndarray) -> np.ndarray:
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = np.where(defined, values, 0).sum(axis=1) / defined.sum(axis=1)
    return mean


def _described(redrawn: np.ndarray) -> dict[str, float | None]:
    defined = redrawn[~np.isnan(redrawn)]
    if len(defined) == 0:
        return {"mean": None, "sd": None, "low": None, "high": None}
    low, high = np.percentile(defined, [2.5, 97.5])
    return {"mean": float(defined.mean()), "sd": float(defined.std()), "low": float(low), "high": float(high)}
