"""Where a study stands, from its ledger alone: works from another terminal while a run goes on."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from search import failures, ledger, sampling
from search.budget import Spending
from search.desk import now_ms
from search.errors import StudyError
from search.identity import identified, unidentified
from search.progress import duration
from search.study_config import StudyConfig
from search.study_folder import StudyFolder, is_driven
from search.study_state import StudyState, TrialProgress, name_in_cell
from search.wording import counted

LINES_OF_LOG = 5


def status(study: StudyConfig, storage: Path) -> dict[str, Any]:
    """Fold the ledger and count; a trial is PAUSED while it waits for others of its group, or for the next run.

    Raises:
        StudyError: the study has not been run in this storage.
    """
    folder = StudyFolder(storage, study.name)
    if not folder.ledger.exists():
        raise StudyError(f"{folder.path}: study {study.name} was not run in this storage; another --storage?")
    state = StudyState.of(ledger.read(folder.ledger).events)
    if not is_driven(folder):
        state.close_what_died()  # as the next run will have it
    sign = state.declaration.sign if state.datasets else 1.0
    wanted, coming = sampling.expand(study, state), sampling.to_come(study, state)
    trials = identified(wanted, state)
    rows = []
    for identity, trial in trials.items():
        progress = state.trials.get(identity)
        seconds, gpu_seconds = progress.use.so_far if progress else (0.0, 0.0)
        rows.append(
            {
                "trial": identity,
                "cell": trial.cell.name,
                "searched": dict(trial.searched),
                "seed": trial.seed,
                "state": _state(progress),
                "epochs": len(progress.epochs) if progress else 0,
                "of": trial.config.recipe.epochs,
                "best": progress.judged(sign) if progress else None,
                "reason": progress.reason if progress else "",
                "log": progress.log if progress else [],
                "interrupted": [event["class"] for event in progress.interruptions] if progress else [],
                "seconds": round(seconds, 1),
                "gpu_seconds": round(gpu_seconds, 1),
            }
        )
    return {
        "study": study.name,
        "direction": state.declaration.direction if state.datasets else None,
        "cells": len(wanted.cells),
        "trials": rows,
        "no_longer_asked_for": _cost([state.trials[t] for t in state.trials.keys() - trials.keys()]),
        "to_come": dict(Counter(trial.cell.name for trial in (*coming, *unidentified(wanted, state)))),
        "unusable": state.unusable_among(wanted.datasets),
        "budget": Spending(study.budget, [], state, now_ms).exhausted(),
        "counts": _counts(rows, len(wanted.trials) + len(coming)),
    }


def show(found: dict[str, Any], console: Console) -> None:
    """Print a line of counts, a line per cell, and every failure with its reason."""
    counts = ", ".join(f"{number} {name.lower()}" for name, number in found["counts"].items() if number)
    console.print(f"[bold]{found['study']}[/bold]: {counted(found['cells'], 'cell')}, {counts}")
    choose = min if found["direction"] == "minimize" else max
    to_come = found["to_come"]
    table = Table(Column("cell", overflow="fold"), "done", "best on validation", "trained for", "GPU-hours", box=None)
    for cell in dict.fromkeys([*(row["cell"] for row in found["trials"]), *to_come]):
        rows = [row for row in found["trials"] if row["cell"] == cell]
        done = sum(row["state"] in {"COMPLETE", "PRUNED", "DROPPED", "FAILED"} for row in rows)
        best = choose((row["best"] for row in rows if row["best"] is not None), default=None)
        table.add_row(
            escape(cell),
            f"{done}/{len(rows) + to_come.get(cell, 0)}",
            f"{best:.4f}" if best is not None else "-",
            duration(sum(row["seconds"] for row in rows)),
            f"{sum(row['gpu_seconds'] for row in rows) / 3600:.2f}",
        )
    console.print(table)
    if (gone := found["no_longer_asked_for"])["trials"]:
        spent = f"{duration(gone['seconds'])}, {gone['gpu_seconds'] / 3600:.2f} GPU-hours"
        console.print(f"{counted(gone['trials'], 'earlier trial')} no longer asked for took {spent}", soft_wrap=True)
    for dataset, reason in found["unusable"].items():
        told = f"[red]failed[/red] data set {escape(dataset)}: data: {escape(reason)}"
        console.print(told, f"  data: {failures.POLICIES['data'].meaning}", sep="\n", soft_wrap=True, highlight=False)
    if (used_up := found["budget"]) and (found["counts"]["PAUSED"] or found["counts"]["WAITING"]):
        console.print(f"[yellow]stopped[/yellow] {used_up}; raise the budget to go on", soft_wrap=True, highlight=False)
    several = len({row["seed"] for row in found["trials"]}) > 1
    for row in found["trials"]:
        where = escape(f"{row['cell']} {name_in_cell(row['searched'], row['seed'] if several else None)}")
        if row["state"] == "FAILED":
            _show_failure(row, where, console)
        elif row["state"] == "DROPPED":
            console.print(f"[yellow]dropped[/yellow] {where}: {escape(row['reason'])}", soft_wrap=True)
        elif row["interrupted"]:
            classes = ", ".join(f"{name} x{times}" for name, times in Counter(row["interrupted"]).items())
            then = "to go on" if row["state"] == "PAUSED" else "went on"
            console.print(f"[yellow]interrupted[/yellow] {where}: {classes}; {then}", soft_wrap=True)


def _cost(trials: Sequence[TrialProgress]) -> dict[str, float]:
    """Return how many trials there are, and what they took."""
    used = [progress.use.so_far for progress in trials]
    seconds, gpu_seconds = (round(math.fsum(amount), 1) for amount in (zip(*used, strict=True) if used else ((), ())))
    return {"trials": len(trials), "seconds": seconds, "gpu_seconds": gpu_seconds}


def _show_failure(row: dict[str, Any], where: str, console: Console) -> None:
    """Print why a trial failed, what its class of failure means, and the last lines of its log."""
    kind = row["reason"].partition(":")[0]
    console.print(f"[red]failed[/red] {where}: {escape(row['reason'])}", soft_wrap=True)
    if kind in failures.POLICIES:
        console.print(f"  {kind}: {failures.POLICIES[kind].meaning}", soft_wrap=True, highlight=False)
    for line in row["log"][-LINES_OF_LOG:]:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def _state(progress: TrialProgress | None) -> str:
    if progress is None or not (progress.starts or progress.done):
        return "WAITING"
    if progress.done:
        return progress.outcome
    return "RUNNING" if progress.use.since_ms is not None else "PAUSED"


def _counts(rows: list[dict[str, Any]], trials: int) -> dict[str, int]:
    names = ("COMPLETE", "PRUNED", "DROPPED", "FAILED", "RUNNING", "PAUSED", "WAITING")
    counts = {name: sum(row["state"] == name for row in rows) for name in names}
    counts["WAITING"] += trials - len(rows)
    return counts
