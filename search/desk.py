"""The one place where things become true: the ledger first, then everybody else."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

from search.delivery import Delivery
from search.ledger import Event, Ledger
from search.progress import Progress
from search.provenance import code_version, library_versions
from search.study_config import StudyConfig
from search.study_state import StudyState


def now_ms() -> int:
    """Return the Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


class Desk:
    """Records events of one run of a study.

    Args:
        study: what is asked for; recorded ahead of the run's first event.
        ledger: durable truth, open for writing.
        delivery: is notified of every event.
        progress: is shown every event.
    """

    def __init__(self, study: StudyConfig, ledger: Ledger, delivery: Delivery, progress: Progress):
        self._study = study
        self._ledger = ledger
        self._delivery = delivery
        self.progress = progress
        self.state = StudyState.of(ledger.events)
        # No draw: like MLflow's own names of runs it only tells apart. Ledgers of earlier versions have none.
        self._origin = ledger.events[0].get("origin") if ledger.events else secrets.token_hex(8)
        self.state.close_what_died()  # before this run's opening, which comes with its first event, a budget is asked
        ledger.events = ()  # folded into the state; a long study's events would fill the memory
        self.earlier_study = dict(self.state.study)
        self.changed = False
        self._held: list[Event] | None = None

    def record(self, *events: Event) -> None:
        """Write events durably, then let everybody hear of them; without any, only that this run does something."""
        if not self.changed:
            events = (self._opening(), *events)
        if self._held is None:
            self._ledger.append(*events)
        else:
            self._held += events
        self.changed = True  # not before: a ledger that cannot be written is not closed without its opening
        for event in events:
            self.state.apply(event)
        if self._held is None:
            self._tell()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write what the block records at its end: all of it with one sync, or none of it.

        The state follows within the block, so that each decision knows of the reports before it; everybody else hears
        of them after the sync, and whoever runs the block answers nobody inside it. If the disk refuses, the state is
        ahead of the truth and the run must end, as the error makes it.
        """
        self._held = []
        try:
            yield
        finally:
            held, self._held = self._held, None
            if held:
                self._ledger.append(*held)
                self._tell()

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Record how the run ended, if it did anything."""
        status = "FAILED"
        try:
            yield
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            if self.changed:
                self.record({"kind": "closed", "status": status, "time_ms": now_ms()})

    def _tell(self) -> None:
        self._delivery.notify()
        self.progress.update(self.state)

    def _opening(self) -> Event:
        content = self._study.model_dump(mode="json")
        made_by = {"version": code_version(), "libraries": library_versions()}
        origin = {"origin": self._origin} if self._origin else {}
        return {"kind": "study", "study": content, **origin, **made_by, "time_ms": now_ms()}
