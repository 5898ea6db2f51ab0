"""Which trial trains next, how far, and whether it goes on: the decision code, without Ray, clock or disk.

A backend (Ray, or a simulator in virtual time) asks `next()` for an assignment whenever it has a free slot and
tells what came of it. Everything that is decided or measured goes through `record`, which writes the ledger
before anything else hears of it; a schedule built from the same ledger stands where the killed one stood.
"""

import heapq
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from search import failures
from search.budget import Spending
from search.cells import Cells
from search.errors import StudyError
from search.feature_stores import FeatureStores
from search.groups import Entry, Groups, in_order
from search.ledger import Event
from search.pruning import Decision, spared
from search.study_sections import Budget, Pruning
from search.study_state import StudyState, TrialProgress
from trainers.trial import EpochMetrics, TrialResult, TrialState

__all__ = ["Assignment", "Entry", "Schedule"]


@dataclass(frozen=True, slots=True)
class Assignment:
    """Train this trial from where it stands to the end of `until_epoch`."""

    trial: str
    until_epoch: int
    told_epochs: int
    """Epochs whose metrics the ledger already holds; they need not be told again."""


class Schedule:
    """Order, rungs and pruning of a study's remaining trials.

    Args:
        entries: every trial of the study as it is asked for now, done or not.
        state: what has happened; kept up to date by `record`.
        pruning: the study's pruning section.
        record: writes events durably and applies them to `state`.
        budget: what the study may use; by default anything.
        now: Unix time in milliseconds; a simulator passes its own.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        *,
        state: StudyState,
        pruning: Pruning,
        record: Callable[..., None],
        budget: Budget | None = None,
        now: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ):
        self._state = state
        self._pruning = pruning
        self._write = record
        self._now = now
        self._running: set[str] = set()
        self._entries = {entry.trial: entry for entry in in_order(entries)}
        self._ranks = {trial: rank for rank, trial in enumerate(self._entries)}
        self._cells = Cells(self._entries, state)
        self._stores = FeatureStores({entry.trial: entry.store for entry in entries if entry.store is not None})
        everyone = list(self._entries.values())
        self._groups = Groups(everyone, state, pruning)
        self._spending = Spending(budget or Budget(), everyone, state, now, next_look=self._groups.next_look)
        self._undone = {trial for trial in self._entries if not self._progress(trial).done}
        self._candidates: dict[Hashable, list[tuple[int, str]]] = {entry.slot: [] for entry in entries}
        """By slot a heap of (rank, trial) that may be ready; each is looked at again when it comes up."""
        self._offer(self._undone)
        for cell in self._cells:  # a changed study may ask no more for those that the others were stopped for
            self._keep_the_cell_alive(cell, "no other trial of its cell is left to finish")

    @property
    def finished(self) -> bool:
        """Whether every trial has ended."""
        return not self._undone

    @property
    def out_of_budget(self) -> str | None:
        """What the budget says against going on, or None."""
        return None if self.finished else self._spending.exhausted()

    def heads(self) -> list[str]:
        """Return the trials that may start, the first of each kind of slot, in the order of all."""
        if self._spending.exhausted():
            return []
        self._keep_within_budget()
        before, found = None, self._first_of_each_slot()
        while found != before:  # looking at one may decide a rung, which another one waited for or is stopped at
            before, found = found, self._first_of_each_slot()
        return [trial for _, trial in found]

    def _first_of_each_slot(self) -> list[tuple[int, str]]:
        for candidates in self._candidates.values():
            first = None
            while candidates and candidates[0] != first:
                head = heapq.heappop(candidates)  # taken out first: deciding its rung may put others before it
                if self._ready(self._entries[head[1]]):
                    heapq.heappush(candidates, head)
                    first = head
        return sorted(candidates[0] for candidates in self._candidates.values() if candidates)

    def next(self) -> Assignment | None:
        """Return the next piece of work; None while everything that is left runs or waits for a rung."""
        heads = self.heads()
        return self.start(heads[0]) if heads else None

    def start(self, trial: str) -> Assignment:
        """Assign one of the `heads`."""
        heapq.heappop(self._candidates[self._entries[trial].slot])
        return self._assign(self._entries[trial])

    def epoch(self, trial: str, told: EpochMetrics) -> bool:
        """Take in an epoch's metrics, the same ones any number of times.

        Returns:
            Whether the trial goes on.
        """
        progress = self._progress(trial)
        if progress.done:
            return False
        self._offer(self._stores.trained(trial))
        if told.epoch in progress.epochs:
            return True
        race = self._groups.of(trial).race
        value = told.metrics.get(self._state.declaration.primary_metric)
        if value is not None:
            self._groups.report(trial, told.epoch, value)
        last = told.epoch >= self._entries[trial].epochs
        # Epoch and decision are one record: after a crash nobody would ask again what becomes of the trial here.
        events: list[Event] = [{"kind": "epoch", "trial": trial, **told.model_dump(mode="json")}]
        if not race.rungs and value is not None and not last and progress.spared_at is None:
            decision = race.decide(trial)
            last_live = decision.stops and not self._cells.others_live(trial, ())
            verdict = self._verdict(trial, told.epoch, decision, last=last_live)
            events += verdict if decision.memory or verdict[0]["action"] != "keep" else []
        self._record(*events)
        self._keep_within_budget()
        return not progress.done and (last or not self._spending.exhausted())

    def ended(self, trial: str, result: TrialResult) -> None:
        """Take in that an assignment came to its end."""
        self._offer(self._stores.trained(trial))
        self._leave(trial)
        if self._progress(trial).done:
            return
        if result.state is TrialState.COMPLETE:
            self._record(self._end(trial, TrialState.COMPLETE, "", result))
        else:
            self._record({"kind": "paused", "trial": trial, "time_ms": self._now()})
            self._offer([trial])
        self._settle(self._entries[trial].group)

    def failed(self, trial: str, kind: str, reason: str, log: Sequence[str] = ()) -> None:
        """Take in that a trial cannot go on.

        Args:
            trial: which.
            kind: a key of `failures.POLICIES`.
            reason: in one line.
            log: the last lines of its log.

        Raises:
            StudyError: nothing else can go on either; the trial does in the next run.
        """
        self._leave(trial)
        if self._progress(trial).done:
            return
        if failures.POLICIES[kind].stops_study:
            event = {"kind": "interrupted", "trial": trial, "time_ms": self._now(), "class": kind, "reason": reason}
            self._record(event)
            raise StudyError(f"trial {trial}: {failures.POLICIES[kind].meaning} ({reason})")
        cell = self._entries[trial].cell
        others = self._not_begun(cell, kind, trial) if failures.POLICIES[kind].stops_cell else []
        self._record({**self._end(trial, TrialState.FAILED, f"{kind}: {reason}", None), "log": list(log)}, *others)
        self._keep_the_cell_alive(cell, "every other trial of its cell failed")
        self._settle(self._entries[trial].group)

    def interrupted(self, trial: str, kind: str, reason: str, log: Sequence[str] = ()) -> None:
        """Take in that a trial's process went away; it goes on from its checkpoint as far as the policy allows.

        Args:
            trial: which.
            kind: a key of `failures.POLICIES`.
            reason: in one line.
            log: its last lines, as far as the process could tell them.
        """
        self._leave(trial)
        progress = self._progress(trial)
        if progress.done:
            return
        event = {"kind": "interrupted", "trial": trial, "time_ms": self._now(), "class": kind, "reason": reason}
        self._record(event)
        if failures.may_go_on(progress.interruptions):
            self._offer([trial])
        else:
            times = sum(event["class"] == kind for event in progress.interruptions)
            self.failed(trial, kind, f"{times} times, the last: {reason}", log)

    def released(self, trial: str) -> None:
        """Take in that a stopped trial has left its slot."""
        self._leave(trial)
        if not self._progress(trial).done:
            self._record({"kind": "paused", "trial": trial, "time_ms": self._now()})
            self._offer([trial])

    def _leave(self, trial: str) -> None:
        self._running.discard(trial)
        self._offer(self._stores.left(trial))

    def _assign(self, entry: Entry) -> Assignment:
        self._running.add(entry.trial)
        self._stores.started(entry.trial)
        occupied = {"cpus": entry.cpus, "gpus": entry.gpus}
        self._record({"kind": "started", "trial": entry.trial, "time_ms": self._now(), **occupied})
        until = self._groups.next_rung(entry) or entry.epochs
        return Assignment(entry.trial, until, len(self._progress(entry.trial).epochs))

    def _record(self, *events: Event) -> None:
        """Write events, and let groups and queue follow what they say."""
        self._write(*events)
        for event in events:
            if event["kind"] == "ended":
                self._undone.discard(event["trial"])
                best = (event["result"] or {}).get("best_value")
                self._groups.tell(event["trial"], TrialState(event["state"]), best)
            elif event["kind"] == "decision" and event["action"] == "spare":
                self._groups.leave(event["trial"])
            elif event["kind"] == "reopened":
                self._undone.add(event["trial"])
                self._groups.rejoin(event["trial"])
                self._offer([event["trial"]])

    def _offer(self, trials: Iterable[str]) -> None:
        for trial in trials:
            heapq.heappush(self._candidates[self._entries[trial].slot], (self._ranks[trial], trial))

    def _progress(self, trial: str) -> TrialProgress:
        return self._state.trials[trial]

    def _ready(self, entry: Entry) -> bool:
        if self._progress(entry.trial).done or entry.trial in self._running:
            return False
        rung = self._groups.next_rung(entry)
        if rung is not None and self._groups.is_at(rung, entry):
            self._settle(entry.group)
            if self._progress(entry.trial).done or self._groups.next_rung(entry) == rung:
                return False
        return not self._stores.must_wait(entry.trial)

    def _settle(self, group: str) -> None:
        """Decide a rung once every trial of the group that still lives has reached it."""
        while (due := self._groups.due(group, self._running)) is not None:
            # All decisions of a rung are one record: a crash leaves the rung decided or not, never half.
            race = self._groups.of(due.waiting[0].trial).race
            verdicts = {entry.trial: race.decide(entry.trial) for entry in due.waiting}
            last = self._cells.last_among(trial for trial, verdict in verdicts.items() if verdict.stops)
            events = [
                event
                for trial, verdict in verdicts.items()
                for event in self._verdict(trial, due.rung, verdict, last=trial in last)
            ]
            self._record(*events)
            self._offer(trial for trial in verdicts if not self._progress(trial).done)
        for pupil in self._groups.pupils_of(group):
            self._settle(pupil)

    def _verdict(self, trial: str, epoch: int, decision: Decision, *, last: bool) -> list[Event]:
        """Return what follows from a decision; of the last live trials of a cell none stops."""
        action, stops, reason = "keep", decision.stops, decision.reason
        if stops and last:
            reason = f"last live trial of its cell, goes on; {reason}"
        elif stops:
            action = "spare" if spared(self._pruning, self._cells.first_seed(trial)) else "prune"
        event = {"kind": "decision", "trial": trial, "epoch": epoch, "action": action, "reason": reason}
        event |= {"memory": dict(decision.memory)} if decision.memory else {}
        return [event, self._end(trial, TrialState.PRUNED, reason, None)] if action == "prune" else [event]

    def _end(self, trial: str, state: TrialState, reason: str, result: TrialResult | None) -> Event:
        return {
            "kind": "ended",
            "trial": trial,
            "state": state.value,
            "reason": reason,
            "time_ms": self._now(),
            "result": result.model_dump(mode="json") if result else None,
        }

    def _keep_within_budget(self) -> None:
        """End trials that the budget has no room for; those that run leave their slots at their next epoch."""
        if reasons := self._spending.to_drop(self._cells.others_live):
            self._record(*(self._end(trial, TrialState.PRUNED, reason, None) for trial, reason in reasons.items()))
            for group in {self._entries[trial].group for trial in reasons}:
                self._settle(group)

    def _not_begun(self, cell: str, kind: str, failed: str) -> list[Event]:
        """End the trials of a cell that have not begun, since another one of it failed."""
        waiting = [
            t for t in self._cells.of(cell) if t in self._undone and t != failed and not self._progress(t).starts
        ]
        reason = f"{kind}: not begun, since another trial of its cell failed by it"
        return [self._end(trial, TrialState.FAILED, reason, None) for trial in waiting]

    def _keep_the_cell_alive(self, cell: str, reason: str) -> None:
        """Bring the best pruned trial of a cell back when none is left that finished or will."""
        back = self._cells.to_bring_back(cell)
        if back is not None:
            self._record({"kind": "reopened", "trial": back, "reason": reason})
