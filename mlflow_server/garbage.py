"""Deletes for good what `retention` lets go: the rows and artifacts of deleted runs, and what checks leave.

`mlflow gc --run-ids` would purge every deleted experiment as well. The same steps of MLflow's store are taken here, run
by run: artifacts first, so that an interrupted collection finds the run again and goes on.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit

from mlflow.entities import LifecycleStage, LoggedModel, Run, ViewType
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking import MlflowClient

from mlflow_server import backup_database, restoring, retention
from mlflow_server.check import OWN_EXPERIMENT
from mlflow_server.errors import TrackingError
from mlflow_server.server_config import ServerConfig

PROXIED = "mlflow-artifacts"
"""Scheme of artifacts that the server itself keeps."""


@dataclass(frozen=True, slots=True)
class Collection:
    """What was done, or would be, by run.

    Attributes:
        collected: runs that are gone.
        kept: runs that were deleted long ago and stay, and why.
    """

    collected: tuple[str, ...]
    kept: dict[str, str]


def collect(
    config: ServerConfig, *, days: float, dry_run: bool = False, told: Callable[[str], None] = lambda _: None
) -> Collection:
    """Delete what may go.

    Args:
        config: of the server, which may go on meanwhile.
        days: runs that were deleted or ended within these stay.
        dry_run: look, and change nothing.
        told: is called with every run once it is gone.

    Raises:
        TrackingError: the database or the artifacts cannot be reached, or a history of promotions is damaged.
    """
    restoring.refuse_half_restored(config.folder)
    backup_database.refuse_if_away(config)
    found = retention.judge(config.backend, days=days, storage=config.folder)
    client, kept, collected = MlflowClient(config.backend), dict(found.kept), []
    store = SqlAlchemyStore(config.backend, config.destination)
    for identity in found.removable:
        run = client.get_run(identity)
        places = {model.model_id: model.artifact_location for model in _models(client, run)}
        try:
            targets = [place_of(uri, config.destination) for uri in (*places.values(), run.info.artifact_uri)]
        except TrackingError as problem:
            kept[identity] = str(problem)
            continue
        if run.info.lifecycle_stage != LifecycleStage.DELETED:  # restored by somebody in the meantime
            continue
        if not dry_run:
            for target in targets:
                _delete(target)
            for model in places:
                store.delete_logged_model(model)
                store._hard_delete_logged_model(model)
            store._hard_delete_run(identity)
            told(identity)
        collected.append(identity)
    if not dry_run:
        _delete_experiments_of_checks(client, store)
    return Collection(tuple(collected), kept)


def place_of(uri: str, destination: str) -> str:
    """Return where a run's artifacts lie, as the server sees it.

    Args:
        uri: of the artifacts, as the database has it; a user may have chosen it.
        destination: where this server keeps artifacts.

    Raises:
        TrackingError: it is not below `destination`; what lies elsewhere is not this server's to delete.
    """
    parts, root = urlsplit(uri), urlsplit(destination)
    base = PurePosixPath(unquote(root.path) or "/")
    path = PurePosixPath(unquote(parts.path))
    if parts.scheme == PROXIED:
        path = base / str(path).lstrip("/")
        parts = parts._replace(scheme=root.scheme, netloc=root.netloc)
    inside = base in path.parents and ".." not in path.parts
    plain = not (parts.query or parts.fragment)  # MLflow would leave these out, and delete what lies above
    if not (inside and plain) or (parts.scheme or "file", parts.netloc) != (root.scheme, root.netloc):
        raise TrackingError("its artifacts are not below this server's folder; nothing of it was deleted")
    return f"{root.scheme}://{root.netloc}{quote(str(path)) if root.scheme == 'file' else path}"


def _models(client: MlflowClient, run: Run) -> list[LoggedModel]:
    """Return the models that were logged to a run, to whichever experiment; none is registered, or it would be kept."""
    wanted = f"source_run_id = '{run.info.run_id}'"
    return list(client.search_logged_models(retention.every_experiment(client), filter_string=wanted))


def _delete_experiments_of_checks(client: MlflowClient, store: SqlAlchemyStore) -> None:
    """Delete for good what `check` has deleted, once its run is gone: every check leaves an experiment otherwise."""
    checks = f"name LIKE '{OWN_EXPERIMENT}%'"
    for experiment in client.search_experiments(view_type=ViewType.DELETED_ONLY, filter_string=checks):
        if not client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL, max_results=1):
            store._hard_delete_experiment(experiment.experiment_id)


def _delete(target: str) -> None:
    parts = urlsplit(target)
    try:
        if parts.scheme != "file":
            get_artifact_repository(target).delete_artifacts()
        elif (folder := Path(unquote(parts.path))).exists():  # MLflow takes %-signs in the name of a folder for quotes
            shutil.rmtree(folder)
    except Exception as problem:  # any: each kind of store has exceptions of its own
        raise TrackingError(f"artifacts cannot be deleted: {type(problem).__name__}: {problem}") from problem
