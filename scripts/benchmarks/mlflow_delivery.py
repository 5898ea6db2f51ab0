"""Milliseconds per epoch of 22 metrics into MLflow's SQLite store: our tracker against Ray's MLflow callback.

Ours is timed as the driver meets it: from a ledger with a backlog, delivered in batches.
"""

import importlib
import logging
import tempfile
import time
from pathlib import Path
from typing import ClassVar

from mlflow.tracking import MlflowClient

from mlflow_server.tracking import Measurement, RunDescription, Tracker
from scripts.benchmarks._metrics_of_epochs import METRICS, Rows, stored, values
from scripts.benchmarks.row import Row

GOAL = 30.0


def run(*, quick: bool) -> list[Row]:
    """Deliver the same epochs through both and compare every stored row."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    epochs = 5 if quick else 30
    with tempfile.TemporaryDirectory() as name:
        uri = f"sqlite:///{name}/mlflow.db"
        ours, our_rows = _ours(uri, epochs, Path(name))
        peer, peer_rows = _ray(uri, epochs)
    if our_rows != peer_rows:
        raise RuntimeError("both trackers must store the same metrics")
    ratio = peer / ours
    return [
        Row(
            f"ms per epoch of {METRICS} metrics into MLflow, backlog of {epochs}",
            ours,
            peer,
            ratio,
            f">= {GOAL:g}",
            ratio >= GOAL,
        )
    ]


class _Trial:
    """As much of a Ray trial as its MLflow callback reads."""

    config: ClassVar[dict[str, str]] = {}
    trial_id = "t"
    local_path = None

    def __str__(self) -> str:
        return "t"


def _ours(uri: str, epochs: int, folder: Path) -> tuple[float, Rows]:
    tracker = Tracker(uri, "ours", folder / "artifacts")
    tracker.open(RunDescription("t", "t", 0))
    began = time.perf_counter()
    tracker.log("t", [Measurement(epoch, 1000 + epoch, values(epoch)) for epoch in range(epochs)])
    milliseconds = (time.perf_counter() - began) * 1000 / epochs
    return milliseconds, stored(uri, tracker.run_id("t"))


def _ray(uri: str, epochs: int) -> tuple[float, Rows]:
    importlib.import_module("search.ray_cluster")  # before Ray: it sets what Ray reads, for the benchmarks after this
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    callback = MLflowLoggerCallback(tracking_uri=uri, experiment_name="ray")
    callback.setup()
    trial = _Trial()
    callback.log_trial_start(trial)
    began = time.perf_counter()
    for epoch in range(epochs):
        callback.log_trial_result(
            epoch, trial, {**values(epoch), "training_iteration": epoch, "timesteps_total": epoch}
        )
    milliseconds = (time.perf_counter() - began) * 1000 / epochs
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("ray")
    found = client.search_runs([experiment.experiment_id])[0]
    return milliseconds, stored(uri, found.info.run_id)
