"""Wall-clock of a search with real training, against the ideal: the same trainings, nothing else.

The ideal is measured, not computed, since trainings at once slow each other on a shared machine: a bare pool of as many
processes as there are slots carries out the same trials. Ours is the time from the first assignment of a trial to the
last end, with scheduling, ledger, pruner and delivery to MLflow in it; Ray's own start is left out. Both start their
processes inside that time, imports of torch included: they cost the same handful of seconds each, and a user waits for
them either way. A trial takes about half a minute here, which is short; with `--quick` it takes two seconds, and that
handful is most of what the rows show.

One row has as many slots as CPUs, so that driver, tracker and Ray's own processes take turns with the trainings; the
other leaves a CPU for them, as a machine does whose slots are its GPUs.
"""

import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from scripts.benchmarks.row import Row

GOAL = 1.08
REPETITIONS = 3
LEARNING_RATES = (1e-3, 3e-4, 1e-4, 3e-5)


def run(*, quick: bool) -> list[Row]:
    """Search, then train the same trials in a pool, and check that both came to the same values."""
    cpus = os.cpu_count() or 1
    rows = [_row(cpus, f"on all {cpus} CPUs", quick=quick)]
    if cpus > 1:
        rows.append(_row(cpus - 1, f"on {cpus - 1} of {cpus} CPUs", quick=quick))
    return rows


def _row(slots: int, where: str, *, quick: bool) -> Row:
    trials = 4 * slots
    ratios = []
    for _ in range(1 if quick else REPETITIONS):
        with tempfile.TemporaryDirectory() as name:
            ours, values, orders = _search(Path(name), slots, patients=96 if quick else 288, epochs=8 if quick else 30)
            ideal, expected = _pool(orders, slots)
        if values != expected:
            raise RuntimeError("the search and the pool trained to different values")
        ratios.append((ours / ideal, ours, ideal))
    ratio, ours, ideal = sorted(ratios)[len(ratios) // 2]
    told = f"seconds of a search of {trials} trials {where}, against the bare trainings"
    return Row(told, ours, ideal, ratio, f"<= {GOAL}", ratio <= GOAL)


def _search(storage: Path, slots: int, *, patients: int, epochs: int) -> tuple[float, dict[str, float], list[str]]:
    """Run four trials a slot; return seconds, best value by trial, and the trials as work orders for new folders."""
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
            "search": {"learning_rate": list(LEARNING_RATES)},
            "seeds": list(range(slots)),
            "data": {"phantom": {"patients": patients, "size": 64}},
            "recipe": {"epochs": epochs, "batch_size": 16},
            "pruning": {"pruner": "none"},
            "evaluation": {"redraws": 100},
        }
    )
    state = run_study(study, Machine(storage, cpus=slots), LineProgress(Console(quiet=True)))
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


def _pool(orders: list[str], slots: int) -> tuple[float, dict[str, float]]:
    context = multiprocessing.get_context("spawn")
    began = time.perf_counter()
    with context.Pool(slots) as pool:
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
