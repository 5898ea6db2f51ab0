"""Optuna prunes among comparable trials only: one Optuna study per comparison group, held in memory.

The ledger is the truth; these studies are rebuilt from it, and finished trials are copied to the study
folder's SQLite file for optuna-dashboard (`optuna_mirror.py`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from search import pruners
from search.standings import Past
from search.study_sections import Pruning
from search.wording import counted
from trainers.trial import TrialState

Direction = Literal["maximize", "minimize"]

OPTUNA_STATE = {
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.PRUNED: OptunaState.PRUNED,
    TrialState.FAILED: OptunaState.FAIL,
}

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True, slots=True)
class Decision:
    """What the pruner says of a trial at an epoch.

    Attributes:
        stops: whether it would stop the trial.
        reason: in one line.
        memory: what it wrote down about the trial and will look up when others come as far; a race that is built again
            must be told it.
    """

    stops: bool
    reason: str
    memory: Mapping[str, Any] = field(default_factory=dict)


class ComparisonGroup:
    """The trials that are compared with each other, as one Optuna study."""

    def __init__(self, pruner: optuna.pruners.BasePruner, direction: Direction, space: Mapping[str, Sequence[Any]]):
        self._pruner = pruner
        # Optuna's Hyperband draws a trial's bracket from the study's name, and without one makes up another each time.
        self._storage = optuna.storages.InMemoryStorage()
        self._study = optuna.create_study(study_name="group", direction=direction, pruner=pruner, storage=self._storage)
        self._space = {name: distribution(values) for name, values in space.items()}
        self._trials: dict[str, optuna.trial.Trial] = {}
        self.rungs = pruners.rungs(pruner)
        self.prunes = not isinstance(pruner, optuna.pruners.NopPruner)

    def add(self, trial: str, searched: Mapping[str, Any], *, point: str | None = None) -> None:
        """Enter a trial with its hyperparameters.

        Args:
            trial: which.
            searched: its hyperparameters.
            point: what it shares with the trials that differ from it in their seed alone; None: with none.
        """
        self._study.enqueue_trial({name: parameter(value) for name, value in searched.items()})
        self._trials[trial] = self._study.ask(self._space)
        if point is not None:
            self._trials[trial].set_user_attr(pruners.POINT, point)

    def remember(self, trial: str, memory: Mapping[str, Any]) -> None:
        """Tell the pruner what it wrote down about a trial before the race was built again (`Decision.memory`)."""
        for key, value in memory.items():
            self._storage.set_trial_system_attr(self._trials[trial]._trial_id, key, value)

    def learn_from(self, past: Sequence[Past]) -> None:
        """Give the pruner what other groups teach, if it can learn."""
        learn = getattr(self._pruner, "learn_from", None)
        if learn is not None and past:
            learn(past)

    def key_of(self, searched: Mapping[str, Any]) -> str:
        """Name hyperparameters as the pruner does, the same in every group."""
        values = {
            name: space.to_external_repr(space.to_internal_repr(parameter(searched[name])))
            for name, space in self._space.items()
        }
        return pruners.key_of(values)

    def report(self, trial: str, epoch: int, value: float) -> None:
        """Tell the primary metric after an epoch."""
        self._trials[trial].report(value, epoch)

    def decide(self, trial: str) -> Decision:
        """Ask the pruner about a trial at its last reported epoch."""
        frozen = self._study.get_trials(deepcopy=False)[self._trials[trial].number]
        if frozen.last_step is None:
            return Decision(False, "nothing reported yet")
        explain = getattr(self._pruner, "explain", None)
        if explain is not None:
            stops, reason = explain(self._study, frozen)
            return Decision(bool(stops), str(reason))
        before = dict(frozen.system_attrs)
        stops = self._pruner.prune(self._study, frozen)
        after = self._storage.get_trial(self._trials[trial]._trial_id).system_attrs
        memory = {key: value for key, value in after.items() if before.get(key) != value}
        return Decision(stops, self._reason(frozen, frozen.last_step, stops=stops), memory)

    def _reason(self, trial: FrozenTrial, epoch: int, *, stops: bool) -> str:
        """Say what one of Optuna's pruners had before it; none of them says why."""
        group = self._study.get_trials(deepcopy=False)
        there = (other for other in group if epoch in other.intermediate_values and other.number != trial.number)
        known = [other.intermediate_values[epoch] for other in there]
        others = "no other trial of its group has been there"
        if known:
            span = f"from {min(known):.4f} to {max(known):.4f}, median {median(known):.4f}"
            others = f"{counted(len(known), 'other')} there {span}"
        verdict = "stops" if stops else "keeps"
        value = trial.intermediate_values[epoch]
        return f"{type(self._pruner).__name__} {verdict} it at epoch {epoch} with {value:.4f}; {others}"

    def leave(self, trial: str) -> None:
        """Take a trial out of the race that trains on outside of it: to the others it has stopped."""
        self.tell(trial, TrialState.PRUNED, None)

    def tell(self, trial: str, state: TrialState, value: float | None) -> None:
        """Close a trial with the state it truly ended in."""
        asked = self._trials.pop(trial)
        if state is TrialState.COMPLETE and value is not None:
            self._study.tell(asked, value)
        elif state is TrialState.PRUNED:
            self._study.tell(asked, state=OptunaState.PRUNED)
        else:
            self._study.tell(asked, state=OptunaState.FAIL)


def create_group(
    pruning: Pruning, *, epochs: int, trials: int, direction: Direction, space: Mapping[str, Sequence[Any]]
) -> ComparisonGroup:
    """Build the Optuna study of a group of so many trials with the pruner a study names."""
    pruner = pruners.create(pruning.pruner, pruning.settings, epochs=epochs, known={"trials": trials})
    return ComparisonGroup(pruner, direction, space)


def distribution(values: Sequence[Any]) -> BaseDistribution:
    """Describe searched values to Optuna: floats on a (log) scale, everything else as choices."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        low, high = float(min(values)), float(max(values))
        return FloatDistribution(low, high, log=low > 0)
    return CategoricalDistribution([parameter(value) for value in values])


def parameter(value: Any) -> Any:
    """Write a searched value as Optuna stores it: numbers, strings and booleans as they are, the rest as text."""
    return value if isinstance(value, bool | int | float | str) else str(value)


def spared(pruning: Pruning, trial: str) -> bool:
    """Draw whether a trial that would be pruned runs on, as a live estimate of regret.

    The draw is a hash of the study's seed and the trial, so that it falls the same after a crash.

    Args:
        pruning: section of the study file.
        trial: which; where there are several seeds the first of them, since a point is judged by all.
    """
    draw = hashlib.blake2b(f"{pruning.spare_seed}:{trial}".encode(), digest_size=8).digest()
    return int.from_bytes(draw) < pruning.spare_share * 2**64
