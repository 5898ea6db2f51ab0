"""A trainer that replays recorded curves: a small real implementation, in place of Ray and torch."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from search.ledger import Event
from search.schedule import Entry, Schedule
from search.study_sections import Budget, Pruning
from search.study_state import StudyState
from trainers.trial import EpochMetrics, TrialResult, TrialState

PRIMARY = "val/score"
DECLARATION = {"primary_metric": PRIMARY, "direction": "maximize", "targets": ["finding"]}


class Clock:
    """Counts milliseconds, one a call; an epoch takes a second."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        self.now += 1
        return self.now


def opening(entries: Sequence[Entry], *, direction: str = "maximize") -> list[Event]:
    """The events ahead of a search."""
    declaration = {**DECLARATION, "direction": direction}
    events: list[Event] = [
        {"kind": "study", "study": {"name": "recorded"}, "version": "test", "time_ms": 0},
        {"kind": "data", "key": "k", "dataset": "d", "fingerprint": "f", "declaration": declaration},
    ]
    return events + [
        {
            "kind": "trial",
            "trial": entry.trial,
            "cell": entry.cell,
            "axes": {"cell": entry.cell},
            "searched": entry.searched,
            "seed": 0,
            "config": {},
            "dataset_key": "k",
        }
        for entry in entries
    ]


class Search:
    """A schedule over recorded curves, carried out one epoch at a time in a number of slots.

    Args:
        curves: values by trial, epoch 1 first.
        cells: cell by trial; by default all in one.
        fails: trials that fail at an epoch.
        kind: how they fail.
        teachers: by cell, the cells it learns from.
        budget: of the study.
        gpus: that each trial occupies.
        within: what is compared: a cell, or the whole study.
        own_ends: epochs at which trials come to their own end (patience), before the last one.
        searched: of each trial; equal values are seeds of one point; by default all differ.
        direction: of the metric.
        stores: features that trials read, by trial.
    """

    def __init__(
        self,
        curves: Mapping[str, Sequence[float | None]],
        *,
        cells: Mapping[str, str] | None = None,
        pruning: Pruning | None = None,
        fails: Mapping[str, int] | None = None,
        events: Sequence[Event] | None = None,
        kind: str = "non_finite",
        teachers: Mapping[str, tuple[str, ...]] | None = None,
        budget: Budget | None = None,
        gpus: float = 0.0,
        searched: Mapping[str, float] | None = None,
        within: str = "cell",
        own_ends: Mapping[str, int] | None = None,
        direction: str = "maximize",
        stores: Mapping[str, str] | None = None,
    ):
        self.curves = curves
        self.kind = kind
        self.fails = dict(fails or {})
        self.own_ends = dict(own_ends or {})
        self.entries = [
            Entry(
                trial,
                cell := (cells or {}).get(trial, "cell"),
                cell if within == "cell" else within,
                {"x": (searched or {}).get(trial, float(i + 1))},
                len(c),
                gpus=gpus,
                teachers=(teachers or {}).get(cell, ()),
                store=(stores or {}).get(trial),
            )
            for i, (trial, c) in enumerate(curves.items())
        ]
        self.events: list[Event] = list(events if events is not None else opening(self.entries, direction=direction))
        self.ends_of_records = [len(self.events)]
        """Numbers of events after each record: a ledger holds a record whole or not at all."""
        self.state = StudyState.of(self.events)
        self.clock = Clock()
        self.schedule = Schedule(
            self.entries,
            state=self.state,
            pruning=pruning or Pruning(spare_share=0.0),
            record=self.record,
            budget=budget,
            now=self.clock,
        )

    def record(self, *events: Event) -> None:
        for event in events:
            self.events.append(event)
            self.state.apply(event)
        self.ends_of_records.append(len(self.events))

    def run(
        self,
        *,
        slots: int = 1,
        order: Callable[[list[Any]], Any] | None = None,
        stop_after: int | None = None,
        loses: Callable[[], bool] = lambda: False,
    ) -> None:
        """Carry the schedule out; `order` picks the slot that moves next; killed after `stop_after` epochs.

        Before every step `loses` says whether the node of the slot goes away.
        """
        busy: list[list[Any]] = []
        steps = 0
        while True:
            while len(busy) < slots and (assignment := self.schedule.next()) is not None:
                busy.append([assignment.trial, assignment.told_epochs, assignment.until_epoch])
            if not busy:
                over = self.schedule.finished or self.schedule.out_of_budget
                assert over, "the schedule has nothing to do but is not finished"
                return
            slot = order(busy) if order else busy[0]
            steps += 1
            if stop_after is not None and steps > stop_after:
                return
            if loses():
                self.schedule.interrupted(slot[0], "node_lost", "gone")
                busy.remove(slot)
            elif not self._step(slot, self.moment):
                busy.remove(slot)

    def run_side_by_side(self, *, slots: int, seconds_to_start: int = 0) -> None:
        """Carry the schedule out with all slots at once: an epoch of each takes the same second."""
        busy: list[list[Any]] = []
        while True:
            while len(busy) < slots and (assignment := self.schedule.next()) is not None:
                busy.append([assignment.trial, assignment.told_epochs, assignment.until_epoch])
            if not busy:
                return
            self.clock.now += 1000 * seconds_to_start  # of the first ones: their processes serve the others
            seconds_to_start = 0
            now = self.moment()
            for slot in list(busy):
                for _ in range(1 + (slot[1] + 1 == slot[2])):  # the last epoch, and its end
                    if slot in busy and not self._step(slot, partial(int, now)):
                        busy.remove(slot)

    def _step(self, slot: list[Any], moment: Callable[[], int]) -> bool:
        trial, done, until = slot
        if done >= min(until, self.own_ends.get(trial, until)):
            self.schedule.ended(trial, self._result(trial, done))
            return False
        if self.fails.get(trial) == done + 1:
            self.schedule.failed(trial, self.kind, f"in epoch {done + 1}")
            return False
        slot[1] = done + 1
        value = self.curves[trial][done]
        metrics = {} if value is None else {PRIMARY: value}
        goes_on = self.schedule.epoch(trial, EpochMetrics(epoch=done + 1, timestamp_ms=moment(), metrics=metrics))
        if not goes_on:
            self.schedule.released(trial)
        return goes_on

    def moment(self) -> int:
        """Let a second go by; returns the time in milliseconds."""
        self.clock.now += 1000
        return self.clock.now

    def _result(self, trial: str, done: int) -> TrialResult:
        curve = self.curves[trial]
        over = done >= self.own_ends.get(trial, len(curve))
        state = TrialState.COMPLETE if over else TrialState.PAUSED
        sign = self.state.declaration.sign
        defined = [(v, -e) for e, v in enumerate(curve[:done], 1) if v is not None]
        best = max(defined, key=lambda one: (sign * one[0], one[1]), default=None)
        return TrialResult(
            state=state,
            epochs=done,
            best_epoch=-best[1] if best else None,
            best_value=best[0] if best else None,
            checkpoint="best",
            checkpoint_sha256="0" * 64,
        )

    def ends(self) -> dict[str, str]:
        """State by trial."""
        return {trial: str(progress.state) for trial, progress in self.state.trials.items()}
