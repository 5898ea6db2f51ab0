"""One network's AUROC or average precision per pathology and macro, on its cases as they are and in redraws."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainers.evaluation import ranking
from trainers.evaluation.case_scores import CaseScores

FEWEST_UNITS = 3
"""With fewer patients of a class, redraws tell nothing of how much others would differ from them.

All redraws that are defined hold the same one patient, or the same two. Of pairs of equally good networks on 200
patients, tests at 5 % call 71 % different where one patient is positive, 31 % with two, 10 % with three to six, 6 %
with eight; 95 % intervals of an AUROC cover it in 14, 57, 77 to 87 and 87 %.
"""


@dataclass(frozen=True, slots=True)
class Ranked:
    """The sorted cases of every pathology.

    Attributes:
        pathologies: names.
        rankings: one per pathology, None where a class is absent.
        uncertain: of which pathologies redraws tell nothing; see `too_few`.
        macro_over: the pathologies that macro averages.
    """

    pathologies: tuple[str, ...]
    rankings: tuple[ranking.Ranking | None, ...]
    uncertain: tuple[bool, ...]
    macro_over: tuple[str, ...]

    @classmethod
    def of(cls, scores: CaseScores, units: np.ndarray, *, macro_over: Sequence[str] | None = None) -> "Ranked":
        """Sort a network's cases.

        Args:
            scores: of one partition.
            units: (cases,) index of the unit each case belongs to.
            macro_over: the pathologies that macro averages; None: those with both classes.
        """
        found = rankings(scores, units)
        both = [name for name, sides in zip(scores.pathologies, found, strict=True) if sides is not None]
        uncertain = tuple(too_few(labels, units) for labels in scores.labels.T)
        return cls(scores.pathologies, tuple(found), uncertain, tuple(both if macro_over is None else macro_over))

    def observed(self, metric: str) -> np.ndarray:
        """Return the metric on the cases as they are, float64 (pathologies + 1,), macro last, NaN undefined."""
        units = next((found.positives.shape[1] for found in self.rankings if found is not None), 0)
        as_is = ranking.redrawn(self.rankings, np.ones((units, 1), np.uint16), metric=metric)
        values: np.ndarray = self._with_macro(as_is)[0]
        return values

    def redrawn(self, counts: np.ndarray, metric: str) -> np.ndarray:
        """Return the metric of every redraw.

        Args:
            counts: (units, redraws) from `redraws.draw`.
            metric: auroc or average_precision.

        Returns:
            float64 (redraws, pathologies + 1), macro last. NaN undefined: a redraw in which a class is absent, and all
            of a pathology of which redraws tell nothing.
        """
        values = ranking.redrawn(self.rankings, counts, metric=metric)
        values[:, self.uncertain] = np.nan
        return self._with_macro(values)

    def _with_macro(self, values: np.ndarray) -> np.ndarray:
        """Add the mean over the listed columns, NaN where any of them is NaN or none is listed."""
        columns = [self.pathologies.index(name) for name in self.macro_over]
        mean = values[:, columns].mean(axis=1) if columns else np.full(len(values), np.nan)
        return np.column_stack([values, mean])


def too_few(labels: np.ndarray, units: np.ndarray) -> bool:
    """Say whether a class occurs, but in too few units for redraws to tell anything (`FEWEST_UNITS`).

    Args:
        labels: (cases,) of one pathology: 1, 0, NaN not given.
        units: (cases,) index of the unit each case belongs to.
    """
    return any(0 < len(np.unique(units[labels == side])) < FEWEST_UNITS for side in (0, 1))


def rankings(scores: CaseScores, units: np.ndarray) -> list[ranking.Ranking | None]:
    """Return the sorted cases of every pathology."""
    count = int(units.max()) + 1
    columns = zip(scores.labels.T, scores.scores.T, strict=True)
    return [ranking.rank(labels, values, units=units, count=count) for labels, values in columns]
