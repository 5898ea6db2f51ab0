"""Durable metrics per second into MLflow's databases, and what a SIGKILL loses: our delivery against MLflow's calls.

Ours is timed as the driver does it: every epoch is synced to the ledger before the next one, and the delivery thread
tells MLflow; the clock stops when MLflow has all. MLflow's `log_metric` and its asynchronous logging write the same
metrics of the same runs, one call a metric, as their users do. Rates are medians of repetitions in turn.
"""

import multiprocessing
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from mlflow_server.tracking import Measurement, RunDescription, Tracker
from scripts.benchmarks._metrics_of_epochs import METRICS, stored, values
from scripts.benchmarks.row import Row
from scripts.services import NoPostgresError, postgresql
from search import delivery, ledger
from search.delivery import Delivery
from search.study_folder import StudyFolder

GOAL, RATE = 50.0, 5000.0


def run(*, quick: bool) -> list[Row]:
    """Measure on SQLite and, where it is installed, on PostgreSQL."""
    sizes = (200, 2, 1) if quick else (3000, 20, 3)
    with tempfile.TemporaryDirectory() as name:
        rows = _rows("SQLite", f"sqlite:///{name}/mlflow.db", Path(name) / "sqlite", sizes)
        try:
            with postgresql() as (_, uri):
                there = uri.replace("postgresql:", "postgresql+psycopg:")
                rows += _rows("PostgreSQL", there, Path(name) / "postgresql", sizes)
        except NoPostgresError:
            pass  # one database less
    return rows


def _rows(kind: str, uri: str, folder: Path, sizes: tuple[int, int, int]) -> list[Row]:
    epochs, calls, repetitions = sizes
    rates: dict[str, list[float]] = {"ours": [], "log_metric": [], "asynchronous logging": []}
    for index in range(repetitions):
        rates["ours"].append(_our_rate(uri, folder / f"timed-{index}", epochs))
        rates["log_metric"].append(_peer_rate(uri, f"log-metric-{index}", calls, synchronous=True))
        rates["asynchronous logging"].append(_peer_rate(uri, f"asynchronous-{index}", calls, synchronous=False))
    ours, *peers = (statistics.median(of_one) for of_one in rates.values())
    found = []
    for peer, rate in zip(list(rates)[1:], peers, strict=True):
        what = f"durable metrics/s into {kind}, against {peer}"
        met = ours >= RATE and ours / rate >= GOAL
        found.append(Row(what, ours, rate, ours / rate, f">= {RATE:g}/s and >= {GOAL:g}x", met))
    lost, lost_by_peer = _lost_ours(uri, folder), _lost_by_peer(uri)
    what = f"acknowledged metrics lost to a SIGKILL, {kind}, against asynchronous logging"
    return [*found, Row(what, lost, lost_by_peer, lost / max(lost_by_peer, 1), "0", lost == 0)]


class _ToTracker:
    """Receives the ledger's epochs."""

    def __init__(self, tracker: Tracker):
        self._tracker = tracker

    def receive(self, events: Sequence[ledger.Event]) -> None:
        """Log a run of epochs."""
        told = [Measurement(e["epoch"], 1000 + e["epoch"], e["metrics"]) for e in events]
        self._tracker.log("t", told)


def _tracker(uri: str, experiment: str) -> Tracker:
    tracker = Tracker(uri, experiment)
    tracker.open(RunDescription("t", "t", 0))
    return tracker


def _deliver(uri: str, place: Path, epochs: int) -> None:
    """Write epochs to a ledger while a thread delivers them, until all are there."""
    folder = StudyFolder(place, "s")
    folder.path.mkdir(parents=True)
    told = Delivery(folder, lambda _: [_ToTracker(_tracker(uri, place.name))])
    told.start()
    with ledger.Ledger(folder.ledger) as opened:
        for epoch in range(epochs):
            opened.append({"kind": "epoch", "epoch": epoch, "metrics": values(epoch)})
            told.notify()
    if told.finish():
        raise RuntimeError("not everything was delivered")


def _our_rate(uri: str, place: Path, epochs: int) -> float:
    run_id = _tracker(uri, place.name).run_id("t")  # made before, as the peer's run is
    began = time.perf_counter()
    _deliver(uri, place, epochs)
    rate = epochs * METRICS / (time.perf_counter() - began)
    if stored(uri, run_id) != {(key, e, value) for e in range(epochs) for key, value in values(e).items()}:
        raise RuntimeError("what was delivered is not what is stored")
    return rate


def _peer_rate(uri: str, experiment: str, epochs: int, *, synchronous: bool) -> float:
    client = MlflowClient(uri)
    run_id = _tracker(uri, experiment).run_id("t")
    began = time.perf_counter()
    _log_one_by_one(client, run_id, epochs, synchronous=synchronous)
    rate = epochs * METRICS / (time.perf_counter() - began)
    if len(stored(uri, run_id)) != epochs * METRICS:
        raise RuntimeError("the peer did not store what it was told")
    return rate


def _log_one_by_one(client: MlflowClient, run_id: str, epochs: int, *, synchronous: bool) -> None:
    pending = [
        client.log_metric(run_id, key, value, timestamp=1000 + epoch, step=epoch, synchronous=synchronous)
        for epoch in range(epochs)
        for key, value in values(epoch).items()
    ]
    for operation in [] if synchronous else pending:
        operation.wait()


def _lost_ours(uri: str, folder: Path) -> int:
    """Kill a driver amid its epochs, let the next one go on, and count what it had acknowledged and is not there."""
    place = folder / "killed"
    run_id = _tracker(uri, place.name).run_id("t")
    _killed(_deliver_for_ever, (uri, place), lambda: len(_acknowledged(place)) >= 200)
    acknowledged = {(key, e["epoch"], v) for e in _acknowledged(place) for key, v in e["metrics"].items()}
    again = Delivery(StudyFolder(place, "s"), lambda _: [_ToTracker(_tracker(uri, place.name))])
    again.start()
    again.finish()
    return len(acknowledged - stored(uri, run_id))


def _deliver_for_ever(uri: str, place: Path) -> None:
    delivery.SECONDS_TO_GATHER = 0.0  # it is to die amid telling, not before
    _deliver(uri, place, 10**9)


def _acknowledged(place: Path) -> Sequence[ledger.Event]:
    return ledger.read(StudyFolder(place, "s").ledger).events


def _lost_by_peer(uri: str) -> int:
    """Kill a process after its asynchronous calls have returned, and count what is not there."""
    run_id = _tracker(uri, "peer-killed").run_id("t")
    with tempfile.TemporaryDirectory() as name:
        done = Path(name) / "returned"
        _killed(_log_and_say, (uri, run_id, done), done.exists)
    return 200 * METRICS - len(stored(uri, run_id))


def _log_and_say(uri: str, run_id: str, done: Path) -> None:
    client = MlflowClient(uri)
    for epoch in range(200):
        for key, value in values(epoch).items():
            client.log_metric(run_id, key, value, timestamp=1000 + epoch, step=epoch, synchronous=False)
    done.touch()
    time.sleep(600)


def _killed(target: Callable[..., None], words: tuple[Any, ...], due: Callable[[], bool]) -> None:
    process = multiprocessing.get_context("spawn").Process(target=target, args=words)
    process.start()
    while not due():
        if process.exitcode is not None:
            raise RuntimeError("it ended before it could be killed")
        time.sleep(0.02)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
