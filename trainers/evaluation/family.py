"""Many networks on the same cases: each is redrawn once, then any pair of them is a subtraction."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from scipy.special import ndtr

from trainers.evaluation import case_scores, redraws
from trainers.evaluation.case_scores import CaseScores
from trainers.evaluation.processes import spread
from trainers.evaluation.ranked import Ranked
from trainers.evaluation.redraws import Bootstrap
from trainers.evaluation.summary import MACRO, RANKING

BYTES_PER_PROCESS = 2e10
"""Of scores, times redraws, that keep a processor busy for some three seconds; less is not worth the two that a process
takes to start."""


@dataclass(frozen=True, slots=True)
class Redrawn:
    """A ranking metric of one network, on its cases as they are and in every redraw.

    Attributes:
        targets: the pathologies, then macro.
        observed: float64 (targets,), NaN undefined.
        values: float64 (redraws, targets), NaN undefined; redraw r draws the same units for every network whose
            `fingerprint` is equal.
        fingerprint: of cases, units and labels in their order: networks are paired if it is equal.
        cases: how many.
    """

    targets: tuple[str, ...]
    observed: np.ndarray
    values: np.ndarray
    fingerprint: str
    cases: int


def redraw(scores: CaseScores, *, metric: str, bootstrap: Bootstrap) -> Redrawn:
    """Redraw one network.

    Args:
        scores: of the test partition.
        metric: auroc or average_precision.
        bootstrap: number of redraws, their unit and seed.

    Raises:
        ValueError: another metric, or no case.
    """
    if metric not in RANKING:
        raise ValueError(f"unknown metric {metric!r}; comparable: {', '.join(RANKING)}")
    if not len(scores.table):
        raise ValueError("there is no case")
    units = scores.units(bootstrap.unit)
    ranked = Ranked.of(scores, units)
    values = ranked.redrawn(_drawn(int(units.max()) + 1, bootstrap.redraws, bootstrap.seed), metric)
    targets = (*scores.pathologies, MACRO)
    return Redrawn(targets, ranked.observed(metric), values, _fingerprint(scores, units), len(scores.table))


def redraw_files(paths: Sequence[Path], *, metric: str, bootstrap: Bootstrap) -> list[Redrawn | str]:
    """Redraw the test partition of many networks, on all processors that this process may use.

    Args:
        paths: tables of case scores; keep those of one data set together, they share their redraws.
        metric: auroc or average_precision.
        bootstrap: the same for all.

    Returns:
        In the order of the paths; a sentence instead where a file cannot be used.
    """
    work = partial(_redraw_file, metric=metric, bootstrap=bootstrap)
    size = bootstrap.redraws * sum(path.stat().st_size for path in paths if path.is_file())
    # Threads would wait for each other: scipy's sparse products hold the interpreter's lock.
    return spread(work, paths, most=int(size / BYTES_PER_PROCESS))


def p_value(observed: float, redrawn: np.ndarray) -> float | None:
    """Return the two-sided p-value of a difference, from the redraws' standard deviation and the normal distribution.

    Counting redraws on the far side of no difference cannot give less than 2 / redraws, which no correction for
    hundreds of tests survives; a difference of means over thousands of cases is normal enough (Efron and Tibshirani
    1993, §12.3).

    Args:
        observed: on the cases as they are, NaN undefined.
        redrawn: (redraws,), NaN left out.

    Returns:
        None where it is undefined; 1 where the two never differ.
    """
    defined = redrawn[~np.isnan(redrawn)]
    if np.isnan(observed) or len(defined) < 2:
        return None
    spread = float(defined.std(ddof=1))
    if spread == 0:
        return 1.0 if observed == 0 else None
    return float(2 * ndtr(-abs(observed) / spread))


def _redraw_file(path: Path, *, metric: str, bootstrap: Bootstrap) -> Redrawn | str:
    try:
        scores = case_scores.load(path)
        test = scores.where((scores.table["partition"] == "test").to_numpy(bool))
        return redraw(test, metric=metric, bootstrap=bootstrap)
    except (OSError, ValueError) as problem:  # one unreadable table must not cost the others' report
        return f"{path.name} of trial {path.parent.name}: {problem}"


@lru_cache(maxsize=1)
def _drawn(units: int, count: int, seed: int) -> np.ndarray:
    return redraws.draw(units, redraws=count, seed=seed)


def _fingerprint(scores: CaseScores, units: np.ndarray) -> str:
    found = hashlib.sha256("\n".join(scores.table["case"].astype(str)).encode())
    found.update("\n".join(scores.pathologies).encode())
    for array in (units.astype(np.int64), np.nan_to_num(scores.labels, nan=-1.0)):
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
