"""What the rest of a search is expected to take, from what has trained so far."""

import math
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence

from search.groups import Entry
from search.study_state import StudyState
from trainers.trial import TrialState

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


class Forecast:
    """Seconds that the trials of a search still need.

    Args:
        entries: every trial, by its name.
        state: what has happened; kept up to date by others.
        next_look: up to which epoch a trial trains before it may be stopped.
    """

    def __init__(self, entries: Mapping[str, Entry], state: StudyState, next_look: Callable[[Entry], int]):
        self._entries = entries
        self._state = state
        self._next_look = next_look

    def seconds(self) -> dict[str, float]:
        """Return what each trial that is not done is expected to take still; empty while nothing is known.

        One trial of each cell trains to its end. Pruning goes on among the others as it went so far, but nobody stops
        before it is next looked at. One of those that share the features of an encoder has these computed.
        """
        live = [trial for trial in self._entries if not self._state.trials[trial].done]
        rates, share, finishers = self._rates(), self._share(), self._finishers(live)
        if rates is None:
            return {}
        to_compute = self._stores_to_compute(live, finishers)
        expected = {}
        for trial in live:
            entry, done = self._entries[trial], len(self._state.trials[trial].epochs)
            left = max(0, entry.epochs - done)
            sure = left if trial in finishers else max(0, self._next_look(entry) - done)
            expected[trial] = rates.of_epoch(entry) * max(sure, share * left)
            expected[trial] += rates.of_store(entry) if trial in to_compute else 0.0
        return expected

    def at_most(self, to_come: Iterable[Entry] = ()) -> dict[str, float] | None:
        """Return what each trial that is not done takes still if nobody stops it; None while nothing is known.

        Args:
            to_come: trials that do not exist yet.
        """
        live = [trial for trial in self._entries if not self._state.trials[trial].done]
        rates = self._rates(starts=True)
        if rates is None:
            return None
        left = {t: max(0, self._entries[t].epochs - len(self._state.trials[t].epochs)) for t in live}
        rest = {trial: rates.of_epoch(self._entries[trial]) * epochs for trial, epochs in left.items()}
        for trial in self._stores_to_compute(live, ()):
            rest[trial] += rates.of_store(self._entries[trial])
        return rest | {entry.trial: rates.of_epoch(entry) * entry.epochs for entry in to_come}

    def _rates(self, *, starts: bool = False) -> "_Rates | None":
        """Return what epochs and features took so far; None while nothing is known.

        An epoch right after a start takes longer and counts only where there are no others, once a trial has ended;
        one that was dropped was stopped amid an epoch.

        Args:
            starts: count them also while none has ended.
        """
        known = [(entry, self._state.trials[trial]) for trial, entry in self._entries.items()]
        timed = [(entry, progress.use.timed, progress.use.timed_seconds) for entry, progress in known]
        if not any(epochs for _, epochs, _ in timed):
            told = [(entry, p) for entry, p in known if (p.done or starts) and not p.dropped and entry.store is None]
            timed = [(entry, len(p.epochs), p.use.so_far[0]) for entry, p in told]
        first = [(entry, p.use.so_far[0] - p.use.timed_seconds) for entry, p in known if entry.store and p.epochs]
        return _Rates(timed, first) if first or any(epochs for _, epochs, _ in timed) else None

    def _stores_to_compute(self, live: Sequence[str], finishers: Container[str]) -> set[str]:
        """Return of each store of features that no trial has read yet one that will, if it may be one that finishes."""
        there = {entry.store for trial, entry in self._entries.items() if self._state.trials[trial].epochs}
        by_store = {self._entries[t].store: t for t in sorted(live, key=lambda trial: trial in finishers)}
        return {trial for store, trial in by_store.items() if store is not None and store not in there}

    def _share(self) -> float:
        """Return which share of its epochs pruning leaves a trial that is not the one of its cell to finish.

        It is asked of the groups that are over, since those that ended first elsewhere are those that ended early;
        while none is over, of whatever ended. What was dropped for the budget, or failed, says nothing about pruning.
        """
        over = {entry.group for entry in self._entries.values()}
        over -= {self._entries[trial].group for trial in self._entries if not self._state.trials[trial].done}
        trained = full = 0.0
        finished: set[str] = set()
        for trial, entry in self._entries.items():
            progress = self._state.trials[trial]
            if progress.state is TrialState.COMPLETE and entry.cell not in finished:
                finished.add(entry.cell)
            elif progress.state in ENDED and not progress.dropped and (not over or entry.group in over):
                trained += entry.cost * len(progress.epochs)
                full += entry.cost * entry.epochs
        return trained / full if full else 0.0

    def _finishers(self, live: Sequence[str]) -> set[str]:
        """Return of each cell that no trial has finished the one that would be the last to be dropped."""
        finished = {
            self._entries[trial].cell
            for trial in self._entries
            if self._state.trials[trial].state is TrialState.COMPLETE
        }
        last: dict[str, str] = {}
        for trial in live:
            cell = self._entries[trial].cell
            racing = cell not in finished and self._state.trials[trial].spared_at is None
            if racing and (cell not in last or self._worth(trial) > self._worth(last[cell])):
                last[cell] = trial
        return set(last.values())

    def _worth(self, trial: str) -> tuple[bool, float]:
        """Return how much a trial tells of its cell."""
        return bool(self._state.trials[trial].epochs), standing(self._state, trial)


class _Rates:
    """What epochs take, and the features that trials on them share.

    Epochs on images, and the pass of an encoder, are told by their cost; those on features, whose cost is their
    encoder's, are much alike.

    Args:
        timed: entries with epochs and the seconds that these took.
        first: entries on features with the seconds of their other epochs: whoever took longest computed the features.
    """

    def __init__(self, timed: Sequence[tuple[Entry, int, float]], first: Sequence[tuple[Entry, float]]):
        self._of_cell: dict[tuple[str, bool], list[float]] = defaultdict(lambda: [0.0, 0.0])
        of_all: dict[bool, list[float]] = {True: [0.0, 0.0], False: [0.0, 0.0]}
        for entry, epochs, seconds in timed:
            on_images = entry.store is None
            for total in (self._of_cell[entry.cell, on_images], of_all[on_images]):
                total[0] += _units(entry) * epochs
                total[1] += seconds
        computed: dict[str | None, tuple[float, float]] = {}
        for entry, seconds in first:
            computed[entry.store] = max(computed.get(entry.store, (0.0, 0.0)), (seconds, entry.cost * entry.epochs))
        stores = [sum(units for _, units in computed.values()), sum(seconds for seconds, _ in computed.values())]
        images, self._head = _rate(of_all[True]), _rate(of_all[False]) or 0.0
        self._store = _rate(stores) or images or 0.0
        self._image = images or self._store

    def of_epoch(self, entry: Entry) -> float:
        """Return the seconds of an epoch: as in its cell so far, else as in the others."""
        in_all = self._image if entry.store is None else self._head
        own = _rate(self._of_cell[entry.cell, entry.store is None])
        return _units(entry) * (in_all if own is None else own)

    def of_store(self, entry: Entry) -> float:
        """Return the seconds in which the features of a trial are computed."""
        return entry.cost * entry.epochs * self._store


def _units(entry: Entry) -> float:
    return entry.cost if entry.store is None else 1.0


def _rate(units_and_seconds: Sequence[float]) -> float | None:
    units, seconds = units_and_seconds
    return seconds / units if units else None


def standing(state: StudyState, trial: str) -> float:
    """Return what a trial is judged by so far, larger is better; -infinity while there is nothing."""
    if not state.datasets:
        return -math.inf
    sign = state.declaration.sign
    value = state.trials[trial].judged(sign)
    return -math.inf if value is None else sign * value
