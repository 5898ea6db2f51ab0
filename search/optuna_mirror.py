"""Copies finished trials to `optuna.db` in the study folder, so that optuna-dashboard opens a study.

Decisions never read it: SQLite takes about 15 ms a report and breaks under several writers, the ledger neither.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState as OptunaState

from search.ledger import Event
from search.pruning import OPTUNA_STATE, distribution, parameter
from search.study_folder import StudyFolder
from search.study_sections import Pruning
from search.study_state import StudyState, TrialProgress
from trainers.trial import TrialState


class OptunaMirror:
    """Adds each finished trial once to the Optuna study of its comparison group.

    Args:
        folder: of the study.
        pruning: for the comparison groups' names.
        told: the events that were told before.
    """

    def __init__(self, folder: StudyFolder, pruning: Pruning, told: Sequence[Event]):
        folder.path.mkdir(parents=True, exist_ok=True)
        self._storage = _opened(folder.optuna.resolve())
        self._state = StudyState.of(told)
        self._folder = folder
        self._pruning = pruning
        self._studies: dict[str, optuna.Study] = {}
        self._mirrored: dict[str, set[tuple[str, str]]] = defaultdict(set)

    def receive(self, events: list[Event]) -> None:
        """Add the trials that ended among these events."""
        for event in events:
            self._state.apply(event)
            if event["kind"] == "ended":
                self._add(self._state.trials[event["trial"]], event)

    def _add(self, progress: TrialProgress, event: Event) -> None:
        study = self._study(group_of(progress, self._pruning))
        name = study.study_name
        ending = (progress.trial, str(event["time_ms"]))
        if ending in self._mirrored[name]:
            return
        state = OPTUNA_STATE[TrialState(event["state"])]
        best = (event["result"] or {}).get("best_value")
        curve = progress.curve
        frozen = optuna.trial.create_trial(
            state=state,
            value=best if state is OptunaState.COMPLETE else None,
            params={key: parameter(value) for key, value in progress.searched.items()},
            distributions={key: self._distribution(progress, key) for key in progress.searched},
            intermediate_values=curve,
            user_attrs={"trial": ending[0], "ended_ms": ending[1], "seed": progress.seed, "reason": event["reason"]},
        )
        frozen.datetime_start = _time(progress.starts[0] if progress.starts else event["time_ms"])
        frozen.datetime_complete = _time(event["time_ms"])
        study.add_trial(frozen)
        self._mirrored[name].add(ending)

    def _study(self, group: str) -> optuna.Study:
        name = f"{self._folder.study}: {group}"
        if name not in self._studies:
            study = optuna.create_study(
                storage=self._storage,
                study_name=name,
                direction=self._state.declaration.direction,
                load_if_exists=True,
            )
            self._studies[name] = study
            self._mirrored[name] = {
                (trial.user_attrs["trial"], trial.user_attrs["ended_ms"]) for trial in study.get_trials(deepcopy=False)
            }
        return self._studies[name]

    def _distribution(self, progress: TrialProgress, key: str) -> Any:
        values: Sequence[Any] = [other.searched[key] for other in self._state.trials.values() if key in other.searched]
        return distribution(values)


def _opened(path: Path) -> optuna.storages.RDBStorage:
    """Open the file; a new one is made aside, since a kill between its tables and its indices would be for good.

    Without the index of unique names, Optuna would make a study again instead of loading it.
    """
    if not path.exists():
        aside = path.with_name(f".{path.name}.tmp")
        aside.unlink(missing_ok=True)
        optuna.storages.RDBStorage(f"sqlite:///{aside}").engine.dispose()
        aside.replace(path)
    return optuna.storages.RDBStorage(f"sqlite:///{path}")


def group_of(progress: TrialProgress, pruning: Pruning) -> str:
    """Name the comparison group of a trial from the ledger alone."""
    from search.grid import Cell

    axes: Mapping[str, Any] = progress.axes
    return Cell(tuple(axes.items())).group(pruning.within)


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC).replace(tzinfo=None)
