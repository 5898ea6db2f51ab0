"""Several seeds of one configuration: what training adds to the doubt, kept apart from what sampling adds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from trainers.evaluation import redraws
from trainers.evaluation.case_scores import CaseScores
from trainers.evaluation.comparison import check_paired
from trainers.evaluation.ranked import Ranked
from trainers.evaluation.redraws import Bootstrap
from trainers.evaluation.summary import MACRO


@dataclass(frozen=True, slots=True)
class SeedSpread:
    """One metric of one pathology (or macro) over seeds.

    Attributes:
        values: one per seed.
        mean: of the seeds.
        between_seeds: standard deviation between seeds (n − 1); None with one seed. Doubt about one more training.
        sampling: standard deviation of the seeds' mean over redraws of patients; None where redraws tell nothing
            (`ranked.FEWEST_UNITS`). Doubt about other patients.
        low: of the mean, mean ± z · √(sampling² + between²/seeds); None without `sampling`.
        high: as low.
    """

    pathology: str
    values: tuple[float, ...]
    mean: float
    between_seeds: float | None
    sampling: float | None
    low: float | None
    high: float | None


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
    units = runs[0].units(bootstrap.unit)
    drawn = redraws.draw(int(units.max()) + 1, redraws=bootstrap.redraws, seed=bootstrap.seed)
    sides = [Ranked.of(run, units) for run in runs]
    points = np.stack([side.observed(metric) for side in sides])
    sampled = np.mean([side.redrawn(drawn, metric) for side in sides], axis=0)
    return [
        _spread(name, points[:, index], sampled[:, index], bootstrap.level)
        for index, name in enumerate((*runs[0].pathologies, MACRO))
        if not np.isnan(points[:, index]).any()
    ]


def _spread(name: str, values: np.ndarray, sampled: np.ndarray, level: float) -> SeedSpread:
    between = float(values.std(ddof=1)) if len(values) > 1 else None
    mean, defined = float(values.mean()), sampled[~np.isnan(sampled)]
    if len(defined) < 2:
        return SeedSpread(name, tuple(map(float, values)), mean, between, None, None, None)
    sampling = float(defined.std(ddof=1))
    half = float(ndtri((1 + level) / 2)) * (sampling**2 + (between or 0.0) ** 2 / len(values)) ** 0.5
    return SeedSpread(name, tuple(map(float, values)), mean, between, sampling, mean - half, mean + half)
