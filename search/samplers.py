"""Optuna's samplers: built by name, and told what a cell's points came to."""

import hashlib
import inspect
import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from search.errors import StudyError
from search.grid import Cell
from search.study_config import StudyConfig
from search.study_sections import Range, Sampling, is_whole
from search.study_state import StudyState, TrialProgress
from trainers.trial import TrialState

Seeds = list[TrialProgress]
"""The trials of one point."""
SAMPLERS: Mapping[str, type[optuna.samplers.BaseSampler]] = {
    "tpe": optuna.samplers.TPESampler,
    "gp": optuna.samplers.GPSampler,
    "cmaes": optuna.samplers.CmaEsSampler,
    "qmc": optuna.samplers.QMCSampler,
    "random": optuna.samplers.RandomSampler,
}
BLIND = frozenset({"qmc", "random"})
"""Samplers that learn nothing from results: one round is enough."""
LEARNERS = SAMPLERS.keys() - BLIND
SMALLEST_GENERATION = 4
"""Points from which CMA-ES takes a step; fewer do not tell a direction."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


def points_before_learning(study: StudyConfig) -> int:
    """Return how many points a cell's sampler draws by chance before results count; with fewer it learns nothing."""
    sampling = study.sampling
    if sampling.sampler not in LEARNERS:
        return 0
    rounds = math.ceil(_first_points(sampling) / sampling.per_round)
    if sampling.sampler == "cmaes":
        rounds += math.ceil((sampling.settings.get("popsize") or _generation(sampling)) / sampling.per_round)
    return rounds * sampling.per_round


def check(sampling: Sampling) -> None:
    """Refuse settings that the sampler does not take.

    Raises:
        StudyError: with those that it takes.
    """
    if sampling.sampler == "grid":
        return
    probe = optuna.create_study(sampler=_create(sampling, seed=0))
    try:
        for number in range(_draws_until_learning(sampling)):
            asked = probe.ask({"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)})
            probe.tell(asked, 1 / (1 + number))
    except Exception as problem:  # any: what a setting of the wrong kind leads the sampler's arithmetic to
        raise StudyError(f"sampling.settings: {sampling.sampler}: {problem}") from None


def _draws_until_learning(sampling: Sampling) -> int:
    """Return after how many draws every setting was made use of; GP's fit, which loads torch, is left out."""
    if sampling.sampler not in ("tpe", "cmaes"):
        return 1
    generation = sampling.settings.get("popsize") or _generation(sampling) if sampling.sampler == "cmaes" else 0
    return int(_first_points(sampling) + generation + 1)


def told(study: StudyConfig, cell: Cell, known: Sequence[Seeds], state: StudyState) -> optuna.study.Study:
    """Return an Optuna study that has been told what the points of a cell came to, each as one trial."""
    sampling = study.sampling
    direction = state.declaration.direction if state.datasets else "maximize"
    # CMA-ES draws on where its state left off, which arises anew from the same seed; the others have no such state.
    first = 0 if sampling.sampler == "cmaes" else len(known)
    sampler = _create(sampling, seed=_seed(sampling, cell, first), chance=_seed(sampling, cell, len(known)))
    optuna_study = optuna.create_study(direction=direction, sampler=sampler)
    spaces = distributions(study)
    for begin in range(0, len(known), sampling.per_round):
        of_round = known[begin : begin + sampling.per_round]
        ended = [as_optuna(seeds, spaces, ranks_pruned=sampling.sampler == "tpe") for seeds in of_round]
        if sampling.sampler == "cmaes":
            _tell_again(optuna_study, ended, spaces)
        else:
            optuna_study.add_trials(ended)
    return optuna_study


def _tell_again(
    optuna_study: optuna.study.Study, ended: Sequence[FrozenTrial], spaces: dict[str, BaseDistribution]
) -> None:
    """Ask for the points of a round once more and tell what they came to.

    CMA-ES writes what it knows into the trials that it is asked for; with trials that are only added it knows nothing.
    """
    for trial in ended:
        optuna_study.enqueue_trial(trial.params)
    asked = [optuna_study.ask(spaces) for _ in ended]
    for again in asked:
        _ = again.relative_params  # given values are not asked of the sampler unless somebody looks
    for again, trial in zip(asked, ended, strict=True):
        optuna_study.tell(again, trial.value, state=trial.state)


def _seed(sampling: Sampling, cell: Cell, points: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{sampling.seed}:{cell.name}:{points}".encode(), digest_size=4).digest())


def _create(sampling: Sampling, *, seed: int, chance: int = 0) -> optuna.samplers.BaseSampler:
    """Build a sampler.

    Args:
        sampling: which, and its settings.
        seed: of its own draws.
        chance: seed of what CMA-ES leaves to chance: choices, and its first points.
    """
    kind: Any = SAMPLERS[sampling.sampler]
    own: dict[str, dict[str, Any]] = {
        "qmc": {"scramble": True},
        "tpe": {"constant_liar": True, "n_startup_trials": _first_points(sampling)},
        "gp": {"n_startup_trials": _first_points(sampling)},
        "cmaes": {
            "popsize": _generation(sampling),
            "independent_sampler": optuna.samplers.RandomSampler(seed=chance),
            "warn_independent_sampling": False,
        },
    }
    try:
        settings = {**own.get(sampling.sampler, {}), **sampling.settings}
        sampler: optuna.samplers.BaseSampler = kind(seed=seed, **settings)
    except (TypeError, ValueError) as problem:
        takes = ", ".join(name for name in inspect.signature(kind).parameters if name != "seed")
        raise StudyError(f"sampling.settings: {sampling.sampler}: {problem}; it takes: {takes}") from None
    return sampler


def _generation(sampling: Sampling) -> int:
    """Return the population of CMA-ES: whole rounds, since it leaves what is more than a generation unused."""
    return sampling.per_round * math.ceil(SMALLEST_GENERATION / sampling.per_round)


def _first_points(sampling: Sampling) -> int:
    """Return how many points of a cell a sampler that learns draws by chance at first; Optuna calls them trials."""
    given = sampling.settings.get("n_startup_trials")
    usual = 1 if sampling.sampler == "cmaes" else 2 * sampling.per_round
    return usual if given is None else given


def as_optuna(seeds: Seeds, spaces: dict[str, BaseDistribution], *, ranks_pruned: bool) -> FrozenTrial:
    """Write a point as one trial of Optuna, with the mean over its seeds, which also chooses among points.

    Args:
        seeds: the trials of the point.
        spaces: of the searched values.
        ranks_pruned: whether the sampler itself knows what to make of pruned trials; to the others the last value of
            one is what it is worth, or they would learn from the few winners of a race alone.
    """
    finished = [p.result.best_value for p in seeds if p.state is TrialState.COMPLETE and p.result]
    values = [value for value in finished if value is not None]
    curves = [p.curve for p in seeds if p.state is TrialState.PRUNED and p.curve]
    if not (values or ranks_pruned):
        values = [curve[max(curve)] for curve in curves]
    epochs = set(curves[0]).intersection(*curves) if curves else set[int]()
    pruned = ranks_pruned and any(p.state is TrialState.PRUNED for p in seeds)
    unfinished = OptunaState.PRUNED if pruned else OptunaState.FAIL
    return optuna.trial.create_trial(
        state=OptunaState.COMPLETE if values else unfinished,
        value=fmean(values) if values else None,
        params=dict(seeds[0].searched),
        distributions=spaces,
        intermediate_values={epoch: fmean(curve[epoch] for curve in curves) for epoch in sorted(epochs)},
    )


def distributions(study: StudyConfig) -> dict[str, BaseDistribution]:
    """Describe what is searched to Optuna, by name."""
    return {name: _distribution(name, space) for name, space in study.search.items()}


def _distribution(name: str, space: Range | list[Any]) -> BaseDistribution:
    if isinstance(space, list):
        return CategoricalDistribution(space)
    if is_whole(name):
        return IntDistribution(round(space.low), round(space.high), log=space.log)
    return FloatDistribution(space.low, space.high, log=space.log)
