"""Tells MLflow and Optuna's SQLite file what the ledger says, in order, from a thread of its own.

The search never waits for the tracker: events lie on disk, and a cursor beside them says how far they have been
told. While the tracker is away the thread tries again; after a crash the next driver goes on at the cursor.
What is told twice is recorded once (see `mlflow_server/tracking.py`).
"""

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Protocol

from mlflow_server.errors import TrackingError
from search import cursor, ledger
from search.ledger import Event
from search.study_folder import StudyFolder

LOG = logging.getLogger(__name__)

EVENTS_A_ROUND = 2000
SECONDS_BETWEEN_TRIES = (1.0, 2.0, 5.0, 10.0, 30.0)
SECONDS_TO_GATHER = 2.0
"""Between rounds, unless the run is at its end. In a call of a thousand a metric costs MLflow a fiftieth of what it
costs alone, and a thread that is never done telling takes the interpreter from the one that writes the ledger."""


REFUSED = ("INVALID_PARAMETER_VALUE", "error code 401", "error code 403")
"""Of what MLflow will not take however often it is told: a name with letters that it does not allow, a stranger, a user
without the rights."""
OBJECTS_BEFORE_COLLECTION = 100_000
"""MLflow makes tens of objects for a metric and lets go of them itself; looking for cycles after every 700, as Python
does by default, is a quarter of the time that its `log_batch` takes."""


class Receiver(Protocol):
    """Takes events that may have been told before."""

    def receive(self, events: list[Event]) -> None:
        """Take in a run of consecutive events; raise to be told them again later."""


class Delivery:
    """Reads the ledger from its cursor on and tells the receivers.

    Args:
        folder: of the study.
        connect: builds the receivers from the events that were told before; called in the delivery thread, and
            again after a failure.
        to: who the receivers are, MLflow's address and experiment: others are told from the beginning.
    """

    def __init__(self, folder: StudyFolder, connect: Callable[[Sequence[Event]], list[Receiver]], *, to: str = ""):
        self._folder = folder
        self._connect = connect
        self._to = to
        self._receivers: list[Receiver] | None = None
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._work, name="delivery", daemon=True)
        self.problem: str | None = None

    def start(self) -> None:
        """Begin to deliver."""
        gc.set_threshold(OBJECTS_BEFORE_COLLECTION, *gc.get_threshold()[1:])
        self._thread.start()

    def notify(self) -> None:
        """Say that there is something new."""
        self._wake.set()

    def finish(self, *, patience: float = 60.0) -> int:
        """Deliver what is left, for at most `patience` seconds.

        Returns:
            How many events still wait on disk.
        """
        self._deadline = time.monotonic() + patience
        self._stop.set()
        self._wake.set()
        self._thread.join()
        return cursor.waiting(self._folder, self._to)

    def _work(self) -> None:
        failures = 0
        while True:
            self._stop.wait(SECONDS_TO_GATHER)
            try:
                more = self._round()
                failures, self.problem = 0, None
            except Exception as problem:
                more = True
                self._receivers = None
                self.problem = f"{type(problem).__name__}: {problem}".splitlines()[0]
                refused = any(word in f"{getattr(problem, 'error_code', '')} {problem}" for word in REFUSED)
                LOG.warning("%s, events wait on disk: %s", _who_failed(problem, refused=refused), self.problem)
                if refused and self._stop.is_set():
                    return  # the same events would be refused again
                self._pause(SECONDS_BETWEEN_TRIES[min(failures, len(SECONDS_BETWEEN_TRIES) - 1)])
                failures += 1
            if self._stop.is_set() and (not more or time.monotonic() > self._deadline):
                return
            if not more:
                self._wake.wait(timeout=5.0)
                self._wake.clear()

    def _pause(self, seconds: float) -> None:
        until = min(time.monotonic() + seconds, self._deadline)
        while time.monotonic() < until:
            time.sleep(0.05)
            until = min(until, self._deadline)

    def _round(self) -> bool:
        """Deliver one batch; return whether there was any."""
        start = cursor.read(self._folder, self._to)
        contents = ledger.read(self._folder.ledger, start=start)
        if not contents.events:
            return False
        if self._receivers is None:
            self._receivers = self._connect(ledger.read(self._folder.ledger, stop=start).events)
        for batch in _batches(list(contents.events), EVENTS_A_ROUND):
            for receiver in self._receivers:
                receiver.receive(batch)
        cursor.save(self._folder, self._to, contents.end)
        return True


def _who_failed(problem: Exception, *, refused: bool) -> str:
    if refused:
        return "MLflow refuses"
    away = isinstance(problem, OSError | TrackingError) or hasattr(problem, "error_code")  # as MLflow's have
    return "MLflow is away" if away else "MLflow or Optuna's file cannot be told"


def _batches(events: list[Event], size: int) -> Iterable[list[Event]]:
    for start in range(0, len(events), size):
        yield events[start : start + size]


def by_trial_and_kind(events: Iterable[Event]) -> Iterable[tuple[str, str, list[Event]]]:
    """Group consecutive events of one trial and kind, so that a curve travels in one request.

    Trials report side by side and know nothing of one another: each keeps its own order, and what concerns the whole
    study keeps its place among all.
    """
    for _, between in groupby(events, key=lambda event: "trial" in event):
        trials: dict[str, list[Event]] = {}
        for event in between:
            trials.setdefault(event.get("trial", ""), []).append(event)
        for trial, own in trials.items():
            for kind, same in groupby(own, key=lambda event: str(event["kind"])):
                yield kind, trial, list(same)
