"""The driver's own work for a very large search: 10,000 trials on 256 simulated GPUs, in virtual time.

The decision code, the ledger on disk and the live progress are the real ones; only Ray and the training are left out.
Curves are recorded ones where they are at hand (fine-tuning runs of six CT and MR data sets, see replay.py), put
together anew for each cell by a seeded draw, else made up. An epoch takes as long as its cell's resolution says.
"""

import heapq
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console

from scripts.benchmarks.row import Row
from search import ledger
from search.ledger import Event, Ledger
from search.progress import LineProgress
from search.schedule import Assignment, Entry, Schedule
from search.study_sections import Pruning
from search.study_state import StudyState
from trainers.trial import EpochMetrics, TrialResult, TrialState

GPUS = 256
TRIALS_PER_CELL = 10
EPOCHS = 20
SECONDS_PER_EPOCH = (60.0, 300.0, 1200.0)
"""At 224, 512 and 1024 px."""
METRIC = "val/auroc/macro"
METRICS = 22
GOAL_CPU = 0.02
GOAL_MEMORY = 1.5


def run(*, quick: bool) -> list[Row]:
    """Simulate, and check that every cell has a finished trial and that the ledger tells the same end."""
    trials = 1_000 if quick else 10_000
    with tempfile.TemporaryDirectory() as name:
        simulation = Simulation(Path(name), trials)
        simulation.run()
        simulation.check()
    hours = simulation.now_ms / 3_600_000
    share = simulation.cpu_seconds / (hours * 3600)
    half, end = simulation.memory[len(simulation.memory) // 2], simulation.memory[-1]
    return [
        Row(
            f"{trials:,} trials, {simulation.epochs:,} epochs on {GPUS} simulated GPUs: CPU hours of simulated ones",
            simulation.cpu_seconds / 3600,
            hours,
            share,
            "<= 0.02",
            share <= GOAL_CPU,
        ),
        Row(
            "its memory in MB at the end of the search, against half-way",
            end,
            half,
            end / half,
            "<= 1.5",
            end / half <= GOAL_MEMORY,
        ),
    ]


class Simulation:
    """A search in virtual time.

    Attributes:
        now_ms: virtual clock.
        cpu_seconds: real CPU time of the driver's work.
        memory: MB of the process, sampled over the search.
    """

    def __init__(self, folder: Path, trials: int):
        self._rng = np.random.default_rng(0)
        self._curves = _Curves(self._rng)
        self._entries = [self._entry(number) for number in range(trials)]
        self._path = folder / "ledger.jsonl"
        self._values = {entry.trial: self._curves.draw(entry.epochs) for entry in self._entries}
        self.now_ms = 0
        self.cpu_seconds = 0.0
        self.epochs = 0
        self.memory: list[float] = []

    def run(self) -> None:
        """Carry the whole schedule out."""
        began = time.process_time()
        progress = LineProgress(Console(file=io.StringIO()))
        with Ledger(self._path) as book:
            state = StudyState()

            def record(*events: Event) -> None:
                book.append(*events)
                for event in events:
                    state.apply(event)
                progress.update(state)

            record(*_opening(self._entries))
            schedule = Schedule(self._entries, state=state, pruning=Pruning(), record=record, now=lambda: self.now_ms)
            progress.searching(self._entries, state)
            self._carry_out(schedule)
        self.cpu_seconds = time.process_time() - began
        self.states = {trial: found.state for trial, found in state.trials.items()}

    def check(self) -> None:
        """Hold the ledger on disk against what the driver believed."""
        again = StudyState.of(ledger.read(self._path).events)
        if {trial: found.state for trial, found in again.trials.items()} != self.states:
            raise RuntimeError("the ledger tells another end than the driver knew")
        finished = {e.cell for e in self._entries if self.states[e.trial] is TrialState.COMPLETE}
        if finished != {entry.cell for entry in self._entries} or None in self.states.values():
            raise RuntimeError("a cell was left without a finished trial")

    def _carry_out(self, schedule: Schedule) -> None:
        process, free = psutil.Process(), GPUS
        seconds = {entry.trial: SECONDS_PER_EPOCH[int(entry.cost)] for entry in self._entries}
        moments: list[tuple[int, int, Assignment, int]] = []
        order = 0
        while True:
            while free and (assignment := schedule.next()) is not None:
                free -= 1
                order += 1
                due = self.now_ms + round(1000 * seconds[assignment.trial])
                heapq.heappush(moments, (due, order, assignment, assignment.told_epochs + 1))
            if not moments:
                return
            self.now_ms, _, assignment, epoch = heapq.heappop(moments)
            if self._epoch(schedule, assignment, epoch):
                order += 1
                due = self.now_ms + round(1000 * seconds[assignment.trial])
                heapq.heappush(moments, (due, order, assignment, epoch + 1))
            else:
                free += 1
            if self.epochs % 1000 == 0:
                self.memory.append(process.memory_info().rss / 1e6)

    def _epoch(self, schedule: Schedule, assignment: Assignment, epoch: int) -> bool:
        """Tell one epoch; return whether the trial goes on in its slot."""
        self.epochs += 1
        trial = assignment.trial
        value = self._values[trial][epoch - 1]
        metrics = {METRIC: value} | {f"val/auroc/{n}": value for n in range(METRICS - 1)}
        goes_on = schedule.epoch(trial, EpochMetrics(epoch=epoch, timestamp_ms=self.now_ms, metrics=metrics))
        if not goes_on:
            schedule.released(trial)
            return False
        if epoch < assignment.until_epoch:
            return True
        seen = self._values[trial][:epoch]
        best = max(seen)
        over = TrialState.COMPLETE if epoch == EPOCHS else TrialState.PAUSED
        schedule.ended(trial, TrialResult(state=over, epochs=epoch, best_epoch=seen.index(best) + 1, best_value=best))
        return False

    def _entry(self, number: int) -> Entry:
        cell, point = divmod(number, TRIALS_PER_CELL)
        size = cell % len(SECONDS_PER_EPOCH)
        return Entry(
            f"t{number}", f"cell{cell}", f"cell{cell}", {"x": float(point)}, EPOCHS, cost=float(size), gpus=1.0
        )


class _Curves:
    """Curves to draw from: recorded ones, else logistic ones."""

    def __init__(self, rng: np.random.Generator):
        from scripts.benchmarks.replay import medquicktune_folder
        from search.replay import curves

        self._rng = rng
        self._recorded: list[np.ndarray] = []
        folder = medquicktune_folder()
        if folder is not None:
            from scripts.benchmarks.replay import medquicktune

            groups = curves.of_table(medquicktune(folder), name="medquicktune")
            self._recorded = [curve.values for group in groups.values() for curve in group.values()]

    def draw(self, epochs: int) -> list[float]:
        """Return a curve of so many epochs."""
        if not self._recorded:
            end, pace = self._rng.uniform(0.6, 0.9), self._rng.uniform(0.1, 1.0)
            return [float(0.5 + (end - 0.5) * (1 - np.exp(-pace * epoch))) for epoch in range(1, epochs + 1)]
        values = self._recorded[int(self._rng.integers(len(self._recorded)))]
        return [float(value) for value in np.interp(np.linspace(0, 1, epochs), np.linspace(0, 1, len(values)), values)]


def _opening(entries: list[Entry]) -> list[dict[str, Any]]:
    declaration = {"primary_metric": METRIC, "direction": "maximize", "targets": []}
    events: list[dict[str, Any]] = [
        {"kind": "study", "study": {"name": "simulated"}, "version": "0", "time_ms": 0},
        {"kind": "data", "key": "k", "dataset": "d", "fingerprint": "f", "declaration": declaration},
    ]
    fields = {"axes": {}, "seed": 0, "config": {}, "dataset_key": "k"}
    return events + [
        {"kind": "trial", "trial": e.trial, "cell": e.cell, "searched": dict(e.searched), **fields} for e in entries
    ]
