"""Which trial trains next, how far, and whether it goes on: the decision code, without Ray, clock or disk.

A backend (Ray, or a simulator in virtual time) asks `next()` for an assignment whenever it has a free slot and
tells what came of it. Everything that is decided or measured goes through `record`, which writes the ledger
before anything else hears of it; a schedule built from the same ledger stands where the killed one stood.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from search.ledger import Event
from search.pruning import ComparisonGroup, create_group, spared
from search.study_config import Pruning
from search.study_state import StudyState, TrialProgress
from trainers.trial import EpochMetrics, TrialResult, TrialState


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


@dataclass(frozen=True, slots=True)
class Assignment:
    """Train this trial from where it stands to the end of `until_epoch`."""

    trial: str
    until_epoch: int
    told_epochs: int
    """Epochs whose metrics the ledger already holds; they need not be told again."""


@dataclass(slots=True)
class _Group:
    optuna: ComparisonGroup
    entries: list[Entry] = field(default_factory=list)


class Schedule:
    """Order, rungs and pruning of a study's remaining trials.

    Args:
        entries: every trial of the study as it is asked for now, done or not.
        state: what has happened; kept up to date by `record`.
        pruning: the study's pruning section.
        record: writes events durably and applies them to `state`.
        now: Unix time in milliseconds; a simulator passes its own.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        *,
        state: StudyState,
        pruning: Pruning,
        record: Callable[..., None],
        now: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ):
        self._state = state
        self._pruning = pruning
        self._record = record
        self._now = now
        self._running: set[str] = set()
        self._entries = {entry.trial: entry for entry in _in_order(entries)}
        self._cells: dict[str, list[str]] = defaultdict(list)
        for entry in self._entries.values():
            self._cells[entry.cell].append(entry.trial)
        self._groups = self._build_groups()

    @property
    def finished(self) -> bool:
        """Whether every trial has ended."""
        return all(self._progress(trial).done for trial in self._entries)

    def next(self) -> Assignment | None:
        """Return the next piece of work; None while everything that is left runs or waits for a rung."""
        for entry in self._entries.values():
            if self._ready(entry):
                break
        else:
            return None
        self._running.add(entry.trial)
        self._record({"kind": "started", "trial": entry.trial, "time_ms": self._now()})
        return Assignment(entry.trial, self._next_stop(entry), len(self._progress(entry.trial).epochs))

    def epoch(self, trial: str, told: EpochMetrics) -> bool:
        """Take in an epoch's metrics, the same ones any number of times.

        Returns:
            Whether the trial goes on.
        """
        progress = self._progress(trial)
        if progress.done:
            return False
        if told.epoch in progress.epochs:
            return True
        self._record({"kind": "epoch", "trial": trial, **told.model_dump(mode="json")})
        group = self._groups[self._entries[trial].group].optuna
        value = told.metrics.get(self._state.declaration.primary_metric)
        if value is not None:
            group.report(trial, told.epoch, value)
        if group.rungs or value is None or told.epoch >= self._entries[trial].epochs:
            return True
        events = self._decide(trial, told.epoch)
        if events and events[0]["action"] != "keep":
            self._record(*events)
        self._tell_ends(events)
        return not self._progress(trial).done

    def ended(self, trial: str, result: TrialResult) -> None:
        """Take in that an assignment came to its end."""
        self._running.discard(trial)
        if self._progress(trial).done:
            return
        if result.state is TrialState.COMPLETE:
            self._close(trial, TrialState.COMPLETE, "", result)
        self._settle(self._entries[trial].group)

    def failed(self, trial: str, kind: str, reason: str) -> None:
        """Take in that a trial cannot go on."""
        self._running.discard(trial)
        if self._progress(trial).done:
            return
        self._close(trial, TrialState.FAILED, f"{kind}: {reason}", None)
        self._keep_the_cell_alive(self._entries[trial].cell)
        self._settle(self._entries[trial].group)

    def released(self, trial: str) -> None:
        """Take in that a stopped trial has left its slot."""
        self._running.discard(trial)

    def _progress(self, trial: str) -> TrialProgress:
        return self._state.trials[trial]

    def _build_groups(self) -> dict[str, _Group]:
        members: dict[str, list[Entry]] = defaultdict(list)
        for entry in self._entries.values():
            members[entry.group].append(entry)
        groups = {}
        for name, entries in members.items():
            space: dict[str, list[Any]] = defaultdict(list)
            for entry in entries:
                for key, value in entry.searched.items():
                    space[key].append(value)
            optuna = create_group(
                self._pruning,
                epochs=max(entry.epochs for entry in entries),
                direction=self._state.declaration.direction,
                space=space,
            )
            groups[name] = _Group(optuna, entries)
            for entry in entries:
                self._replay(optuna, entry)
        return groups

    def _replay(self, group: ComparisonGroup, entry: Entry) -> None:
        progress = self._progress(entry.trial)
        group.add(entry.trial, entry.searched)
        for epoch, value in progress.curve(self._state.declaration.primary_metric).items():
            group.report(entry.trial, epoch, value)
        if progress.state is not None:
            best = progress.result.best_value if progress.result else None
            group.tell(entry.trial, progress.state, best)

    def _ready(self, entry: Entry) -> bool:
        progress = self._progress(entry.trial)
        if progress.done or entry.trial in self._running:
            return False
        rung = self._undecided_rung(entry)
        if rung is None or len(progress.epochs) < rung:
            return True
        self._settle(entry.group)
        return not self._progress(entry.trial).done and self._undecided_rung(entry) != rung

    def _undecided_rung(self, entry: Entry) -> int | None:
        decided = {event["epoch"] for event in self._progress(entry.trial).decisions}
        return next((rung for rung in self._rungs(entry) if rung not in decided), None)

    def _rungs(self, entry: Entry) -> list[int]:
        return [rung for rung in self._groups[entry.group].optuna.rungs if rung < entry.epochs]

    def _next_stop(self, entry: Entry) -> int:
        return self._undecided_rung(entry) or entry.epochs

    def _settle(self, group_name: str) -> None:
        """Decide a rung once every trial of the group that still lives has reached it."""
        group = self._groups[group_name]
        live = [entry for entry in group.entries if not self._progress(entry.trial).done]
        pending = [rung for entry in live if (rung := self._undecided_rung(entry)) is not None]
        if not pending:
            return
        rung = min(pending)
        waiting = [entry for entry in live if self._undecided_rung(entry) == rung]
        if any(len(self._progress(e.trial).epochs) < rung or e.trial in self._running for e in waiting):
            return
        # All decisions of a rung are one record: a crash leaves the rung decided or not, never half.
        verdicts = {entry.trial: group.optuna.decide(entry.trial) for entry in waiting}
        events: list[Event] = []
        condemned: set[str] = set()
        for trial, (stops, reason) in verdicts.items():
            new = self._verdict_events(trial, rung, stops, reason, condemned)
            condemned |= {trial for event in new if event["kind"] == "ended"}
            events += new
        self._record(*events)
        self._tell_ends(events)
        self._settle(group_name)

    def _decide(self, trial: str, epoch: int) -> list[Event]:
        stops, reason = self._groups[self._entries[trial].group].optuna.decide(trial)
        return self._verdict_events(trial, epoch, stops, reason, set())

    def _verdict_events(self, trial: str, epoch: int, stops: bool, reason: str, condemned: set[str]) -> list[Event]:
        action = "keep"
        if stops and not self._others_live(trial, condemned):
            reason = f"last live trial of its cell, goes on; {reason}"
        elif stops:
            action = "spare" if spared(self._pruning, trial) else "prune"
        decision = {"kind": "decision", "trial": trial, "epoch": epoch, "action": action, "reason": reason}
        return [decision, self._end_event(trial, TrialState.PRUNED, reason, None)] if action == "prune" else [decision]

    def _others_live(self, trial: str, condemned: set[str]) -> bool:
        others = [
            other for other in self._cells[self._entries[trial].cell] if other != trial and other not in condemned
        ]
        return any(self._progress(other).state in (None, TrialState.COMPLETE) for other in others)

    def _close(self, trial: str, state: TrialState, reason: str, result: TrialResult | None) -> None:
        event = self._end_event(trial, state, reason, result)
        self._record(event)
        self._tell_ends([event])

    def _end_event(self, trial: str, state: TrialState, reason: str, result: TrialResult | None) -> Event:
        return {
            "kind": "ended",
            "trial": trial,
            "state": state.value,
            "reason": reason,
            "time_ms": self._now(),
            "result": result.model_dump(mode="json") if result else None,
        }

    def _tell_ends(self, events: Sequence[Event]) -> None:
        for event in events:
            if event["kind"] == "ended":
                best = (event["result"] or {}).get("best_value")
                group = self._groups[self._entries[event["trial"]].group].optuna
                group.tell(event["trial"], TrialState(event["state"]), best)

    def _keep_the_cell_alive(self, cell: str) -> None:
        """Bring the best pruned trial of a cell back when all that were left alive have failed."""
        states = {trial: self._progress(trial).state for trial in self._cells[cell]}
        pruned = [trial for trial, state in states.items() if state is TrialState.PRUNED]
        if not pruned or any(state in (None, TrialState.COMPLETE) for state in states.values()):
            return
        declaration = self._state.declaration
        sign = 1.0 if declaration.direction == "maximize" else -1.0
        best = max(
            pruned,
            key=lambda trial: max(
                (sign * v for v in self._progress(trial).curve(declaration.primary_metric).values()),
                default=float("-inf"),
            ),
        )
        self._record({"kind": "reopened", "trial": best, "reason": "every other trial of its cell failed"})
        entry = self._entries[best]
        self._replay(self._groups[entry.group].optuna, entry)


def _in_order(entries: Sequence[Entry]) -> list[Entry]:
    """Most expensive cells first, since a long trial that starts last is waited for; else the file's order."""
    costs: dict[str, float] = defaultdict(float)
    for entry in entries:
        costs[entry.cell] += entry.cost * entry.epochs
    return sorted(entries, key=lambda entry: -costs[entry.cell])
