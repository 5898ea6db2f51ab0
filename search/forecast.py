"""What the rest of a search is expected to take, from what has trained so far."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

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
        before it is next looked at.
        """
        live = [trial for trial in self._entries if not self._state.trials[trial].done]
        seconds_of, share, finishers = self._seconds_of_epoch(), self._share(), self._finishers(live)
        if seconds_of is None:
            return {}
        expected = {}
        for trial in live:
            entry, done = self._entries[trial], len(self._state.trials[trial].epochs)
            left = max(0, entry.epochs - done)
            sure = left if trial in finishers else max(0, self._next_look(entry) - done)
            expected[trial] = seconds_of(entry) * max(sure, share * left)
        return expected

    def _seconds_of_epoch(self) -> Callable[[Entry], float] | None:
        """Return what an epoch of a trial takes: as in its cell so far, else by its cost; None while nothing is known.

        An epoch right after a start takes longer and counts only where there are no others, once a trial has ended;
        one that was dropped was stopped amid an epoch.
        """
        known = [(entry, self._state.trials[trial]) for trial, entry in self._entries.items()]
        timed = [(entry, progress.use.timed, progress.use.timed_seconds) for entry, progress in known]
        if not any(epochs for _, epochs, _ in timed):
            timed = [(entry, len(p.epochs), p.use.so_far[0]) for entry, p in known if p.done and not p.dropped]
        units = sum(entry.cost * epochs for entry, epochs, _ in timed)
        if not units:
            return None
        per_unit = sum(seconds for _, _, seconds in timed) / units
        of_cell: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for entry, epochs, seconds in timed:
            of_cell[entry.cell][0] += entry.cost * epochs
            of_cell[entry.cell][1] += seconds

        def seconds_of(entry: Entry) -> float:
            own_units, own_seconds = of_cell[entry.cell]
            return entry.cost * (own_seconds / own_units if own_units else per_unit)

        return seconds_of

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


def standing(state: StudyState, trial: str) -> float:
    """Return what a trial is judged by so far, larger is better; -infinity while there is nothing."""
    if not state.datasets:
        return -math.inf
    sign = state.declaration.sign
    value = state.trials[trial].judged(sign)
    return -math.inf if value is None else sign * value
