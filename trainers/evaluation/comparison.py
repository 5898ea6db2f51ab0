"""Is one network better than another on the same cases: paired differences, their intervals and p-values."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from trainers.evaluation import redraws
from trainers.evaluation.case_scores import CaseScores
from trainers.evaluation.intervals import Estimate, bca, jackknife_counts, percentile
from trainers.evaluation.multiplicity import Correction, adjust
from trainers.evaluation.ranked import Ranked
from trainers.evaluation.redraws import Bootstrap
from trainers.evaluation.summary import MACRO, RANKING

Alternative = Literal["two-sided", "greater", "less"]


@dataclass(frozen=True, slots=True)
class Difference:
    """First minus second, on one pathology or macro.

    Attributes:
        difference: with its interval.
        p_value: of the named alternative, from the redraws; None if undefined.
        adjusted: for the family of pathologies; macro is a test of its own.
    """

    pathology: str
    difference: Estimate
    p_value: float | None
    adjusted: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two networks on the same cases."""

    metric: str
    alternative: Alternative
    correction: Correction
    bootstrap: Bootstrap
    differences: tuple[Difference, ...]

    @property
    def macro(self) -> Difference:
        """Return the difference of the macro means."""
        return self.differences[-1]

    def table(self) -> pd.DataFrame:
        """Return one row per pathology and macro; NaN where a value is undefined."""
        return pd.DataFrame(self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """Return the same as plain values; None where a value is undefined."""
        return [
            {
                "pathology": found.pathology,
                "difference": found.difference.value,
                "low": found.difference.low,
                "high": found.difference.high,
                "p_value": found.p_value,
                "adjusted": found.adjusted,
            }
            for found in self.differences
        ]


def compare(
    first: CaseScores,
    second: CaseScores,
    *,
    metric: str = "auroc",
    bootstrap: Bootstrap | None = None,
    alternative: Alternative = "two-sided",
    correction: Correction = "benjamini_hochberg",
) -> Comparison:
    """Compare two networks on the same cases, with the same redraws for both.

    The p-value inverts the percentile interval: twice (or once) the share of redraws on the far side of no
    difference, counting the observed sample as one redraw so that it is never 0 (Davison and Hinkley 1997, §4.2.3).

    Args:
        first: e.g. the challenger.
        second: e.g. the champion; the same cases and labels.
        metric: auroc or average_precision.
        bootstrap: default: 1,000 redraws of patients.
        alternative: "greater" asks whether the first is better.
        correction: over the pathologies.

    Raises:
        ValueError: not the same cases, patients, pathologies or labels.
    """
    if metric not in RANKING:
        raise ValueError(f"unknown metric {metric!r}; comparable: {', '.join(RANKING)}")
    bootstrap = bootstrap or Bootstrap()
    check_paired(first, second)
    second = second.aligned(first)
    names = first.pathologies
    estimates, redrawn = _estimates(first, second, metric, bootstrap)
    p_values = [
        None if estimate.value is None else p_value(redrawn[:, index], alternative)
        for index, estimate in enumerate(estimates)
    ]
    adjusted = [*adjust(p_values[:-1], correction), p_values[-1]]
    differences = tuple(map(Difference, (*names, MACRO), estimates, p_values, adjusted))
    return Comparison(metric, alternative, correction, bootstrap, differences)


def _estimates(
    first: CaseScores, second: CaseScores, metric: str, bootstrap: Bootstrap
) -> tuple[list[Estimate], np.ndarray]:
    """Return the differences with intervals, macro last, and the redrawn differences."""
    units = first.units(bootstrap.unit)
    drawn = redraws.draw(int(units.max()) + 1, redraws=bootstrap.redraws, seed=bootstrap.seed)
    one, other = Ranked.of(first, units), Ranked.of(second, units)
    observed = one.observed(metric) - other.observed(metric)
    redrawn = one.redrawn(drawn, metric) - other.redrawn(drawn, metric)
    values = [None if np.isnan(value) else float(value) for value in observed]
    if bootstrap.interval == "percentile":
        found = [percentile(value, redrawn[:, i], level=bootstrap.level) for i, value in enumerate(values)]
        return found, redrawn
    blocks = jackknife_counts(len(drawn))
    left_out = one.redrawn(blocks, metric) - other.redrawn(blocks, metric)
    found = [bca(value, redrawn[:, i], left_out[:, i], level=bootstrap.level) for i, value in enumerate(values)]
    return found, redrawn


def p_value(differences: np.ndarray, alternative: Alternative) -> float | None:
    """Return the bootstrap p-value of redrawn differences; NaN redraws are left out."""
    defined = differences[~np.isnan(differences)]
    if len(defined) == 0:
        return None
    not_greater = (np.sum(defined <= 0) + 1) / (len(defined) + 1)
    not_less = (np.sum(defined >= 0) + 1) / (len(defined) + 1)
    if alternative == "greater":
        return float(not_greater)
    if alternative == "less":
        return float(not_less)
    return float(min(1.0, 2 * min(not_greater, not_less)))


def check_paired(first: CaseScores, second: CaseScores) -> None:
    """Refuse to pair scores of different cases or labels.

    Raises:
        ValueError: says what differs and by how much.
    """
    if sorted(first.pathologies) != sorted(second.pathologies):
        raise ValueError(
            f"different pathologies: {', '.join(first.pathologies)} against {', '.join(second.pathologies)}"
        )
    cases = set(first.table["case"]), set(second.table["case"])
    if cases[0] != cases[1] or len(first.table) != len(second.table):
        raise ValueError(
            f"not the same cases: {len(cases[0] - cases[1])} only in the first, {len(cases[1] - cases[0])} only in the "
            "second (hashes agree only within one key folder)"
        )
    if not cases[0]:
        raise ValueError("there is no test case")
    for side in (first, second):
        if len(twice := side.table["case"][side.table["case"].duplicated()]):
            raise ValueError(f"{len(twice)} rows repeat a case, first {twice.iloc[0]}; every case is scored once")
    second = second.aligned(first)
    patients = [side.table["patient"].fillna("") for side in (first, second)]
    if differing := int((patients[0] != patients[1]).sum()):
        raise ValueError(f"{differing} of {len(first.table)} cases are of different patients")
    if not np.array_equal(first.labels, second.labels, equal_nan=True):
        differing = int((np.nan_to_num(first.labels, nan=-1) != np.nan_to_num(second.labels, nan=-1)).sum())
        raise ValueError(f"the same cases carry {differing} different labels; the data changed between the two")
