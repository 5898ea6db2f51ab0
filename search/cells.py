"""Which trials of a search stand for the same cell, and who of them is left: a cell never loses its last live trial."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from statistics import fmean

from search import selection
from search.groups import Entry
from search.study_state import StudyState
from trainers.trial import TrialState


class Cells:
    """The cells of a search as its state has them at any moment.

    Args:
        entries: every trial, by its name.
        state: what has happened; kept up to date by others.
    """

    def __init__(self, entries: Mapping[str, Entry], state: StudyState):
        self._state = state
        self._cell_of = {trial: entry.cell for trial, entry in entries.items()}
        self._trials: dict[str, list[str]] = defaultdict(list)
        for trial, cell in self._cell_of.items():
            self._trials[cell].append(trial)
        self._first_seeds = self._first_of_each_point()

    def __iter__(self) -> Iterator[str]:
        """Return the cells' names."""
        return iter(self._trials)

    def of(self, cell: str) -> Sequence[str]:
        """Return the trials of a cell."""
        return self._trials[cell]

    def first_seed(self, trial: str) -> str:
        """Return of a trial's seeds the one that the ledger knows longest."""
        return self._first_seeds[trial]

    def others_live(self, trial: str, leaving: Collection[str]) -> bool:
        """Whether others of the cell are in the race or have finished it; spared ones only show what it costs."""
        names = [name for name in self._trials[self._cell_of[trial]] if name != trial and name not in leaving]
        others = [self._state.trials[name] for name in names]
        return any(other.state in (None, TrialState.COMPLETE) and other.spared_at is None for other in others)

    def last_among(self, stopping: Iterable[str]) -> set[str]:
        """Return those that must not stop, or nothing would be left of their cell: its best point, with all seeds."""
        by_cell: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for trial in stopping:
            by_cell[self._cell_of[trial]][self._state.trials[trial].point].append(trial)
        kept: set[str] = set()
        for points in by_cell.values():
            leaving = [trial for seeds in points.values() for trial in seeds]
            if not self.others_live(leaving[0], leaving):
                kept |= set(max(points.values(), key=self._mean_so_far))
        return kept

    def to_bring_back(self, cell: str) -> str | None:
        """Return the best pruned trial of a cell of which none is left that finished or will, or None."""
        return selection.to_bring_back(self._state, self._trials[cell])

    def _mean_so_far(self, seeds: Iterable[str]) -> float:
        """Return the mean of what trials are judged by so far, larger is better."""
        sign = self._state.declaration.sign
        values = [self._state.trials[trial].judged(sign) for trial in seeds]
        return fmean(-math.inf if value is None else sign * value for value in values)

    def _first_of_each_point(self) -> dict[str, str]:
        firsts: dict[tuple[str, str], str] = {}
        known = [trial for trial in self._state.trials if trial in self._cell_of]
        points = {trial: (self._cell_of[trial], self._state.trials[trial].point) for trial in known}
        return {trial: firsts.setdefault(point, trial) for trial, point in points.items()}
