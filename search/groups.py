"""Comparison groups while a search runs: which trials race each other, at which epochs, and what that decides."""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from search.pruning import ComparisonGroup, create_group
from search.standings import Past, ended
from search.study_sections import Pruning
from search.study_state import StudyState, TrialProgress
from trainers.trial import TrialState


@dataclass(frozen=True, slots=True)
class Entry:
    """A trial as the schedule sees it."""

    trial: str
    cell: str
    group: str
    searched: dict[str, Any]
    epochs: int
    cost: float = 1.0
    """Relative cost of an epoch; the most expensive cells start first."""
    cpus: float = 1.0
    gpus: float = 0.0
    """What it occupies while it runs."""
    slot: Hashable = None
    """What else tells its place on a cluster from others': one that finds no room now does not hold those up."""
    teachers: tuple[str, ...] = ()
    """Groups whose curves its own group learns from; it is not judged before they are over."""
    store: str | None = None
    """The features that it reads (`feature_stores.store_of`); None: images."""


@dataclass(slots=True)
class Group:
    """One comparison group.

    Attributes:
        race: the pruner's view of it.
        entries: its trials.
        taught: whether what the teachers know has been taken over.
    """

    race: ComparisonGroup
    entries: list[Entry] = field(default_factory=list)
    taught: bool = False

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the groups it learns from."""
        return self.entries[0].teachers


@dataclass(frozen=True, slots=True)
class RungDue:
    """A rung that every live trial of a group has reached."""

    rung: int
    waiting: list[Entry]


class Groups:
    """All comparison groups of a search, rebuilt from the ledger's state.

    Args:
        entries: every trial.
        state: what has happened.
        pruning: the study's pruning section.
    """

    def __init__(self, entries: Sequence[Entry], state: StudyState, pruning: Pruning):
        self._state = state
        self._pruning = pruning
        self._entries = {entry.trial: entry for entry in entries}
        members: dict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            members[entry.group].append(entry)
        self._groups = {name: self._build(found) for name, found in members.items()}
        self._pupils: dict[str, list[str]] = defaultdict(list)
        for name, group in self._groups.items():
            for teacher in group.teachers:
                self._pupils[teacher].append(name)

    def of(self, trial: str) -> Group:
        """Return a trial's group."""
        return self._groups[self._entries[trial].group]

    def pupils_of(self, name: str) -> list[str]:
        """Name the groups that wait for this one, if it is over; else none."""
        return self._pupils.get(name, []) if self._over(name) else []

    def next_rung(self, entry: Entry) -> int | None:
        """Return the first rung that is not decided for a trial; a spared one meets the others no more."""
        if self._progress(entry.trial).spared_at is not None:
            return None
        decided = {event["epoch"] for event in self._state.trials[entry.trial].decisions}
        rungs = (rung for rung in self.of(entry.trial).race.rungs if rung < entry.epochs)
        return next((rung for rung in rungs if rung not in decided), None)

    def next_look(self, entry: Entry) -> int:
        """Return up to which epoch a trial trains before its group may stop it; its last one where nobody will."""
        if (rung := self.next_rung(entry)) is not None:
            return rung
        race, progress = self.of(entry.trial).race, self._progress(entry.trial)
        any_epoch = race.prunes and not race.rungs and progress.spared_at is None
        return len(progress.epochs) + 1 if any_epoch else entry.epochs

    def is_at(self, rung: int, entry: Entry) -> bool:
        """Say whether a trial waits at a rung; one whose attempt was cut off there has yet to say that it goes on."""
        progress = self._progress(entry.trial)
        return len(progress.epochs) >= rung and not progress.open

    def due(self, name: str, running: set[str]) -> RungDue | None:
        """Return the group's next rung if nobody who takes part is still on the way to it, teachers included."""
        group = self._groups[name]
        live = [(entry, self.next_rung(entry)) for entry in group.entries if not self._progress(entry.trial).done]
        rung = min((rung for _, rung in live if rung is not None), default=None)
        if rung is None:
            return None
        waiting = [entry for entry, next_rung in live if next_rung == rung]
        if any(not self.is_at(rung, entry) or entry.trial in running for entry in waiting):
            return None
        return RungDue(rung, waiting) if self._learned(group) else None

    def report(self, trial: str, epoch: int, value: float) -> None:
        """Tell a trial's race the primary metric after an epoch."""
        if self._progress(trial).spared_at is None:
            self.of(trial).race.report(trial, epoch, value)

    def leave(self, trial: str) -> None:
        """Take a spared trial out of its race: it is to show what happens without it, so it must not decide there."""
        self.of(trial).race.leave(trial)

    def rejoin(self, trial: str) -> None:
        """Take a trial back into its race, which is built again: there it never stopped."""
        before, name = self.of(trial), self._entries[trial].group
        self._groups[name] = self._build(before.entries)
        if before.taught:
            self._learned(self._groups[name])

    def tell(self, trial: str, state: TrialState, best: float | None) -> None:
        """Close a trial in its race."""
        if self._progress(trial).spared_at is None:
            self.of(trial).race.tell(trial, state, best)

    def _learned(self, group: Group) -> bool:
        """Take over what the teachers know; say whether they are over."""
        if not group.taught:
            if not all(self._over(teacher) for teacher in group.teachers):
                return False
            group.race.learn_from([self._past(self._groups[teacher]) for teacher in group.teachers])
            group.taught = True
        return True

    def _past(self, group: Group) -> Past:
        sign = self._state.declaration.sign
        curves = []
        for entry in group.entries:
            progress = self._progress(entry.trial)
            if progress.curve and progress.state is not TrialState.FAILED:
                values = {epoch / entry.epochs: sign * value for epoch, value in progress.curve.items()}
                over = ended(values) if progress.state is TrialState.COMPLETE else values
                curves.append((group.race.key_of(entry.searched), over))
        return Past(curves, by_best=True)

    def _over(self, name: str) -> bool:
        return all(self._progress(entry.trial).done for entry in self._groups[name].entries)

    def _progress(self, trial: str) -> TrialProgress:
        return self._state.trials[trial]

    def _build(self, entries: list[Entry]) -> Group:
        space: dict[str, list[Any]] = defaultdict(list)
        for entry in entries:
            for key, value in entry.searched.items():
                space[key].append(value)
        race = create_group(
            self._pruning,
            epochs=max(entry.epochs for entry in entries),
            trials=len({(entry.cell, _point(entry.searched)) for entry in entries}),
            direction=self._state.declaration.direction,
            space=space,
        )
        for entry in entries:
            self._replay(race, entry)
        return Group(race, entries)

    def _replay(self, race: ComparisonGroup, entry: Entry) -> None:
        progress = self._progress(entry.trial)
        race.add(entry.trial, entry.searched, point=f"{entry.cell} {_point(entry.searched)}")
        for decision in progress.decisions:
            race.remember(entry.trial, decision.get("memory", {}))
        for epoch, value in progress.curve.items():
            if progress.spared_at is None or epoch <= progress.spared_at:
                race.report(entry.trial, epoch, value)
        if progress.spared_at is not None:
            race.leave(entry.trial)
        elif progress.state is not None:
            best = progress.result.best_value if progress.result else None
            race.tell(entry.trial, progress.state, best)


def in_order(entries: Sequence[Entry]) -> list[Entry]:
    """Sort trials into the order in which they start.

    Most expensive cells first, since a long trial that starts last is waited for; inside a cell from the middle of
    the searched values outwards, since the best one lies there most often and the others are measured against it.
    """
    costs: dict[str, float] = defaultdict(float)
    points: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        costs[entry.cell] += entry.cost * entry.epochs
        if (point := _point(entry.searched)) not in points[entry.cell]:
            points[entry.cell].append(point)

    def place(entry: Entry) -> tuple[float, float]:
        cell = points[entry.cell]
        return -costs[entry.cell], abs(cell.index(_point(entry.searched)) - (len(cell) - 1) / 2)

    return sorted(entries, key=place)


def _point(searched: Mapping[str, Any]) -> str:
    return repr(sorted(searched.items()))
