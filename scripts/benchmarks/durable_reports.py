"""Durable reports per second: our ledger against Optuna's journal file and SQLite, one report at a time."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.storages.journal import JournalFileBackend

from scripts.benchmarks.row import Row
from search import ledger

GOALS = {"journal": 3.0, "sqlite": 20.0}


def run(*, quick: bool) -> list[Row]:
    """Report the same values through each, read them back, compare."""
    reports = 100 if quick else 400
    repetitions = 1 if quick else 3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = _median(lambda i: _ledger(folder / f"ours{i}.jsonl", reports), repetitions)
        peers = {
            "journal": _median(lambda i: _optuna(_journal(folder / f"journal{i}"), reports), repetitions),
            "sqlite": _median(lambda i: _optuna(f"sqlite:///{folder}/optuna{i}.db", reports), repetitions),
        }
    return [
        Row(
            f"durable reports/s against Optuna's {peer}",
            ours,
            rate,
            ours / rate,
            f">= {GOALS[peer]:g}",
            ours / rate >= GOALS[peer],
        )
        for peer, rate in peers.items()
    ]


def _ledger(path: Path, reports: int) -> float:
    with ledger.Ledger(path) as opened:
        began = time.perf_counter()
        for epoch in range(reports):
            opened.append(
                {"kind": "epoch", "trial": "t", "epoch": epoch, "metrics": {"val/auroc/macro": epoch / reports}}
            )
        rate = reports / (time.perf_counter() - began)
    told = {event["epoch"]: event["metrics"]["val/auroc/macro"] for event in ledger.read(path).events}
    _check(told, reports)
    return rate


def _journal(path: Path) -> optuna.storages.BaseStorage:
    return optuna.storages.JournalStorage(JournalFileBackend(str(path)))


def _optuna(storage: str | optuna.storages.BaseStorage, reports: int) -> float:
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask()
    began = time.perf_counter()
    for epoch in range(reports):
        trial.report(epoch / reports, epoch)
    rate = reports / (time.perf_counter() - began)
    _check(study.get_trials()[0].intermediate_values, reports)
    return rate


def _check(told: dict[int, float], reports: int) -> None:
    if told != {epoch: epoch / reports for epoch in range(reports)}:
        raise RuntimeError("what was reported is not what is stored")


def _median(measure: Callable[[int], float], repetitions: int) -> float:
    return statistics.median(measure(i) for i in range(repetitions))
