"""What of a study is allowed but probably not meant: told by `plan`, and by `run` before it begins."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from search import grid, pruners, samplers
from search.study_config import StudyConfig
from search.wording import counted
from trainers import adaptations
from trainers.initializations import FILE_PREFIX
from trainers.trial import TrialConfig


def warnings(study: StudyConfig, wanted: grid.Grid) -> list[str]:
    """Say what is allowed but probably not meant."""
    found = []
    prunes = _stops_trials(study)
    groups = _groups(study, wanted)
    if prunes and len(groups) == 1 and len(wanted.cells) > 1:
        found.append(
            f"pruning.within: {grid.readable(study.pruning.within)} compares trials of all cells: hard data sets and "
            "slow backbones lose their trials to easy ones, and most cells keep only the one trial that is never pruned"
        )
    if prunes and len(study.seeds) > 1 and study.pruning.pruner != "cell_race":
        found.append(
            f"pruning.pruner: {study.pruning.pruner} stops seeds of the same hyperparameters one by one, so that means "
            "over seeds are of those that it left; cell_race stops or keeps them together"
        )
    largest = max(groups.values(), default=0)
    if _waits_for_more(study, largest):
        found.append(
            f"pruning: {study.pruning.pruner} waits for n_startup_trials={_trials_before_pruning(study)} finished "
            f"trials, a comparison group has {largest} at most: nothing will be pruned"
        )
    by_chance = samplers.points_before_learning(study)
    points = len(wanted.trials) // len(wanted.cells) // len(study.seeds)
    if by_chance >= points == study.sampling.trials:  # where all points that exist are drawn there is nothing to learn
        found.append(
            f"sampling.trials: {study.sampling.sampler} draws {by_chance} points of a cell before it learns from what "
            f"they came to, and gets {points}: give more trials, or a smaller per_round"
        )
    return [*found, *_without_weights(wanted), *_without_effect(wanted)]


def prunes(study: StudyConfig, wanted: grid.Grid) -> bool:
    """Say whether anything can be pruned: who is alone in its group never is."""
    largest = max(_groups(study, wanted).values(), default=0)
    return _stops_trials(study) and largest > 1 and not _waits_for_more(study, largest)


def _groups(study: StudyConfig, wanted: grid.Grid) -> dict[str, int]:
    """Count what races in each comparison group: trials, or for `cell_race`, in which seeds go as one, points."""
    trials = Counter(trial.cell.group(study.pruning.within) for trial in wanted.trials)
    together = len(study.seeds) if study.pruning.pruner == "cell_race" else 1
    return {group: count // together for group, count in trials.items()}


def _waits_for_more(study: StudyConfig, largest: int) -> bool:
    """Say whether the pruner waits for more finished trials than the largest group has."""
    waits = _pruner(study)[0].lower().startswith(("median", "percentile"))
    return waits and largest <= _trials_before_pruning(study)


def _trials_before_pruning(study: StudyConfig) -> int:
    return int(_pruner(study)[1].get("n_startup_trials", 5))


def _stops_trials(study: StudyConfig) -> bool:
    return _pruner(study)[0] not in pruners.NOTHING


def _pruner(study: StudyConfig) -> tuple[str, Mapping[str, Any]]:
    """Return the pruner that decides, and its settings."""
    return pruners.unwrapped(study.pruning.pruner, study.pruning.settings)


def _without_weights(wanted: grid.Grid) -> Iterator[str]:
    """Tell of weights files that are not here; a relative one may lie in the folder that `--weights` names."""
    for name in dict.fromkeys(trial.config.initialization for trial in wanted.trials):
        path = Path(name.removeprefix(FILE_PREFIX))
        if name.startswith(FILE_PREFIX) and path.is_absolute() and not path.is_file():
            yield f"initialization {name}: no such file on this machine; every node that trains needs it at this path"


def _without_effect(wanted: grid.Grid) -> Iterator[str]:
    """Tell of settings that are compared or searched where they change nothing, so that trainings are repeated."""
    by_adaptation: dict[str, list[TrialConfig]] = defaultdict(list)
    for trial in wanted.trials:
        by_adaptation[trial.config.adaptation].append(trial.config)
    for name, configs in by_adaptation.items():
        ignored = adaptations.load(name).ignores
        differ = [s for s in sorted(ignored) if len({repr(getattr(config.recipe, s)) for config in configs}) > 1]
        if not differ:
            continue
        recipes = [config.recipe.model_dump(exclude=set(ignored)) for config in configs]
        pairs = zip(configs, recipes, strict=True)
        different = {repr({**config.model_dump(mode="json"), "recipe": recipe}) for config, recipe in pairs}
        if repeated := len(configs) - len(different):
            yield (
                f"adaptation {name}: {', '.join(differ)} changes nothing there; {counted(repeated, 'trial')} of "
                f"{len(configs)} would repeat others"
            )
