"""Connects a study's ledger with MLflow and Optuna's file for the time of a run."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mlflow_server.tracking import Tracker
from search.delivery import Delivery, Receiver
from search.ledger import Event
from search.optuna_mirror import OptunaMirror
from search.study_config import StudyConfig
from search.study_folder import StudyFolder
from search.tracking_receiver import TrackingReceiver

LOG = logging.getLogger(__name__)


@contextmanager
def delivered(study: StudyConfig, folder: StudyFolder) -> Iterator[Delivery]:
    """Deliver the ledger's events while the block runs, and what is left at its end.

    Raises:
        TrackingError: the tracker cannot be used at the start; later failures only delay the delivery.
    """
    connect_tracker(study, folder)

    def connect(told: Sequence[Event]) -> list[Receiver]:
        tracker = connect_tracker(study, folder)
        return [TrackingReceiver(tracker, folder, told), OptunaMirror(folder, study.pruning, told)]

    delivery = Delivery(folder, connect)
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


def connect_tracker(study: StudyConfig, folder: StudyFolder) -> Tracker:
    """Open the study's tracker: the one it names, or the embedded store."""
    experiment = study.tracking.experiment or study.name
    if study.tracking.uri:
        return Tracker(study.tracking.uri, experiment)
    folder.storage.mkdir(parents=True, exist_ok=True)
    return Tracker(folder.tracking_uri, experiment, folder.artifacts)
