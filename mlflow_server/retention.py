"""Which runs may go: deleted ones past their time, unless a champion, a winner or a promotion rests on them."""

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Run, ViewType
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mlflow_server.errors import PromotionError, TrackingError
from mlflow_server.history import PROMOTIONS, History, entry_of
from mlflow_server.registry import ENTRY

DAY_MS = 86_400_000
PAGE = 1000
RUN = re.compile(r"(?<![\w-])[0-9a-f]{32}(?!\w)")
LOGGED_MODEL = re.compile(r"(?<![\w-])m-[0-9a-f]{32}(?!\w)")
"""How runs and logged models are named in a place of artifacts."""


@dataclass(frozen=True, slots=True)
class Retention:
    """What is kept and what may go, by run."""

    removable: tuple[str, ...]
    kept: dict[str, str]
    """Why a run that is old and deleted stays all the same."""


def judge(uri: str, *, days: float, storage: Path | None = None) -> Retention:
    """Look through all deleted runs of a server.

    Args:
        uri: MLflow tracking URI.
        storage: folder that the histories of promotions lie in; None: the registry's mirror is all there is.
        days: a run that was deleted within these stays, and so does one that ended within them (or began, if it never
            ended).

    Raises:
        TrackingError: `days` is not between 0 and the days since 1970, or a history is damaged, so that nobody knows
            which runs it cites.
    """
    if not 0 <= days * DAY_MS < time.time_ns() // 1_000_000:
        raise TrackingError(f"{days:g} days: expected 0 or more, back to 1970 at most")
    client = MlflowClient(uri)
    due = set(client._tracking_client.store._get_deleted_runs(older_than=int(days * DAY_MS)))  # no run tells it
    cited = _cited(client, storage)
    oldest = time.time_ns() // 1_000_000 - days * DAY_MS
    removable, kept = [], {}
    for run in _deleted(client):
        identity = run.info.run_id
        if identity not in due or (run.info.end_time or run.info.start_time) > oldest:
            continue
        reason = cited.get(identity) or (
            "winner of its cell" if run.data.tags.get("radsweep.winner") == "true" else None
        )
        if reason is None:
            removable.append(identity)
        else:
            kept[identity] = reason
    return Retention(tuple(removable), kept)


def _cited(client: MlflowClient, storage: Path | None) -> dict[str, str]:
    """Return why a run is needed, for every run behind a version of a registered model or in a history."""
    cited: dict[str, str] = {}
    token: str | None = ""
    while token is not None:
        page = client.search_model_versions(max_results=PAGE, page_token=token or None)
        for version in page:
            cited |= dict.fromkeys(_runs_of(client, version), f"version {version.version} of {version.name}")
            for key, value in version.tags.items():
                # Whoever may write to the registry may set such a tag; what is no entry of its version cites nothing.
                entry = entry_of(value, str(version.version)) if key.startswith(ENTRY) else None
                if entry is not None and isinstance(run := entry.get("run_id"), str):
                    cited.setdefault(run, f"cited by a promotion of {version.name}")
        token = page.token or None
    cited = {**_in_histories(storage), **cited} if storage is not None else cited
    return {**_studies_of(client, cited), **cited}


def _in_histories(storage: Path) -> dict[str, str]:
    """Return why a run is needed, for every run in a history: its mirror is gone with the version that bore it."""
    cited: dict[str, str] = {}
    for path in sorted((storage / PROMOTIONS).glob("*.jsonl")):
        try:
            entries = History(storage, path.stem).read()
        except (PromotionError, OSError) as problem:
            raise TrackingError(
                f"{path} cannot be read, and a run that it cites would be lost: {problem}; if nothing in it counts, "
                "move it away"
            ) from problem
        runs = (run for entry in entries if isinstance(run := entry.get("run_id"), str))
        cited |= dict.fromkeys(runs, f"cited by a promotion of {path.stem}")
    return cited


def _runs_of(client: MlflowClient, version: ModelVersion) -> set[str]:
    """Return the run of a version and those that its files lie in: whoever registers a place need not say a run."""
    runs = {version.run_id, *RUN.findall(version.source or "")}
    for model in LOGGED_MODEL.findall(version.source or ""):
        with suppress(MlflowException):  # a model that is gone lies in no run
            runs.add(client.get_logged_model(model).source_run_id)
    return {run for run in runs if run}


def _studies_of(client: MlflowClient, cited: Mapping[str, str]) -> dict[str, str]:
    """Return the runs of the studies that the runs come from: a study's run has the report."""
    studies: dict[str, str] = {}
    for run, reason in cited.items():
        with suppress(MlflowException):  # a run that is gone has no study any more
            if study := client.get_run(run).data.tags.get(MLFLOW_PARENT_RUN_ID):
                studies[study] = f"study of {reason}"
    return studies


def every_experiment(client: MlflowClient) -> list[str]:
    """Return the experiments of a server, deleted ones included."""
    found: list[str] = []
    token: str | None = ""
    while token is not None:
        page = client.search_experiments(view_type=ViewType.ALL, max_results=PAGE, page_token=token or None)
        found += [experiment.experiment_id for experiment in page]
        token = page.token or None
    return found


def _deleted(client: MlflowClient) -> list[Run]:
    experiments = every_experiment(client)
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs(experiments, run_view_type=ViewType.DELETED_ONLY, max_results=PAGE, page_token=token)
        found += page
        token = page.token
        if not token:
            return found
