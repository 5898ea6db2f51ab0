"""Studies and trials as MLflow runs, written by the driver alone and safe to write again.

Every call can be repeated after a crash: a run is found by its tag before it is created, and a metric told
again with its own timestamp is the same row (MLflow's key is run, name, timestamp, step and value).
"""

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from mlflow_server.errors import TrackingError
from mlflow_server.known_runs import IDENTITY_TAG, ORIGIN_TAG, KnownRuns
from mlflow_server.reach import reach, without_password

os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines for every run that ends

KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Without it MLflow's UI takes an experiment for one of language models and hides its runs."""

METRICS_A_BATCH = 1000
PARAMS_A_BATCH = 100
PARAM_CHARACTERS = 6000
"""Limits of MLflow's log_batch."""


@dataclass(frozen=True, slots=True)
class RunDescription:
    """What a run is created with."""

    identity: str
    name: str
    start_ms: int
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    dataset: str | None = None
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """Scalars of one event, with the event's own time."""

    step: int
    timestamp_ms: int
    metrics: Mapping[str, float]


class Tracker:
    """One study's runs: a parent run and a child run for every trial.

    Args:
        uri: MLflow tracking URI.
        experiment: name of the experiment; created where it is missing.
        artifacts: folder for the artifacts of a new experiment; None leaves the choice to the server.
        origin: whose runs these are, see `known_runs.ORIGIN_TAG`.

    Raises:
        TrackingError: the server does not answer or refuses.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path | None = None, *, origin: str | None = None):
        self._client = MlflowClient(tracking_uri=uri)
        self._origin = {} if origin is None else {ORIGIN_TAG: origin}
        try:
            reach(uri)
            self._experiment = _experiment(self._client, experiment, artifacts)
            self._runs = KnownRuns(self._client, self._experiment, origin)
        except (MlflowException, OSError, TrackingError) as problem:
            raise TrackingError(
                f"tracking.uri: MLflow at {without_password(uri)} cannot be used: "
                f"{without_password(_first_line(problem))}. {_way_out(problem)}"
            ) from problem

    def knows(self, identity: str) -> bool:
        """Whether MLflow has, or had, a run of a study or trial."""
        return self._runs.find(identity) is not None

    def run_id(self, identity: str) -> str:
        """Return the MLflow run of a study or trial.

        Raises:
            TrackingError: there is none, or somebody deleted it.
        """
        if identity in self._runs.deleted:
            raise TrackingError(
                f"{identity}: its run {self._runs.deleted[identity]} is deleted in MLflow; restore it there, as a "
                "registered model cites it"
            )
        if identity not in self._runs.active:
            raise TrackingError(f"{identity}: MLflow has no run of it, which a registered model would cite")
        return self._runs.active[identity]

    def open(self, run: RunDescription, *, parent: str | None = None) -> None:
        """Create a run unless it is there, below the run of `parent`; restore it if it was deleted."""
        self._runs.restore(run.identity)
        if run.identity in self._runs.active:
            if run.identity in self._runs.closed:
                self.reopen(run.identity)
            self._describe(run, known=self._client.get_run(self._runs.active[run.identity]).data.params)
            return
        tags = {**run.tags, **self._origin, IDENTITY_TAG: run.identity, MLFLOW_RUN_NAME: run.name}
        if parent is not None and (parent_run := self._runs.find(parent)) is not None:
            tags[MLFLOW_PARENT_RUN_ID] = parent_run
        created = self._client.create_run(self._experiment, start_time=run.start_ms, tags=tags)
        self._runs.active[run.identity] = created.info.run_id
        self._describe(run, known={})

    def reopen(self, identity: str) -> None:
        """Set a closed run to RUNNING again, and restore it if it was deleted."""
        self._runs.restore(identity)
        if identity in self._runs.active:
            self._client.update_run(self._runs.active[identity], status="RUNNING")
            self._runs.closed.discard(identity)

    def rename(self, identity: str, name: str, *, instead_of: str) -> None:
        """Give a run another name; one that somebody gave it by hand stays."""
        run_id = self._runs.active.get(identity)
        if run_id is not None and self._client.get_run(run_id).info.run_name == instead_of:
            self._client.update_run(run_id, name=name)

    def log_params(self, identity: str, params: Mapping[str, Any]) -> None:
        """Record parameters; the same ones again change nothing."""
        rows = [Param(key, "" if value is None else str(value)[:PARAM_CHARACTERS]) for key, value in params.items()]
        for start in range(0, len(rows), PARAMS_A_BATCH):
            self._log_batch(identity, params=rows[start : start + PARAMS_A_BATCH])

    def log(self, identity: str, measurements: Sequence[Measurement]) -> None:
        """Record the scalars of any number of events in as few requests as MLflow allows."""
        rows = [
            Metric(key, value, measured.timestamp_ms, measured.step)
            for measured in measurements
            for key, value in measured.metrics.items()
            if math.isfinite(value)
        ]
        for start in range(0, len(rows), METRICS_A_BATCH):
            # The newest first: MLflow overwrites the latest of a name with every one that is newer.
            batch = rows[start : start + METRICS_A_BATCH][::-1]
            self._log_batch(identity, metrics=batch)

    def tag(self, identity: str, tags: Mapping[str, Any]) -> None:
        """Set tags of a run."""
        rows = [RunTag(key, str(value)) for key, value in tags.items()]
        self._log_batch(identity, tags=rows)

    def finish(self, identity: str, status: str, end_ms: int) -> None:
        """Close a run with MLflow's status FINISHED, FAILED or KILLED at the event's own time."""
        if identity in self._runs.active:
            self._client.set_terminated(self._runs.active[identity], status=status, end_time=end_ms)
            self._runs.closed.add(identity)

    def log_artifacts(self, identity: str, folder: Path, artifact_path: str | None = None) -> None:
        """Copy a folder to the run's artifacts, without the hidden files that a killed writer may have left there."""
        if identity not in self._runs.active:
            return
        for path in sorted(path for path in folder.rglob("[!.]*") if path.is_file()):
            place = PurePosixPath(artifact_path or "", *path.parent.relative_to(folder).parts)
            self._client.log_artifact(self._runs.active[identity], str(path), str(place) if place.parts else None)

    def replace_artifacts(self, identity: str, folder: Path, artifact_path: str) -> None:
        """Copy a folder to the run's artifacts, and remove what an earlier copy had and this one has not.

        A server may keep its users from deleting: then the earlier files stay.
        """
        if identity not in self._runs.active:
            return
        self.log_artifacts(identity, folder, artifact_path)
        run = self._client.get_run(self._runs.active[identity])
        there = get_artifact_repository(run.info.artifact_uri, tracking_uri=self._client.tracking_uri)
        for stale in self._files(run.info.run_id, artifact_path):
            if not (folder / stale.relative_to(artifact_path)).is_file():
                with suppress(MlflowException, OSError):
                    there.delete_artifacts(str(stale))

    def _files(self, run_id: str, artifact_path: str) -> Iterator[PurePosixPath]:
        for found in self._client.list_artifacts(run_id, artifact_path):
            if found.is_dir:
                yield from self._files(run_id, found.path)
            else:
                yield PurePosixPath(found.path)

    def _describe(self, run: RunDescription, *, known: Mapping[str, str]) -> None:
        """Record what a driver that died after it created the run did not; MLflow takes a parameter only once."""
        self.log_params(run.identity, {key: value for key, value in run.params.items() if key not in known})
        if run.dataset is not None:
            self._log_dataset(run)

    def _log_dataset(self, run: RunDescription) -> None:
        # The digest is cut to MLflow's 36 characters; the tag on the run keeps the whole fingerprint.
        dataset = Dataset(
            name=str(run.dataset),
            digest=str(run.fingerprint)[:36],
            source_type="radsweep",
            source=f'{{"source": "{run.dataset}"}}',
        )
        tags = [InputTag(key="mlflow.data.context", value="training")]
        self._client.log_inputs(self._runs.active[run.identity], [DatasetInput(dataset, tags)])

    def _log_batch(self, identity: str, **rows: Any) -> None:
        if identity in self._runs.active:
            self._client.log_batch(self._runs.active[identity], **rows)


def _experiment(client: MlflowClient, name: str, artifacts: Path | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage == "deleted":
            raise TrackingError(
                f"experiment {name!r} is deleted in MLflow; restore it or name another in tracking.experiment"
            )
        return str(found.experiment_id)
    location = (artifacts / _folder_name(name)).resolve().as_uri() if artifacts is not None else None
    try:
        return str(client.create_experiment(name, artifact_location=location, tags=KIND))
    except MlflowException:
        # Another driver may have created it in between.
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)


def _folder_name(experiment: str) -> str:
    """Return the name of a folder for an experiment, which may be called `/Users/anna/chest` or `chest #2`.

    Several may share one: their runs have folders of their own.
    """
    return re.sub(r"[^\w.-]+", "_", experiment).strip(".") or "_"


def _way_out(problem: Exception) -> str:
    """Say what can be done about a server that cannot be used."""
    if isinstance(problem, MlflowException) and problem.get_http_status_code() == HTTPStatus.UNAUTHORIZED:
        return "Log in: its user and password are read from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    return "Start a server with `python -m mlflow_server start`, or leave tracking.uri out to use the embedded store"


def _first_line(problem: BaseException) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0]
