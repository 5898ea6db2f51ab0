"""Seconds that a trial costs beyond its training: no-op trials of five reports.

Ours goes the whole way: schedule, Ray Tune on warm workers, ledger, Optuna decisions, delivery to MLflow. The peer is
stock Ray Tune with its MLflow callback. A plain loop says what the reports themselves cost.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from datasets.dataset_config import DatasetConfig
from scripts.benchmarks.row import Row
from search.desk import Desk
from search.ledger import Ledger
from search.progress import LineProgress
from search.resources import Slot
from search.schedule import Assignment, Entry, Schedule
from search.study_config import StudyConfig
from search.study_delivery import delivered
from search.study_folder import StudyFolder
from search.study_sections import Pruning
from search.worker import WorkOrder
from trainers.trial import EpochMetrics, Operation, TrialConfig, TrialResult, TrialState

REPORTS = 5
GOAL = 0.2
METRIC = "val/score"

CarryOut = Callable[[Schedule, Callable[[Assignment], WorkOrder], Desk], None]


def run(*, quick: bool) -> list[Row]:
    """Run both on two slots and compare what MLflow holds at the end."""
    from search import ray_cluster

    logging.disable(logging.WARNING)
    trials = 6 if quick else 100
    peers = 6 if quick else 30  # stock Tune needs about two seconds each; the figure is per trial
    with tempfile.TemporaryDirectory() as name, ray_cluster.cluster(None, cpus=2):
        ours = _ours(Path(name) / "ours", trials, _through_ray) / trials
        plain = _ours(Path(name) / "plain", trials, _plain_loop) / trials
        peer = _stock(Path(name) / "stock", peers) / peers
    ratio = ours / peer
    return [
        Row(
            "overhead per no-op trial in s, against stock Ray Tune + MLflow", ours, peer, ratio, "<= 0.2", ratio <= GOAL
        ),
        Row("the same, against a plain loop of the same reports", ours, plain, ours / plain, "none", True),
    ]


def report_epochs(config: dict[str, str]) -> None:
    """Train nothing, report five epochs."""
    from ray import tune

    WorkOrder.model_validate_json(config["order"])  # as a worker must
    for told in _epochs():
        tune.report({"epoch": told.model_dump_json()})
    tune.report({"result": _result().model_dump_json()})


def _epochs() -> Iterator[EpochMetrics]:
    for epoch in range(1, REPORTS + 1):
        yield EpochMetrics(epoch=epoch, timestamp_ms=epoch, metrics={METRIC: epoch / REPORTS})


def _result() -> TrialResult:
    return TrialResult(state=TrialState.COMPLETE, epochs=REPORTS, best_epoch=REPORTS, best_value=1.0)


def _plain_loop(schedule: Schedule, _: Callable[[Assignment], WorkOrder], __: Desk) -> None:
    while (assignment := schedule.next()) is not None:
        for told in _epochs():
            schedule.epoch(assignment.trial, told)
        schedule.ended(assignment.trial, _result())


def _through_ray(schedule: Schedule, order: Callable[[Assignment], WorkOrder], desk: Desk) -> None:
    from search import ray_backend

    ray_backend.train_all(
        schedule,
        order=order,
        slot_of=lambda trial: Slot(1),
        after_trial=lambda trial: None,
        together=desk.together,
        trainable=report_epochs,
    )


def _ours(storage: Path, trials: int, carry_out: CarryOut) -> float:
    axes = {"dataset": "none", "initialization": "random", "backbone": "none", "resolution": 32}
    study = StudyConfig.model_validate({"name": "noop", "axes": axes, "pruning": {"pruner": "none"}})
    config = TrialConfig(
        dataset=DatasetConfig(name="none", source="none"),
        initialization="random",
        backbone="none",
        resolution=32,
        recipe={"epochs": REPORTS},
    )
    folder = StudyFolder(storage, "noop")
    place = storage / "nowhere"

    def order(assignment: Assignment) -> WorkOrder:
        return WorkOrder(
            trial=assignment.trial,
            config=config,
            operation=Operation(data_root=place, cache=place, trial_folder=place),
            until_epoch=assignment.until_epoch,
            told_epochs=assignment.told_epochs,
        )

    began = time.perf_counter()
    with Ledger(folder.ledger) as ledger, delivered(study, folder) as delivery:
        desk = Desk(study, ledger, delivery, LineProgress(_silent()))
        with desk.closing():
            entries = [
                Entry(f"t{i}", f"cell{i // 5}", f"cell{i // 5}", {"x": float(i)}, REPORTS) for i in range(trials)
            ]
            desk.record(*_opening(entries))
            schedule = Schedule(entries, state=desk.state, pruning=Pruning(pruner="none"), record=desk.record)
            carry_out(schedule, order, desk)
    seconds = time.perf_counter() - began
    _check(folder.tracking_uri, "noop", trials, METRIC, "tags.`radsweep.level` = 'trial'")
    return seconds


def _stock(storage: Path, trials: int) -> float:
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    def noop(config: dict[str, Any]) -> None:
        for epoch in range(1, REPORTS + 1):
            tune.report({"score": epoch / REPORTS})

    storage.mkdir()
    uri = f"sqlite:///{storage}/mlflow.db"
    callback = MLflowLoggerCallback(tracking_uri=uri, experiment_name="stock")
    began = time.perf_counter()
    tune.Tuner(
        noop,
        param_space={"x": tune.grid_search(list(range(trials)))},
        run_config=tune.RunConfig(name="stock", storage_path=str(storage), verbose=0, callbacks=[callback]),
    ).fit()
    seconds = time.perf_counter() - began
    _check(uri, "stock", trials, "score", "")
    return seconds


def _check(uri: str, experiment: str, trials: int, metric: str, chosen: str) -> None:
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id], chosen, max_results=1000)
    if len(runs) != trials or any(run.data.metrics[metric] != 1.0 for run in runs):
        raise RuntimeError(f"{experiment}: MLflow does not hold {trials} whole runs")


def _opening(entries: list[Any]) -> list[dict[str, Any]]:
    declaration = {"primary_metric": METRIC, "direction": "maximize", "targets": []}
    data = {"kind": "data", "key": "k", "dataset": "none", "fingerprint": "f", "declaration": declaration}
    fields = {"axes": {}, "seed": 0, "config": {}, "dataset_key": "k"}
    trials = [
        {"kind": "trial", "trial": e.trial, "cell": e.cell, "searched": e.searched, **fields, "axes": {"cell": e.cell}}
        for e in entries
    ]
    return [data, *trials]


def _silent() -> Any:
    from rich.console import Console

    return Console(quiet=True)
