"""Several seeds of one configuration: what training adds to the doubt, kept apart from what sampling adds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from trainers.evaluation import ranking, redraws
from trainers.evaluation.case_scores import CaseScores
from trainers.evaluation.comparison import check_paired
from trainers.evaluation.redraws import Bootstrap
from trainers.evaluation.summary import MACRO, macro, rankings


@dataclass(frozen=True, slots=True)
class SeedSpread:
    """One metric of one pathology (or macro) over seeds.

    Attributes:
        values: one per seed.
        mean: of the seeds.
        between_seeds: standard deviation between seeds (n − 1); None with one seed. Doubt about one more training.
        sampling: standard deviation of the seeds' mean over redraws of patients. Doubt about other patients.
        low: of the mean, mean ± z · √(sampling² + between²/seeds).
        high: as low.
    """

    pathology: str
    values: tuple[float, ...]
    mean: float
    between_seeds: float | None
    sampling: float
    low: float
    high: float


def over_seeds(
    runs: Sequence[CaseScores], *, metric: str = "auroc", bootstrap: Bootstrap | None = None
) -> list[SeedSpread]:
    """Return the spread per pathology and macro; pathologies without both classes are left out.

    Args:
        runs: case scores of each seed, on the same cases.
        metric: auroc or average_precision.
        bootstrap: redraws shared by all seeds.

    Raises:
        ValueError: no run, or not the same cases.
    """
    if not runs:
        raise ValueError("there is no run to summarize")
    for other in runs[1:]:
        check_paired(runs[0], other)
    runs = [run.aligned(runs[0]) for run in runs]
    bootstrap = bootstrap or Bootstrap()
    names, units = runs[0].pathologies, runs[0].units(bootstrap.unit)
    drawn = redraws.draw(int(units.max()) + 1, redraws=bootstrap.redraws, seed=bootstrap.seed)
    sides = [rankings(run, units) for run in runs]
    listed = [name for name, found in zip(names, sides[0], strict=True) if found is not None]
    as_is = np.ones((len(drawn), 1), np.uint16)
    points = np.stack([_measured(side, as_is, metric, names, listed)[0] for side in sides])
    sampled = np.mean([_measured(side, drawn, metric, names, listed) for side in sides], axis=0)
    return [
        _spread(name, points[:, index], sampled[:, index], bootstrap.level)
        for index, name in enumerate((*names, MACRO))
        if not np.isnan(points[:, index]).any()
    ]


def _measured(
    side: Sequence[ranking.Ranking | None],
    counts: np.ndarray,
    metric: str,
    names: Sequence[str],
    listed: Sequence[str],
) -> np.ndarray:
    values = ranking.redrawn(side, counts, metric=metric)
    return np.column_stack([values, macro(values, names, listed)])


def _spread(name: str, values: np.ndarray, sampled: np.ndarray, level: float) -> SeedSpread:
    between = float(values.std(ddof=1)) if len(values) > 1 else None
    sampling = float(np.nanstd(sampled, ddof=1))
    half = float(norm.ppf((1 + level) / 2)) * (sampling**2 + (between or 0.0) ** 2 / len(values)) ** 0.5
    mean = float(values.mean())
    return SeedSpread(name, tuple(map(float, values)), mean, between, sampling, mean - half, mean + half)
