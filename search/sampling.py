"""Hyperparameters drawn by Optuna's samplers, a round at a time, each cell for itself.

The points of a round are drawn when the round before is over, from a generator seeded by the study, the cell and the
number of points before: what is drawn depends on results alone, not on the order or the interruptions of the work.
What was drawn is in the ledger; a study that goes on reads it there.
"""

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from search import failures, grid, samplers
from search.grid import Cell, Grid, Trial
from search.identity import key_of
from search.samplers import Seeds
from search.study_config import StudyConfig
from search.study_sections import Range, is_whole
from search.study_state import StudyState
from trainers.trial import TrialState

Point = dict[str, Any]
DIGITS = 4
"""Significant digits of a drawn number, more in a range that is narrow for its size: enough, and readable."""
TRIES = 50


def expand(study: StudyConfig, state: StudyState) -> Grid:
    """Return the study's cells and the trials that are known so far: all of a grid, or what was drawn."""
    return grid.expand(study, None if study.sampling.sampler == "grid" else drawn(study, state))


def drawn(study: StudyConfig, state: StudyState) -> dict[str, list[Point]]:
    """Return the points of each cell that the ledger holds and the study still asks for, in the order of drawing."""
    return {cell: _asked(study, points) for cell, points in trials_by_cell(study, state).items()}


def trials_by_cell(study: StudyConfig, state: StudyState) -> dict[str, list[Seeds]]:
    """Return the ledger's trials that are those of each cell as the study has it now, by point, in the order of entry.

    They are known by configuration and data, not by the name of the cell: another order of axes keeps them, while
    another optimizer, or images that were mended, makes them those of another search.
    """
    places = {trial: place for place, trial in enumerate(state.trials)}
    candidates: dict[str, dict[str, Seeds]] = defaultdict(lambda: defaultdict(list))
    for progress in state.trials.values():
        if _asked_for(study, progress.searched):
            candidates[_rest(study, progress.config)][progress.point].append(progress)
    examples = grid.expand(study, {}).examples
    found = {e.cell.name: list(candidates[_rest(study, e.config.model_dump(mode="json"))].values()) for e in examples}
    points = {cell: [dict(seeds[0].searched) for seeds in alike] for cell, alike in found.items()}
    built = grid.expand(study.model_copy(update={"seeds": study.seeds[:1]}), points).trials
    fingerprints = {key: str(event["fingerprint"]) for key, event in state.datasets.items()}
    own: dict[str, list[Seeds]] = {cell: [] for cell in found}
    for alike, trial in zip(itertools.chain(*found.values()), built, strict=True):
        if seeds := _of_these(alike, trial, fingerprints.get(key_of(trial.config.dataset))):
            own[trial.cell.name].append(seeds)
    return {cell: sorted(points, key=lambda seeds: places[seeds[0].trial]) for cell, points in own.items()}


def draw(study: StudyConfig, wanted: Grid, state: StudyState) -> Grid | None:
    """Draw the next round.

    Args:
        study: of the cells.
        wanted: its cells and the trials known so far, all of them done.
        state: what they came to.

    Returns:
        The grid with the new points; None if every cell has all its points, or the budget had no room for some of them:
        more would be dropped, too. A cell that a failure stopped (its data cannot be read) gets none, until its trials
        are reopened.
    """
    if study.sampling.sampler == "grid":
        return None
    known = trials_by_cell(study, state)
    if any(progress.dropped for points in known.values() for progress in itertools.chain(*points)):
        return None
    open_cells = [cell for cell in wanted.cells if not _is_stopped(known[cell.name])]
    more = {cell.name: _round(study, cell, known[cell.name], state) for cell in open_cells}
    if not any(more.values()):
        return None
    return grid.expand(study, {cell: [*_asked(study, found), *more.get(cell, [])] for cell, found in known.items()})


def examples(study: StudyConfig) -> Grid:
    """Return the grid with made-up points in the number that will be drawn, for a plan."""
    if study.sampling.sampler == "grid":
        return grid.expand(study)
    count = _points_per_cell(study)
    spaces = {name: _spread(name, space, count) for name, space in study.search.items()}
    points = [{name: values[n] for name, values in spaces.items()} for n in range(count)]
    return grid.expand(study, {cell.name: points for cell in grid.expand(study, {}).cells})


def to_come(study: StudyConfig, state: StudyState) -> list[Trial]:
    """Return made-up trials in the number of those that later rounds will draw; none of a cell that a failure stopped.

    Whoever says how far a study is counts them, since the ledger does not know them yet.
    """
    if study.sampling.sampler == "grid":
        return []
    known = trials_by_cell(study, state)
    missing: list[Trial] = []
    for cell, trials in itertools.groupby(examples(study).trials, key=lambda trial: trial.cell.name):
        if not _is_stopped(known[cell]):
            missing += list(trials)[len(_asked(study, known[cell])) * len(study.seeds) :]
    return missing


def _points_per_cell(study: StudyConfig) -> int:
    """Return how many points every cell gets: no point is drawn twice, so no more than there are."""
    values = [_values(name, space) for name, space in study.search.items()]
    every = math.inf if None in values else math.prod(len(listed) for listed in values if listed is not None)
    return int(min(study.sampling.trials or 1, every))


def _values(name: str, space: Range | list[Any]) -> Sequence[Any] | None:
    """List what a space holds, None where it is continuous."""
    if isinstance(space, list):
        return space
    return range(round(space.low), round(space.high) + 1) if is_whole(name) else None


def _asked(study: StudyConfig, known: Sequence[Seeds]) -> list[Point]:
    """Return as many of a cell's points as the study asks for."""
    return [dict(seeds[0].searched) for seeds in known[: study.sampling.trials or 0]]


def _is_stopped(known: Sequence[Seeds]) -> bool:
    trials = itertools.chain(*known)
    return any(progress.state is TrialState.FAILED and failures.stops_cell(progress.reason) for progress in trials)


def _of_these(alike: Seeds, trial: Trial, fingerprint: str | None) -> Seeds:
    """Return those that are what the study would train, with whatever seed, on the data as they are."""
    if fingerprint is None:
        return []
    configs = [trial.config.model_copy(update={"seed": progress.seed}) for progress in alike]
    return [p for p, config in zip(alike, configs, strict=True) if config.identity(fingerprint) == p.trial]


def _rest(study: StudyConfig, config: Mapping[str, Any]) -> str:
    """Write what is neither searched nor a seed in a trial's configuration: what the trials of a cell have in common.

    Of a searched recipe nothing is left, so that cells may share this; a trial is theirs by its identity.
    """
    own = {name: value for name, value in config.items() if name != "seed" and name not in study.search}
    for part in ("dataset", "recipe"):
        own[part] = {name: value for name, value in own.get(part, {}).items() if name not in study.search}
    return json.dumps(own, sort_keys=True)


def _round(study: StudyConfig, cell: Cell, known: Sequence[Seeds], state: StudyState) -> list[Point]:
    left = _points_per_cell(study) - len(known)
    count = left if study.sampling.sampler in samplers.BLIND else min(left, study.sampling.per_round)
    if count <= 0:
        return []
    points = _asked(study, known)
    distributions = samplers.distributions(study)
    optuna_study = samplers.told(study, cell, known, state)
    new: list[Point] = []
    for _ in range(count + TRIES):
        asked = optuna_study.ask(distributions).params
        point = {name: _rounded(value, study.search[name]) for name, value in asked.items()}
        if point not in points and point not in new:
            new.append(point)
        if len(new) == count:
            return new
    return new + list(itertools.islice(_not_drawn(study, [*points, *new]), count - len(new)))


def _not_drawn(study: StudyConfig, points: Sequence[Point]) -> Iterator[Point]:
    """Yield what is left of a search that has so many points only, where drawing meets the last ones by chance."""
    choices = [_values(name, space) for name, space in study.search.items()]
    listed = [values for values in choices if values is not None]
    if len(listed) == len(choices):
        every = (dict(zip(study.search, values, strict=True)) for values in itertools.product(*listed))
        yield from (point for point in every if point not in points)


def _asked_for(study: StudyConfig, point: Point) -> bool:
    """Say whether a point that was drawn lies in the spaces as the study has them now."""
    return set(point) == set(study.search) and all(
        value in space if isinstance(space, list) else _is_number(value) and space.low <= value <= space.high
        for value, space in ((point[name], space) for name, space in study.search.items())
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _rounded(value: Any, space: Range | list[Any]) -> Any:
    if not isinstance(value, float) or isinstance(space, list):
        return value
    alike = math.log10(max(abs(space.low), abs(space.high)) / (space.high - space.low))  # digits that all values share
    return min(max(float(f"{value:.{DIGITS + max(0, math.floor(alike))}g}"), space.low), space.high)


def _spread(name: str, space: Range | list[Any], count: int) -> list[Any]:
    if isinstance(space, list):
        return [space[n % len(space)] for n in range(count)]
    between = np.geomspace if space.log else np.linspace
    values = (float(value) for value in between(space.low, space.high, count))
    return [round(value) if is_whole(name) else _rounded(value, space) for value in values]
