"""Durable reports per second: our ledger against Optuna's journal file and SQLite.

With one reporter each report is synced alone. Of many trials that report at once our driver writes all that have
arrived with one sync before it answers any of them (`dispatcher.Dispatcher`, `desk.Desk.together`), as the loop here
does; Optuna's storages are called from a thread per trial, as `Study.optimize(n_jobs=...)` does. In both a trial waits
for its report to be durable before it sends the next.
"""

import queue
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
from optuna.storages.journal import JournalFileBackend

from scripts.benchmarks.row import Row
from search import ledger

GOALS = {"journal": 3.0, "sqlite": 20.0}
MANY = 64
METRIC = "val/auroc/macro"

Curves = list[dict[int, float]]
"""Value by epoch, of each trial."""


def run(*, quick: bool) -> list[Row]:
    """Report the same values through each, read them back, compare."""
    repetitions = 1 if quick else 3
    return [
        *_compare("", _curves(1, 100 if quick else 400), repetitions),
        *_compare(f", {MANY} trials at once", _curves(MANY, 4 if quick else 25), repetitions),
    ]


def _compare(circumstances: str, curves: Curves, repetitions: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = _median(lambda i: _ledger(folder / f"ours{i}.jsonl", curves), repetitions)
        peers = {
            "journal": _median(lambda i: _optuna(_journal(folder / f"journal{i}"), curves), repetitions),
            "sqlite": _median(lambda i: _optuna(_sqlite(folder / f"optuna{i}.db"), curves), repetitions),
        }
    return [
        Row(
            f"durable reports/s against Optuna's {peer}{circumstances}",
            ours,
            rate,
            ours / rate,
            f">= {GOALS[peer]:g}",
            ours / rate >= GOALS[peer],
        )
        for peer, rate in peers.items()
    ]


def _ledger(path: Path, curves: Curves) -> float:
    with ledger.Ledger(path) as opened:
        if len(curves) == 1:
            rate = _rate(curves, lambda trial, epoch, value: opened.append(_event(trial, epoch, value)))
        else:
            rate = _through_driver(opened, curves)
    told: Curves = [{} for _ in curves]
    for event in ledger.read(path).events:
        told[event["trial"]][event["epoch"]] = event["metrics"][METRIC]
    _check(told, curves)
    return rate


def _through_driver(opened: ledger.Ledger, curves: Curves) -> float:
    """Let one thread write what all the others report."""
    arrived: queue.SimpleQueue[tuple[ledger.Event, threading.Semaphore] | None] = queue.SimpleQueue()
    answers = [threading.Semaphore(0) for _ in curves]

    def drive() -> None:
        while (first := arrived.get()) is not None:
            waiting = [first, *(item for _ in range(arrived.qsize()) if (item := arrived.get()) is not None)]
            opened.append(*(event for event, _ in waiting))
            for _, answer in waiting:
                answer.release()

    def report(trial: int, epoch: int, value: float) -> None:
        arrived.put((_event(trial, epoch, value), answers[trial]))
        answers[trial].acquire()

    driver = threading.Thread(target=drive)
    driver.start()
    try:
        return _rate(curves, report)
    finally:
        arrived.put(None)
        driver.join()


def _event(trial: int, epoch: int, value: float) -> ledger.Event:
    return {"kind": "epoch", "trial": trial, "epoch": epoch, "metrics": {METRIC: value}}


def _journal(path: Path) -> optuna.storages.BaseStorage:
    return optuna.storages.JournalStorage(JournalFileBackend(str(path)))


def _sqlite(path: Path) -> optuna.storages.BaseStorage:
    # What Optuna's FAQ says to do where several threads meet in one file.
    return optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 100}})


def _optuna(storage: optuna.storages.BaseStorage, curves: Curves) -> float:
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [study.ask() for _ in curves]
    rate = _rate(curves, lambda trial, epoch, value: trials[trial].report(value, epoch))
    _check([trial.intermediate_values for trial in study.get_trials()], curves)
    return rate


def _rate(curves: Curves, report: Callable[[int, int, float], None]) -> float:
    """Return reports per second, each trial reporting from a thread of its own if there are several."""

    def tell(trial: int) -> None:
        for epoch, value in curves[trial].items():
            report(trial, epoch, value)

    number = sum(len(curve) for curve in curves)
    if len(curves) == 1:
        began = time.perf_counter()
        tell(0)
        return number / (time.perf_counter() - began)
    with ThreadPoolExecutor(len(curves)) as threads:
        list(threads.map(lambda _: time.sleep(0.05), curves))  # so that they are there when the clock starts
        began = time.perf_counter()
        list(threads.map(tell, range(len(curves))))
        return number / (time.perf_counter() - began)


def _curves(trials: int, reports: int) -> Curves:
    return [{epoch: (trial + epoch / reports) / trials for epoch in range(reports)} for trial in range(trials)]


def _check(told: Curves, curves: Curves) -> None:
    if told != curves:
        raise RuntimeError("what was reported is not what is stored")


def _median(measure: Callable[[int], float], repetitions: int) -> float:
    return statistics.median(measure(i) for i in range(repetitions))
