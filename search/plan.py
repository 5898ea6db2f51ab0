"""What a study would do, before anything is spent."""

from typing import Any

from rich.console import Console
from rich.table import Table

from search import grid, pruners, sampling
from search.estimate import estimate
from search.study_config import Range, StudyConfig


def plan(study: StudyConfig) -> dict[str, Any]:
    """Expand a study and estimate its cost.

    Raises:
        StudyError: anything in the file that cannot be run.
    """
    wanted = sampling.examples(study)
    sampling.check(study.sampling)
    for epochs in {trial.config.recipe.epochs for trial in wanted.trials}:
        pruners.create(study.pruning.pruner, study.pruning.settings, epochs=epochs)
    return {
        "study": study.name,
        "cells": len(wanted.cells),
        "trials": len(wanted.trials),
        "excluded": wanted.excluded,
        "refused": [{"cell": dict(refusal.cell.axes), "reason": refusal.reason} for refusal in wanted.refused],
        "warnings": warnings(study, wanted),
        "estimated": estimate(wanted).as_json(),
        "axes": study.axes,
        "search": {name: _plain(space) for name, space in study.search.items()},
        "seeds": study.seeds,
    }


def _plain(space: Range | list[Any]) -> Any:
    return space.model_dump() if isinstance(space, Range) else space


def warnings(study: StudyConfig, wanted: grid.Grid) -> list[str]:
    """Say what is allowed but probably not meant."""
    found = []
    if study.pruning.within == "study" and study.pruning.pruner != "none":
        found.append(
            "pruning.within: study compares trials of different cells: hard data sets and slow backbones lose their "
            "trials to easy ones, and most cells keep only the one trial that is never pruned"
        )
    per_cell = len(wanted.trials) // len(wanted.cells)
    startup = study.pruning.settings.get("n_startup_trials", 5)
    if study.pruning.pruner.lower().startswith(("median", "percentile")) and per_cell <= startup:
        found.append(
            f"pruning: {study.pruning.pruner} waits for n_startup_trials={startup} finished trials, a cell has "
            f"{per_cell}: nothing will be pruned"
        )
    return found


def show(planned: dict[str, Any], console: Console) -> None:
    """Print a plan for people."""
    table = Table(title=f"study {planned['study']}", show_header=False, box=None, title_justify="left")
    for axis, values in planned["axes"].items():
        table.add_row(axis, ", ".join(grid.readable(value) for value in values))
    for name, values in planned["search"].items():
        words = ", ".join(map(grid.readable, values)) if isinstance(values, list) else grid.readable(values)
        table.add_row(f"search {name}", words)
    table.add_row("seeds", ", ".join(map(str, planned["seeds"])))
    console.print(table)
    cost = planned["estimated"]
    console.print(
        f"\n[bold]{planned['cells']} cells, {planned['trials']} trials, {cost['epochs']} epochs at most[/bold] "
        f"({planned['excluded']} combinations excluded, {len(planned['refused'])} refused)"
    )
    if cost["images"]:
        console.print(
            f"{cost['gpu_hours']['low']:,} to {cost['gpu_hours']['high']:,} GPU-hours, cache "
            f"{cost['cache_bytes'] / 1e9:,.1f} GB: {cost['basis']}",
            soft_wrap=True,
        )
    for reason in sorted({refusal["reason"] for refusal in planned["refused"]}):
        count = sum(refusal["reason"] == reason for refusal in planned["refused"])
        console.print(f"[yellow]refused[/yellow] {count} cells: {reason}", soft_wrap=True)
    for warning in planned["warnings"]:
        console.print(f"[yellow]warning[/yellow] {warning}", soft_wrap=True)
