"""Copies finished trials to `optuna.db` in the study folder, so that optuna-dashboard opens a study.

Decisions never read it: SQLite takes about 15 ms a report and breaks under several writers, the ledger neither. All it
holds stands in the ledger, so that a file which cannot be used is put aside and made anew.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState as OptunaState
from sqlalchemy.exc import DatabaseError, OperationalError

from search.ledger import Event
from search.pruning import OPTUNA_STATE, distribution, parameter
from search.study_folder import StudyFolder
from search.study_sections import Pruning
from search.study_state import StudyState, TrialProgress
from trainers.trial import TrialState

LOG = logging.getLogger(__name__)

Ending = tuple[str, str]
"""A trial and the Unix time in milliseconds when it ended: one that was brought back ends again."""


class OptunaMirror:
    """Adds each finished trial once to the Optuna study of its comparison group.

    Args:
        folder: of the study.
        pruning: for the comparison groups' names.
        told: the events that were told before.
    """

    def __init__(self, folder: StudyFolder, pruning: Pruning, told: Sequence[Event]):
        folder.path.mkdir(parents=True, exist_ok=True)
        path = folder.optuna.resolve()
        there = _opened(path)
        self._storage = there or _made(path)
        self._state = StudyState.of(told)
        self._folder = folder
        self._pruning = pruning
        self._studies: dict[str, optuna.Study] = {}
        self._mirrored: dict[str, set[Ending]] = {}
        self._ended: dict[str, dict[str, TrialProgress]] = defaultdict(dict)
        for progress in self._state.trials.values():
            if progress.done:
                self._ended[group_of(progress, pruning)][progress.trial] = progress
        if there is None:
            for group in self._ended:
                self._bring_up_to_date(group)

    def receive(self, events: list[Event]) -> None:
        """Add the trials that ended among these events."""
        for event in events:
            self._state.apply(event)
            if event["kind"] == "ended":
                self._add(self._state.trials[event["trial"]])

    def _add(self, progress: TrialProgress) -> None:
        group = group_of(progress, self._pruning)
        self._ended[group][progress.trial] = progress
        try:
            self._bring_up_to_date(group)
        except ValueError:
            # Optuna holds a parameter to the scale or the words that it was first given. A study whose axis got a zero
            # or a new word is made anew; what a crash leaves out is added when the study is opened again.
            optuna.delete_study(study_name=self._name(group), storage=self._storage)
            del self._studies[group]
            self._bring_up_to_date(group)

    def _bring_up_to_date(self, group: str) -> None:
        study = self._study(group)
        for progress in self._ended[group].values():
            if progress.done and _ending(progress) not in self._mirrored[group]:
                study.add_trial(self._frozen(progress))
                self._mirrored[group].add(_ending(progress))

    def _frozen(self, progress: TrialProgress) -> optuna.trial.FrozenTrial:
        state = OPTUNA_STATE[progress.state or TrialState.FAILED]
        trial, ended_ms = _ending(progress)
        best = progress.result.best_value if progress.result else None
        if best is None and state is OptunaState.COMPLETE:
            state = OptunaState.FAIL  # as Optuna has it of an objective that is no number
        frozen = optuna.trial.create_trial(
            state=state,
            value=best if state is OptunaState.COMPLETE else None,
            params={key: parameter(value) for key, value in progress.searched.items()},
            distributions={key: self._distribution(key) for key in progress.searched},
            intermediate_values=progress.curve,
            user_attrs={"trial": trial, "ended_ms": ended_ms, "seed": progress.seed, "reason": progress.reason},
        )
        frozen.datetime_start = _time(progress.starts[0] if progress.starts else int(ended_ms))
        frozen.datetime_complete = _time(int(ended_ms))
        return frozen

    def _study(self, group: str) -> optuna.Study:
        if group not in self._studies:
            study = optuna.create_study(
                storage=self._storage,
                study_name=self._name(group),
                direction=self._state.declaration.direction,
                load_if_exists=True,
            )
            self._studies[group] = study
            self._mirrored[group] = {
                (trial.user_attrs["trial"], trial.user_attrs["ended_ms"]) for trial in study.get_trials(deepcopy=False)
            }
        return self._studies[group]

    def _name(self, group: str) -> str:
        return f"{self._folder.study}: {group}"

    def _distribution(self, key: str) -> BaseDistribution:
        values = [parameter(other.searched[key]) for other in self._state.trials.values() if key in other.searched]
        return distribution(list(dict.fromkeys(values)))


def _ending(progress: TrialProgress) -> Ending:
    return progress.trial, str(progress.ended_ms)


def _opened(path: Path) -> optuna.storages.RDBStorage | None:
    """Open the file; None: there is none, or it is damaged or of another version of Optuna and was put aside.

    What holds it up for a while only is raised.
    """
    if not path.exists():
        return None
    try:
        return optuna.storages.RDBStorage(f"sqlite:///{path}")
    except OperationalError:  # locked, or not to be read by this user
        raise
    except (DatabaseError, RuntimeError) as problem:
        aside = path.with_name(f"{path.name}.unusable")
        path.replace(aside)
        LOG.warning("%s cannot be used (%s); it is %s now, and made anew", path, str(problem).splitlines()[0], aside)
        return None


def _made(path: Path) -> optuna.storages.RDBStorage:
    """Make a new file; it is made aside, since a kill between its tables and its indices would be for good.

    Without the index of unique names, Optuna would make a study again instead of loading it.
    """
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
    """Return a time as Optuna keeps it: that of the machine's clock, without its zone."""
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC).astimezone().replace(tzinfo=None)
