"""Connects a study's ledger with MLflow and Optuna's file for the time of a run."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mlflow_server.reach import without_password
from mlflow_server.tracking import Tracker
from search import ledger
from search.delivery import Delivery, Receiver
from search.ledger import Event
from search.optuna_mirror import OptunaMirror
from search.study_config import StudyConfig
from search.study_folder import StudyFolder
from search.tracking_receiver import TrackingReceiver

LOG = logging.getLogger(__name__)

NOBODY = "nobody"
"""Whose no run is: that of a study that has not begun."""


@contextmanager
def delivered(study: StudyConfig, folder: StudyFolder) -> Iterator[Delivery]:
    """Deliver the ledger's events while the block runs, and what is left at its end.

    Raises:
        TrackingError: the tracker cannot be used at the start; later failures only delay the delivery.
    """
    if not connect_tracker(study, folder).knows(folder.study):
        folder.delivery.unlink(missing_ok=True)  # its database was made anew: it hears all of it again

    def connect(told: Sequence[Event]) -> list[Receiver]:
        tracker = connect_tracker(study, folder)
        return [TrackingReceiver(tracker, folder, told), OptunaMirror(folder, study.pruning, told)]

    delivery = Delivery(folder, connect, to=told_to(study))
    delivery.start()
    try:
        yield delivery
    finally:
        waiting = delivery.finish()
        if waiting:
            LOG.warning(
                "%d events wait in %s for MLflow (%s); the next `python -m search run` tries again",
                waiting,
                folder.ledger,
                delivery.problem,
            )


def tracking_uri(study: StudyConfig, folder: StudyFolder) -> str:
    """Return the MLflow store that a study names, or the embedded one."""
    return study.tracking.uri or folder.tracking_uri


def told_to(study: StudyConfig) -> str:
    """Return the name under which the cursor remembers the study's tracker; the embedded one moves with the folder."""
    return f"{without_password(study.tracking.uri or 'embedded')} {_experiment(study)}"


def connect_tracker(study: StudyConfig, folder: StudyFolder) -> Tracker:
    """Open the study's tracker: the one it names, or the embedded store."""
    origin = _origin(folder)
    if study.tracking.uri:
        return Tracker(study.tracking.uri, _experiment(study), origin=origin)
    folder.storage.mkdir(parents=True, exist_ok=True)
    return Tracker(folder.tracking_uri, _experiment(study), folder.artifacts, origin=origin)


def _origin(folder: StudyFolder) -> str | None:
    """Return what tells a study's runs from those of others; None where an earlier version began it."""
    begun = ledger.first(folder.ledger)
    origin: str | None = NOBODY if begun is None else begun.get("origin")
    return origin


def _experiment(study: StudyConfig) -> str:
    return study.tracking.experiment or study.name
