"""Wall-clock of a search with real training on two slots, against the ideal: the same trainings, nothing else.

The ideal is measured, not computed, since two trainings at once slow each other on a shared machine: a bare pool of
two processes carries out the same trials. Ours is the time from the first assignment of a trial to the last end, with
scheduling, ledger, pruner and delivery to MLflow in it; Ray's own start is left out. Both start their processes inside
that time, imports of torch included: they cost the same handful of seconds each, and a user waits for them either way.
A trial takes about half a minute here, which is short; with `--quick` it takes two seconds, and that handful is most
of what the row shows.
"""

import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

from scripts.benchmarks.row import Row

SLOTS = 2
GOAL = 1.08


def run(*, quick: bool) -> list[Row]:
    """Search, then train the same trials in a pool, and check that both came to the same values."""
    ratios = []
    for _ in range(1 if quick else 3):
        with tempfile.TemporaryDirectory() as name:
            ours, values, orders = _search(Path(name), patients=96 if quick else 288, epochs=8 if quick else 30)
            ideal, expected = _pool(orders)
        if values != expected:
            raise RuntimeError("the search and the pool trained to different values")
        ratios.append((ours / ideal, ours, ideal))
    ratio, ours, ideal = sorted(ratios)[len(ratios) // 2]
    return [
        Row(
            "seconds of a search of 8 trials on 2 slots, against the bare trainings",
            ours,
            ideal,
            ratio,
            "<= 1.08",
            ratio <= GOAL,
        )
    ]


def _search(storage: Path, *, patients: int, epochs: int) -> tuple[float, dict[str, float], list[str]]:
    """Return seconds, best value by trial, and the trials as work orders for new folders."""
    from rich.console import Console

    from search import ledger
    from search.progress import LineProgress
    from search.study import Machine, run_study
    from search.study_config import StudyConfig
    from search.worker import WorkOrder
    from trainers.trial import Operation, TrialConfig

    study = StudyConfig.model_validate(
        {
            "name": "clock",
            "axes": {"dataset": "phantom", "initialization": "random", "backbone": "test_convnext2", "resolution": 64},
            "search": {"learning_rate": [1e-3, 3e-4, 1e-4, 3e-5]},
            "seeds": [0, 1],
            "data": {"phantom": {"patients": patients, "size": 64}},
            "recipe": {"epochs": epochs, "batch_size": 16},
            "pruning": {"pruner": "none"},
            "evaluation": {"redraws": 100},
        }
    )
    state = run_study(study, Machine(storage, cpus=SLOTS), LineProgress(Console(quiet=True)))
    events = ledger.read(storage / "clock" / "ledger.jsonl").events
    starts = [event["time_ms"] for event in events if event["kind"] == "started"]
    ends = [event["time_ms"] for event in events if event["kind"] == "ended"]
    operation: dict[str, Any] = {
        "data_root": storage / "generated" / "phantom",
        "cache": storage / "cache",
        "key_folder": storage,
    }
    orders = [
        WorkOrder(
            trial=trial,
            config=TrialConfig.model_validate(progress.config),
            operation=Operation(**operation, trial_folder=storage / "pool" / trial),
            until_epoch=epochs,
            told_epochs=0,
        ).model_dump_json()
        for trial, progress in state.trials.items()
    ]
    values = {
        trial: progress.result.best_value
        for trial, progress in state.trials.items()
        if progress.result and progress.result.best_value is not None
    }
    return (max(ends) - min(starts)) / 1000, values, orders


def _pool(orders: list[str]) -> tuple[float, dict[str, float]]:
    context = multiprocessing.get_context("spawn")
    began = time.perf_counter()
    with context.Pool(SLOTS) as pool:
        values = dict(pool.imap_unordered(_train, orders, chunksize=1))
        return time.perf_counter() - began, values


def _train(order: str) -> tuple[str, float]:
    from search.worker import WorkOrder, carry_out
    from trainers.trial import TrialResult

    read = WorkOrder.model_validate_json(order)
    told: list[dict[str, str]] = []
    carry_out(read, told.append)
    best = TrialResult.model_validate_json(told[-1]["result"]).best_value
    return read.trial, float("nan") if best is None else best
