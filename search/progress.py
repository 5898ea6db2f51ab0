"""What a run shows while it works: a live table in a terminal, lines in a log, or JSON lines for a program."""

import json
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.errors import StudyError
from search.forecast import Forecast
from search.grid import Trial
from search.schedule import Entry
from search.study_state import StudyState
from search.wording import counted

SECONDS_BETWEEN_LINES = 5.0
LOOKS_COST = 100.0
"""At most one part in so many of the time is spent on looking at all trials."""
CELLS_SHOWN = 20
KINDS = ("auto", "live", "lines", "json")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where a search stands."""

    cells: int
    trials: int
    complete: int
    pruned: int
    dropped: int
    """For the budget."""
    failed: int
    running: int
    gpus: float
    """In use now."""
    gpu_hours: float
    """Used so far, pruned and repeated work included."""
    epochs: int
    epochs_left: int
    """At most: what pruning will save is not known."""
    seconds: float
    seconds_left: float | None
    best: dict[str, float]
    """Best primary metric so far, by cell, the best cell first."""


class Progress(Protocol):
    """Shows a run; called by the driver between two events, so it must not take long."""

    def note(self, text: str) -> None:
        """Show what is done before and after the search."""

    def searching(self, entries: Sequence[Entry], state: StudyState, to_come: Sequence[Trial] = ()) -> None:
        """Begin to show the search, also one that is finished.

        Args:
            entries: the trials that there are.
            state: where they stand.
            to_come: trials that a sampler will draw in later rounds (`sampling.to_come`).
        """

    def update(self, state: StudyState) -> None:
        """Show where things stand after an event."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class _Counting(ABC):
    """Computes snapshots; of this run alone it is told how many trials train at once."""

    def __init__(self) -> None:
        self._entries: Sequence[Entry] = ()
        self._to_come: Sequence[Trial] = ()
        self._began = time.monotonic()
        self._before = (0, 0.0, 0.0)
        self._looked_until = float("-inf")
        self._look_seconds = 0.0
        self._owed: StudyState | None = None

    def due(self) -> bool:
        """Say whether to look at all trials again: with many of them, looking at every event would cost the search."""
        return time.monotonic() - self._looked_until >= LOOKS_COST * self._look_seconds

    def searching(self, entries: Sequence[Entry], state: StudyState, to_come: Sequence[Trial] = ()) -> None:
        self._entries, self._to_come = entries, to_come
        self._began = time.monotonic()
        self._before = self._so_far(state)
        self.update(state)

    def update(self, state: StudyState) -> None:
        """Show where things stand, now or, if another look would cost too much, later."""
        if not self._entries:
            return
        self._owed = state
        if self.due():
            self.settle()

    def settle(self) -> None:
        """Show what was put off."""
        if self._owed is not None:
            self.show(self.snapshot(self._owed))
            self._owed = None

    @abstractmethod
    def show(self, now: Snapshot) -> None:
        """Show where the search stands."""

    def snapshot(self, state: StudyState) -> Snapshot:
        began = time.monotonic()
        found = self._snapshot(state)
        self._looked_until = time.monotonic()
        self._look_seconds = self._looked_until - began
        return found

    def _snapshot(self, state: StudyState) -> Snapshot:
        progress = [state.trials[entry.trial] for entry in self._entries]
        states = Counter(trial.outcome for trial in progress)
        epochs = sum(len(trial.epochs) for trial in progress)
        left = sum(
            entry.epochs - len(trial.epochs)
            for entry, trial in zip(self._entries, progress, strict=True)
            if not trial.done
        ) + sum(trial.config.recipe.epochs for trial in self._to_come)
        return Snapshot(
            cells=len({entry.cell for entry in self._entries}),
            trials=len(progress) + len(self._to_come),
            complete=states["COMPLETE"],
            pruned=states["PRUNED"],
            dropped=states["DROPPED"],
            failed=states["FAILED"],
            running=sum(trial.use.since_ms is not None for trial in progress),
            gpus=sum(trial.use.gpus for trial in progress if trial.use.since_ms is not None),
            gpu_hours=round(sum(trial.use.so_far[1] for trial in progress) / 3600, 3),
            epochs=epochs,
            epochs_left=left,
            seconds=round(time.monotonic() - self._began, 1),
            seconds_left=self._seconds_left(state) if left else 0.0,
            best=best_by_cell(self._entries, state),
        )

    def _so_far(self, state: StudyState) -> tuple[int, float, float]:
        """Return the epochs, the seconds of all trials and those of the clock, of all runs."""
        trials = [state.trials[entry.trial] for entry in self._entries]
        return sum(len(t.epochs) for t in trials), sum(t.use.so_far[0] for t in trials), state.wall.so_far[0]

    def _seconds_left(self, state: StudyState) -> float | None:
        """Return how long the rest takes at most, as many trials at once as so far; None before this run's first epoch.

        The last of them has no use of the slots of the others.
        """
        epochs, busy, wall = (now - before for now, before in zip(self._so_far(state), self._before, strict=True))
        of_cell = {entry.cell: entry for entry in self._entries}
        to_come = [
            replace(of_cell[trial.cell.name], trial=f"to come {number}", epochs=trial.config.recipe.epochs)
            for number, trial in enumerate(self._to_come)
            if trial.cell.name in of_cell
        ]
        forecast = Forecast({entry.trial: entry for entry in self._entries}, state, lambda entry: entry.epochs)
        rest = forecast.at_most(to_come) if epochs and wall else None
        if not rest:
            return None
        return round(max(sum(rest.values()) / max(1.0, busy / wall), *rest.values()), 1)


def best_by_cell(entries: Sequence[Entry], state: StudyState) -> dict[str, float]:
    """Return the best primary metric by which any trial of each cell is judged so far, the best cell first."""
    if not state.datasets:
        return {}
    smaller = state.declaration.direction == "minimize"
    choose = min if smaller else max
    values: dict[str, list[float]] = defaultdict(list)
    for entry in entries:
        if (value := state.trials[entry.trial].judged(state.declaration.sign)) is not None:
            values[entry.cell].append(value)
    best = [(cell, choose(found)) for cell, found in values.items()]
    return dict(sorted(best, key=lambda item: item[1], reverse=not smaller))


class LiveProgress(_Counting):
    """A table that rewrites itself, for a terminal."""

    def __init__(self, console: Console):
        super().__init__()
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._live.start()

    def note(self, text: str) -> None:
        """Show the note in place of the table."""
        self._live.update(Text(text))

    def show(self, now: Snapshot) -> None:
        """Redraw the table."""
        self._live.update(_picture(now))

    def close(self) -> None:
        """Remove the live table."""
        self._live.stop()


class LineProgress(_Counting):
    """A line every few seconds and for every trial that ends, for a log."""

    def __init__(self, console: Console):
        super().__init__()
        self._console = console
        self._last = 0.0
        self._ended = 0

    def note(self, text: str) -> None:
        """Print the note, after what was put off."""
        self.settle()
        self._console.print(Text(text), soft_wrap=True)

    def show(self, now: Snapshot) -> None:
        """Print where the search stands, if something ended or enough time went by."""
        ended = now.complete + now.pruned + now.dropped + now.failed
        if ended == self._ended and time.monotonic() - self._last < SECONDS_BETWEEN_LINES:
            return
        self._ended, self._last = ended, time.monotonic()
        self._console.print(Text(_line(now)), soft_wrap=True)

    def close(self) -> None:
        """Print what was put off."""
        self.settle()


class JsonProgress(_Counting):
    """One JSON object per event, for a program."""

    def note(self, text: str) -> None:
        """Print the note, after what was put off."""
        self.settle()
        self._print({"note": text})

    def show(self, now: Snapshot) -> None:
        """Print a snapshot."""
        self._print({"progress": asdict(now)})

    def close(self) -> None:
        """Print what was put off."""
        self.settle()

    def _print(self, message: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def create(kind: str, console: Console) -> Progress:
    """Choose how progress is shown: `live`, `lines`, `json`, or `auto` (live where the output is a terminal).

    Raises:
        StudyError: it is none of these.
    """
    if kind not in KINDS:
        raise StudyError(f"--progress {kind}: expected {', '.join(KINDS)}")
    if kind == "json":
        return JsonProgress()
    if kind == "live" or (kind == "auto" and console.is_terminal):
        return LiveProgress(console)
    return LineProgress(console)


def duration(seconds: float | None) -> str:
    """Write seconds as people say them, e.g. `2 h 05 min`."""
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _line(now: Snapshot) -> str:
    best = next(iter(now.best.items()), None)
    so_far = f", best {best[1]:.4f} ({best[0]})" if best else ""
    left = "time left unknown" if now.seconds_left is None else f"at most {duration(now.seconds_left)} left"
    on_gpus = f" on {now.gpus:g} GPU{'' if now.gpus == 1 else 's'}" if now.gpus else ""
    return (
        f"{now.complete + now.pruned + now.dropped + now.failed}/{now.trials} trials "
        f"({now.complete} complete, {now.pruned} pruned, {f'{now.dropped} dropped, ' if now.dropped else ''}"
        f"{now.failed} failed), {now.running} running{on_gpus}, "
        f"{counted(now.epochs, 'epoch')}{so_far}, "
        f"{duration(now.seconds)} gone, {left}"
    )


def _picture(now: Snapshot) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("cell", overflow="fold")
    table.add_column("best on validation so far", justify="right")
    for cell, value in list(now.best.items())[:CELLS_SHOWN]:
        table.add_row(Text(cell), f"{value:.4f}")
    total = max(1, now.epochs + now.epochs_left)
    return Group(Text(_line(now)), ProgressBar(total=total, completed=now.epochs, width=60), table)
