"""Which trial is which: a hash of the canonical configuration and the data's fingerprint."""

import hashlib
import json

from datasets.dataset_config import DatasetConfig
from search.grid import Grid, Trial
from search.ledger import Event
from search.study_state import StudyState


def key_of(dataset: DatasetConfig) -> str:
    """Name a data configuration: 16 hex digits of sha256 over its JSON, in whatever order the file has its keys."""
    canonical = json.dumps(dataset.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def identified(wanted: Grid, state: StudyState) -> dict[str, Trial]:
    """Return the grid's trials by identity, for data whose fingerprint the ledger knows."""
    known = {key: event["fingerprint"] for key, event in state.datasets.items()}
    return {
        trial.config.identity(known[key]): trial
        for trial in wanted.trials
        if (key := key_of(trial.config.dataset)) in known
    }


def unidentified(wanted: Grid, state: StudyState) -> list[Trial]:
    """Return the other trials: of data that no run has prepared yet."""
    return [trial for trial in wanted.trials if key_of(trial.config.dataset) not in state.datasets]


def entry_event(identity: str, trial: Trial) -> Event:
    """Return the ledger's event that enters a trial."""
    return {
        "kind": "trial",
        "trial": identity,
        "cell": trial.cell.name,
        "axes": dict(trial.cell.axes),
        "searched": dict(trial.searched),
        "seed": trial.seed,
        "config": trial.config.model_dump(mode="json"),
        "dataset_key": key_of(trial.config.dataset),
    }
