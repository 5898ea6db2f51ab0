"""One network's evaluation: every metric per pathology and macro, with intervals and counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from trainers.evaluation import calibration, redraws, thresholds
from trainers.evaluation.auroc import auroc, average_precision
from trainers.evaluation.case_scores import CaseScores
from trainers.evaluation.intervals import Estimate, bca, jackknife_counts, percentile
from trainers.evaluation.ranked import Ranked
from trainers.evaluation.redraws import Bootstrap

MACRO = "macro"
RANKING = {"auroc": auroc, "average_precision": average_precision}


@dataclass(frozen=True, slots=True)
class Counts:
    """How many cases of a pathology have which label."""

    positives: int
    negatives: int
    missing: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures of one network on one set of cases.

    Attributes:
        estimates: by metric, then by pathology or "macro".
        counts: by pathology.
        macro_over: the pathologies that macro averages; the others lack a class.
        cases: number of cases.
        patients: number of patients.
        bootstrap: how the intervals came about.
        thresholds: by pathology, chosen on validation; empty if none were given.
    """

    estimates: Mapping[str, Mapping[str, Estimate]]
    counts: Mapping[str, Counts]
    macro_over: tuple[str, ...]
    cases: int
    patients: int
    bootstrap: Bootstrap
    thresholds: Mapping[str, float | None]

    def table(self) -> pd.DataFrame:
        """Return one row per metric and pathology: value, low, high, positives, negatives, missing, undefined."""
        rows = [
            {
                "metric": metric,
                "pathology": pathology,
                "value": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                **self._counts(pathology),
                "undefined_redraws": estimate.undefined_redraws,
            }
            for metric, by_pathology in self.estimates.items()
            for pathology, estimate in by_pathology.items()
        ]
        return pd.DataFrame(rows)

    def scalars(self, prefix: str) -> dict[str, float]:
        """Return the defined values as named scalars, e.g. `test/auroc/pneumothorax`, with /low and /high."""
        found: dict[str, float] = {}
        for metric, by_pathology in self.estimates.items():
            for pathology, estimate in by_pathology.items():
                for end, value in (("", estimate.value), ("/low", estimate.low), ("/high", estimate.high)):
                    if value is not None:
                        found[f"{prefix}/{metric}/{pathology}{end}"] = value
        return found

    def _counts(self, pathology: str) -> dict[str, int | None]:
        counts = self.counts.get(pathology)
        if counts is None:
            return {"positives": None, "negatives": None, "missing": None}
        return {"positives": counts.positives, "negatives": counts.negatives, "missing": counts.missing}


def summarize(
    scores: CaseScores,
    *,
    bootstrap: Bootstrap | None = None,
    macro_over: Sequence[str] | None = None,
    at: Mapping[str, float | None] | None = None,
) -> Evaluation:
    """Evaluate one network's case scores.

    Args:
        scores: of one partition.
        bootstrap: number, unit and kind of redraws; the default redraws patients 1,000 times.
        macro_over: the pathologies macro averages; None: those with both classes among these cases, which depends
            on the labels alone. One without a value makes macro undefined rather than being dropped.
        at: thresholds chosen on validation (`thresholds.choose`) by pathology; adds sensitivity and the like.

    Raises:
        ValueError: `macro_over` names an unknown pathology, or there are no cases.
    """
    bootstrap = bootstrap or Bootstrap()
    if len(scores.table) == 0:
        raise ValueError("there are no cases to evaluate")
    counts = {name: _count(column) for name, column in zip(scores.pathologies, scores.labels.T, strict=True)}
    listed = tuple(macro_over) if macro_over is not None else tuple(n for n in counts if _both(counts[n]))
    if unknown := sorted(set(listed) - set(scores.pathologies)):
        raise ValueError(f"macro_over names {', '.join(unknown)}; pathologies: {', '.join(scores.pathologies)}")
    units = scores.units(bootstrap.unit)
    drawn = redraws.draw(int(units.max()) + 1, redraws=bootstrap.redraws, seed=bootstrap.seed)
    ranked = Ranked.of(scores, units, macro_over=listed)
    estimates = {metric: _ranking_estimates(scores, metric, ranked, drawn, bootstrap) for metric in RANKING}
    estimates |= calibration.estimates(scores, units, drawn, bootstrap=bootstrap, macro_over=listed)
    if at is not None:
        estimates |= thresholds.estimates(scores, units, drawn, bootstrap=bootstrap, at=at, macro_over=listed)
    return Evaluation(
        estimates=estimates,
        counts=counts,
        macro_over=listed,
        cases=len(scores.table),
        patients=int(scores.table["patient"].nunique()),
        bootstrap=bootstrap,
        thresholds=dict(at or {}),
    )


def _ranking_estimates(
    scores: CaseScores, metric: str, ranked: Ranked, drawn: np.ndarray, bootstrap: Bootstrap
) -> dict[str, Estimate]:
    function, names = RANKING[metric], scores.pathologies
    labels, values = scores.labels, scores.scores
    points: list[float | None] = [function(labels[:, i], values[:, i]) for i in range(len(names))]
    redrawn = ranked.redrawn(drawn, metric)
    by_name = dict(zip(names, points, strict=True))
    listed = [by_name[name] for name in ranked.macro_over]
    defined = [value for value in listed if value is not None]
    points.append(float(np.mean(defined)) if listed and len(defined) == len(listed) else None)
    left_out = ranked.redrawn(jackknife_counts(len(drawn)), metric) if bootstrap.interval == "bca" else None
    return {
        name: percentile(points[i], redrawn[:, i], level=bootstrap.level)
        if left_out is None
        else bca(points[i], redrawn[:, i], left_out[:, i], level=bootstrap.level)
        for i, name in enumerate((*names, MACRO))
    }


def _count(labels: np.ndarray) -> Counts:
    return Counts(int((labels == 1).sum()), int((labels == 0).sum()), int(np.isnan(labels).sum()))


def _both(counts: Counts) -> bool:
    return counts.positives > 0 and counts.negatives > 0
