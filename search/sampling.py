"""Hyperparameters drawn by Optuna's samplers, a round at a time, each cell for itself.

The points of a round are drawn when the round before is over, from a generator seeded by the study, the cell and the
number of points before: what is drawn depends on results alone, not on the order or the interruptions of the work.
What was drawn is in the ledger; a study that goes on reads it there.
"""

import hashlib
import inspect
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState as OptunaState

from search import failures, grid
from search.errors import StudyError
from search.grid import Cell, Grid
from search.pruning import OPTUNA_STATE
from search.study_config import StudyConfig
from search.study_sections import Range, Sampling, is_whole
from search.study_state import StudyState, TrialProgress
from trainers.trial import TrialState

Point = dict[str, Any]
SAMPLERS: Mapping[str, type[optuna.samplers.BaseSampler]] = {
    "tpe": optuna.samplers.TPESampler,
    "gp": optuna.samplers.GPSampler,
    "cmaes": optuna.samplers.CmaEsSampler,
    "qmc": optuna.samplers.QMCSampler,
    "random": optuna.samplers.RandomSampler,
}
BLIND = frozenset({"qmc", "random"})
"""Samplers that learn nothing from results: one round is enough."""
DIGITS = 4
"""Significant digits of a drawn number: enough for any hyperparameter, and readable."""
TRIES = 50


def expand(study: StudyConfig, state: StudyState) -> Grid:
    """Return the study's cells and the trials that are known so far: all of a grid, or what was drawn."""
    return grid.expand(study, None if study.sampling.sampler == "grid" else drawn(study, state))


def drawn(study: StudyConfig, state: StudyState) -> dict[str, list[Point]]:
    """Return the points of each cell that the ledger holds and the study still asks for, in the order of drawing."""
    points: dict[str, list[Point]] = {}
    for progress in state.trials.values():
        known = points.setdefault(progress.cell, [])
        if _asked_for(study, progress.searched) and progress.searched not in known:
            known.append(dict(progress.searched))
    most = study.sampling.trials or 0
    return {cell: known[:most] for cell, known in points.items()}


def draw(study: StudyConfig, wanted: Grid, state: StudyState) -> Grid | None:
    """Draw the next round.

    Args:
        study: of the cells.
        wanted: its cells and the trials known so far, all of them done.
        state: what they came to.

    Returns:
        The grid with the new points; None if every cell has all its points. A cell that a failure stopped (its data
        cannot be read) gets none, until its trials are reopened.
    """
    if study.sampling.sampler == "grid":
        return None
    points = drawn(study, state)
    failed = [progress for progress in state.trials.values() if progress.state is TrialState.FAILED]
    stopped = {progress.cell for progress in failed if failures.stops_cell(progress.reason)}
    open_cells = [cell for cell in wanted.cells if cell.name not in stopped]
    more = {cell.name: _round(study, cell, points.get(cell.name, []), state) for cell in open_cells}
    if not any(more.values()):
        return None
    names = [cell.name for cell in wanted.cells]
    return grid.expand(study, {name: [*points.get(name, []), *more.get(name, [])] for name in names})


def examples(study: StudyConfig) -> Grid:
    """Return the grid with made-up points in the number that will be drawn, for a plan."""
    if study.sampling.sampler == "grid":
        return grid.expand(study)
    count = study.sampling.trials or 1
    if all(isinstance(space, list) for space in study.search.values()):  # no point is drawn twice
        count = min(count, math.prod(len(space) for space in study.search.values() if isinstance(space, list)))
    spaces = {name: _spread(name, space, count) for name, space in study.search.items()}
    points = [{name: values[n] for name, values in spaces.items()} for n in range(count)]
    return grid.expand(study, {cell.name: points for cell in grid.expand(study, {}).cells})


def check(sampling: Sampling) -> None:
    """Refuse settings that the sampler does not take.

    Raises:
        StudyError: with those that it takes.
    """
    if sampling.sampler != "grid":
        probe = optuna.create_study(sampler=_create(sampling, seed=0))
        try:
            probe.ask({"x": FloatDistribution(0.0, 1.0)})
        except (TypeError, ValueError) as problem:  # a setting of the wrong kind is only met at the first draw
            raise StudyError(f"sampling.settings: {sampling.sampler}: {problem}") from None


def _round(study: StudyConfig, cell: Cell, known: Sequence[Point], state: StudyState) -> list[Point]:
    sampling = study.sampling
    left = (sampling.trials or 0) - len(known)
    count = left if sampling.sampler in BLIND else min(left, sampling.per_round)
    if count <= 0:
        return []
    seed = hashlib.blake2b(f"{sampling.seed}:{cell.name}:{len(known)}".encode(), digest_size=4).digest()
    direction = state.declaration.direction if state.datasets else "maximize"
    optuna_study = optuna.create_study(direction=direction, sampler=_create(sampling, seed=int.from_bytes(seed)))
    distributions = {name: _distribution(name, space) for name, space in study.search.items()}
    for progress in state.trials.values():
        if progress.cell == cell.name and progress.searched in known and progress.state in OPTUNA_STATE:
            optuna_study.add_trial(_as_optuna(progress, distributions, state))
    new: list[Point] = []
    for _ in range(count + TRIES):
        asked = optuna_study.ask(distributions).params
        point = {name: _rounded(value, study.search[name]) for name, value in asked.items()}
        if point not in known and point not in new:
            new.append(point)
        if len(new) == count:
            return new
    return new + _not_drawn(study, [*known, *new])[: count - len(new)]


def _not_drawn(study: StudyConfig, points: Sequence[Point]) -> list[Point]:
    """List what is left of a search among choices alone, where drawing meets the last ones by chance only."""
    if not all(isinstance(space, list) for space in study.search.values()):
        return []
    choices = [space for space in study.search.values() if isinstance(space, list)]
    every = (dict(zip(study.search, values, strict=True)) for values in itertools.product(*choices))
    return [point for point in every if point not in points]


def _asked_for(study: StudyConfig, point: Point) -> bool:
    """Say whether a point that was drawn lies in the spaces as the study has them now."""
    return set(point) == set(study.search) and all(
        value in space if isinstance(space, list) else _is_number(value) and space.low <= value <= space.high
        for value, space in ((point[name], space) for name, space in study.search.items())
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _create(sampling: Sampling, *, seed: int) -> optuna.samplers.BaseSampler:
    kind: Any = SAMPLERS[sampling.sampler]
    own: dict[str, Any] = {"scramble": True} if sampling.sampler == "qmc" else {}
    own |= {"constant_liar": True, "n_startup_trials": 2 * sampling.per_round} if sampling.sampler == "tpe" else {}
    try:
        sampler: optuna.samplers.BaseSampler = kind(seed=seed, **{**own, **sampling.settings})
    except (TypeError, ValueError) as problem:
        takes = ", ".join(name for name in inspect.signature(kind).parameters if name != "seed")
        raise StudyError(f"sampling.settings: {sampling.sampler}: {problem}; it takes: {takes}") from None
    return sampler


def _as_optuna(
    progress: TrialProgress, distributions: dict[str, BaseDistribution], state: StudyState
) -> optuna.trial.FrozenTrial:
    ended = progress.state or TrialState.FAILED
    best = progress.result.best_value if progress.result else None
    told = ended is TrialState.COMPLETE and best is not None
    return optuna.trial.create_trial(
        state=OPTUNA_STATE[ended] if told or ended is not TrialState.COMPLETE else OptunaState.FAIL,
        value=best if told else None,
        params=dict(progress.searched),
        distributions=distributions,
        intermediate_values=progress.curve,
    )


def _distribution(name: str, space: Range | list[Any]) -> BaseDistribution:
    if isinstance(space, list):
        return CategoricalDistribution(space)
    if is_whole(name):
        return IntDistribution(round(space.low), round(space.high), log=space.log)
    return FloatDistribution(space.low, space.high, log=space.log)


def _rounded(value: Any, space: Range | list[Any]) -> Any:
    if not isinstance(value, float) or isinstance(space, list):
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), space.low), space.high)


def _spread(name: str, space: Range | list[Any], count: int) -> list[Any]:
    if isinstance(space, list):
        return [space[n % len(space)] for n in range(count)]
    between = np.geomspace if space.log else np.linspace
    values = (float(value) for value in between(space.low, space.high, count))
    return [round(value) if is_whole(name) else _rounded(value, space) for value in values]
