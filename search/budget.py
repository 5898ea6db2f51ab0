"""Hard budgets of a study: GPU-hours and wall-clock.

While a budget is far away nothing is dropped. When what is left of the search is expected to cost more than what is
left of the budget, the trials that would tell least go first: those that have not begun, of cells that have most
others, and then those with the lowest value so far. The last live trial of a cell is never dropped, and room is kept
for it to finish, since no pruner stops it either; when a budget is used up the search stops, and a later run with a
larger one goes on.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence

from search.forecast import Forecast, standing
from search.groups import Entry
from search.study_sections import Budget
from search.study_state import OVER_BUDGET, StudyState
from trainers.trial import TrialState

GPU_HOURS = "GPU-hours"
WALL_CLOCK = "wall-clock"

LOOKED_AT_FROM = 0.1
"""Share of a budget before which nothing is foreseen, unless a trial has ended: first epochs are slow."""
ROOM = 1.05
"""What is foreseen takes so many times as long, or the last trials were stopped at the end of a budget for a little."""


class Spending:
    """What a study has used of its budget, and what the rest may cost.

    Args:
        budget: of the study.
        entries: its trials.
        state: what has happened.
        now: Unix time in milliseconds.
        next_look: up to which epoch a trial trains before it may be stopped; by default its last.
    """

    def __init__(
        self,
        budget: Budget,
        entries: Sequence[Entry],
        state: StudyState,
        now: Callable[[], int],
        *,
        next_look: Callable[[Entry], int] = lambda entry: entry.epochs,
    ):
        self._budget = budget
        self._entries = {entry.trial: entry for entry in entries}
        self._state = state
        self._now = now
        self._forecast = Forecast(self._entries, state, next_look)
        self._judged = -1
        """Number of epochs and ends that had been told when dropping was last considered."""

    def accounts(self) -> list[tuple[str, float, float]]:
        """Return (name, used, limit) in seconds of each budget that is set."""
        accounts = []
        now = self._now() if self._budget.gpu_hours or self._budget.wall_clock_hours else 0
        if self._budget.gpu_hours is not None:
            uses = [trial.use for trial in self._state.trials.values()]  # those of values that were taken out, too
            used = sum(use.gpu_seconds + use.gpus * _running(use.since_ms, now) for use in uses)
            accounts.append((GPU_HOURS, used, self._budget.gpu_hours * 3600))
        if self._budget.wall_clock_hours is not None:
            wall = self._state.wall
            used = wall.seconds + _running(wall.since_ms, now)
            accounts.append((WALL_CLOCK, used, self._budget.wall_clock_hours * 3600))
        return accounts

    def exhausted(self) -> str | None:
        """Say which budget is used up, or None."""
        for name, used, limit in self.accounts():
            if used >= limit:
                return f"{name}: {used / 3600:.3g} of {limit / 3600:.3g} h are used"
        return None

    def to_drop(self, others_live: Callable[[str, set[str]], bool]) -> dict[str, str]:
        """Choose the trials that the budget has no room for.

        Args:
            others_live: whether a trial's cell has others alive, given which are condemned.

        Returns:
            The reason for each.
        """
        accounts = self.accounts()
        if not accounts or not self._anything_new():
            return {}
        rest = self._forecast.seconds()
        dropped: dict[str, str] = {}
        for name, used, limit in accounts:
            if used < LOOKED_AT_FROM * limit and not any(self._state.trials[trial].done for trial in self._entries):
                continue
            unit = self._unit_of(name)
            needed = ROOM * sum(cost * unit(self._entries[t]) for t, cost in rest.items() if t not in dropped)
            for trial in self._least_informative_first(rest, dropped):
                if used + needed <= limit:
                    break
                if rest[trial] and others_live(trial, set(dropped)):
                    dropped[trial] = (
                        f"{OVER_BUDGET}the rest of the search would take {needed / 3600:.3g} h of {name}, "
                        f"{max(0.0, limit - used) / 3600:.3g} h are left; this trial would tell least"
                    )
                    needed -= ROOM * rest[trial] * unit(self._entries[trial])
        return dropped

    def _anything_new(self) -> bool:
        """Say whether more was told than when it was last asked; of many trials, more than a few epochs."""
        trials = [self._state.trials[trial] for trial in self._entries]
        told = sum(len(trial.epochs) + trial.done for trial in trials)
        if self._judged >= 0 and told - self._judged < max(1, len(trials) // 100):
            return False
        self._judged = told
        return True

    def _unit_of(self, name: str) -> Callable[[Entry], float]:
        """Return what a second of a trial counts: its GPUs, or its share of a second of the clock."""
        if name == GPU_HOURS:
            return lambda entry: entry.gpus
        busy = sum(self._state.trials[trial].use.so_far[0] for trial in self._entries)
        wall = self._state.wall.seconds + _running(self._state.wall.since_ms, self._now())
        at_once = max(1.0, busy / wall if wall else 1.0)
        return lambda entry: 1.0 / at_once

    def _least_informative_first(self, trials: Iterable[str], dropped: Container[str]) -> Iterator[str]:
        """Yield trials until the caller has dropped enough; each one that it drops changes what others tell.

        Whole points go before single seeds of points that were begun, and of cells with as many left the cheap ones do
        not all go before the dear ones: a comparison is as good as its poorer side.
        """
        live = [t for t in self._entries if self._state.trials[t].state in (None, TrialState.COMPLETE)]
        alive = Counter(self._entries[trial].cell for trial in live if trial not in dropped)
        begun = {self._point(trial) for trial in live if self._state.trials[trial].epochs}
        order = {trial: place for place, trial in enumerate(self._entries)}

        def told(trial: str) -> tuple[bool, bool, int, float, int]:
            itself = bool(self._state.trials[trial].epochs)
            others = alive[self._entries[trial].cell]
            return itself, self._point(trial) in begun, -others, standing(self._state, trial), -order[trial]

        queue = [(told(trial), trial) for trial in trials if trial not in dropped]
        heapq.heapify(queue)
        while queue:
            before, trial = heapq.heappop(queue)
            if (now := told(trial)) != before:
                heapq.heappush(queue, (now, trial))
                continue
            yield trial
            if trial in dropped:
                alive[self._entries[trial].cell] -= 1

    def _point(self, trial: str) -> tuple[str, str]:
        """Return what the seeds of a trial share."""
        return self._entries[trial].cell, self._state.trials[trial].point


def _running(since_ms: int | None, now: int) -> float:
    return max(0, now - since_ms) / 1000 if since_ms is not None else 0.0
