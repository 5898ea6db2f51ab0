"""Hard budgets of a study: GPU-hours and wall-clock.

While a budget is far away nothing is dropped. When what is left of the search is expected to cost more than what is
left of the budget, the trials that would tell least go first: those that have not begun, of cells that have most
others, and then those with the lowest value so far. The last live trial of a cell is never dropped; when
a budget is used up the search stops, and a later run with a larger one goes on.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence

from search.groups import Entry
from search.study_sections import Budget
from search.study_state import OVER_BUDGET, StudyState
from trainers.trial import TrialState

GPU_HOURS = "GPU-hours"
WALL_CLOCK = "wall-clock"


class Spending:
    """What a study has used of its budget, and what the rest may cost.

    Args:
        budget: of the study.
        entries: its trials.
        state: what has happened.
        now: Unix time in milliseconds.
    """

    def __init__(self, budget: Budget, entries: Sequence[Entry], state: StudyState, now: Callable[[], int]):
        self._budget = budget
        self._entries = {entry.trial: entry for entry in entries}
        self._state = state
        self._now = now
        self._judged = -1
        """Number of trials that had ended when dropping was last considered."""

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

    def to_drop(self, waiting: Iterable[str], others_live: Callable[[str, set[str]], bool]) -> dict[str, str]:
        """Choose the trials that the budget has no room for.

        Args:
            waiting: trials that are neither done nor running.
            others_live: whether a trial's cell has others alive, given which are condemned.

        Returns:
            The reason for each.
        """
        accounts = self.accounts()
        done = sum(self._state.trials[trial].done for trial in self._entries) if accounts else 0
        if not accounts or done == self._judged:
            return {}
        self._judged = done
        rest = self._expected_seconds()
        dropped: dict[str, str] = {}
        waiting = [trial for trial in waiting if trial in rest]
        for name, used, limit in accounts:
            unit = self._unit_of(name)
            needed = sum(cost * unit(self._entries[t]) for t, cost in rest.items() if t not in dropped)
            for trial in self._least_informative_first(waiting, dropped):
                if used + needed <= limit:
                    break
                if others_live(trial, set(dropped)):
                    dropped[trial] = (
                        f"{OVER_BUDGET}the rest of the search would take {needed / 3600:.3g} h of {name}, "
                        f"{max(0.0, limit - used) / 3600:.3g} h are left; this trial would tell least"
                    )
                    needed -= rest[trial] * unit(self._entries[trial])
        return dropped

    def _unit_of(self, name: str) -> Callable[[Entry], float]:
        """Return what a second of a trial counts: its GPUs, or its share of a second of the clock."""
        if name == GPU_HOURS:
            return lambda entry: entry.gpus
        busy = sum(self._state.trials[trial].use.so_far[0] for trial in self._entries)
        wall = self._state.wall.seconds + _running(self._state.wall.since_ms, self._now())
        at_once = max(1.0, busy / wall if wall else 1.0)
        return lambda entry: 1.0 / at_once

    def _expected_seconds(self) -> dict[str, float]:
        """Return what each trial that is not done is expected to take still; empty while nothing is known.

        Pruning goes on as it went so far: what ended trials trained, as a share of what they could have.
        """
        rate, share = self._rates()
        if rate is None:
            return {}
        return {
            trial: rate * share * entry.cost * max(0, entry.epochs - len(self._state.trials[trial].epochs))
            for trial, entry in self._entries.items()
            if not self._state.trials[trial].done
        }

    def _rates(self) -> tuple[float | None, float]:
        """Return seconds per unit of cost, and the share of its epochs that pruning leaves a trial.

        What was dropped for the budget, or failed, says nothing about pruning.
        """
        trained = full = units = seconds = 0.0
        for trial, entry in self._entries.items():
            progress = self._state.trials[trial]
            units += entry.cost * len(progress.epochs)
            seconds += progress.use.so_far[0]
            if progress.state in (TrialState.COMPLETE, TrialState.PRUNED) and not progress.dropped:
                trained += entry.cost * len(progress.epochs)
                full += entry.cost * entry.epochs
        return (seconds / units if units and seconds else None), (trained / full if trained else 1.0)

    def _least_informative_first(self, trials: Sequence[str], dropped: Container[str]) -> Iterator[str]:
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
            return itself, self._point(trial) in begun, -others, self._standing(trial), -order[trial]

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

    def _standing(self, trial: str) -> float:
        if not self._state.datasets:
            return 0.0
        sign = self._state.declaration.sign
        value = self._state.trials[trial].judged(sign)
        return 0.0 if value is None else sign * value


def _running(since_ms: int | None, now: int) -> float:
    return max(0, now - since_ms) / 1000 if since_ms is not None else 0.0
