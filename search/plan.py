"""What a study would do, before anything is spent."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from search import (
    checks,
    data_roots,
    grid,
    image_counts,
    ledger,
    recorded_speed,
    sampling,
    selection,
)
from search.budget import GPU_HOURS, WALL_CLOCK, Spending
from search.estimate import Estimate, estimate
from search.identity import identified, unidentified
from search.images_needed import Needed, needed
from search.plan_warnings import prunes, warnings
from search.study_config import StudyConfig
from search.study_folder import StudyFolder
from search.study_sections import Range
from search.study_state import StudyState
from search.wording import counted
from trainers.trial import TrialState


@dataclass(frozen=True, slots=True)
class Known:
    """What a plan may rest on besides the study file.

    Attributes:
        storage: folder of earlier studies, for what is done, how fast it was and how many images there were; None:
            not looked at.
        gpus: of the cluster.
        probe_steps: steps of each kind of trial to measure on this machine; 0: none.
        roots: where data sets lie, whose images are counted.
    """

    storage: Path | None = None
    gpus: int = 1
    probe_steps: int = 0
    roots: Mapping[str, data_roots.Root] = field(default_factory=dict)


def plan(study: StudyConfig, known: Known = Known()) -> dict[str, Any]:
    """Expand a study and estimate its cost.

    Args:
        study: what is asked for.
        known: what else the estimate rests on.

    Raises:
        StudyError: anything in the file that cannot be run.
        DatasetError: label files that are at hand and cannot be used.
    """
    wanted = checks.examples(study)
    speeds = _speeds(wanted, known)
    reads = needed(study, wanted)
    estimated = partial(
        estimate,
        gpus=known.gpus,
        speeds=speeds,
        prunes=prunes(study, wanted),
        images=_images(reads, known),
        reads=reads,
    )
    cost = estimated(wanted)
    state = _told(study, known.storage) if known.storage else None
    done, rest = None, cost
    if state is not None:
        done, left = _done(study, state)
        rest = estimated(replace(wanted, trials=tuple(left)))
        done |= {name: rest.as_json()[name] for name in ("gpu_hours", "wall_clock_hours")}
    return {
        "study": study.name,
        "cells": len(wanted.cells),
        "trials": len(wanted.trials),
        "excluded": wanted.excluded,
        "refused": [{"cell": dict(refusal.cell.axes), "reason": refusal.reason} for refusal in wanted.refused],
        "warnings": [
            *warnings(study, wanted),
            *_beyond_cluster(study, wanted, known),
            *_beyond_budget(study, rest, state),
        ],
        "estimated": cost.as_json(),
        "measured": _measured(wanted, speeds) if speeds else None,
        "done": done,
        "axes": study.axes,
        "search": {name: _plain(space) for name, space in study.search.items()},
        "seeds": study.seeds,
    }


def _beyond_cluster(study: StudyConfig, wanted: grid.Grid, known: Known) -> list[str]:
    """Say which trials ask for more GPUs than there are; `run` refuses them, once it sees the cluster."""
    asked = ((trial, study.resources.for_setting(trial.setting).gpus or 0) for trial in wanted.trials)
    beyond = {trial.cell.name: gpus for trial, gpus in asked if gpus > known.gpus}
    if not beyond:
        return []
    first, gpus = next(iter(beyond.items()))
    return [
        f"resources: {counted(len(beyond), 'cell')} such as {first} ask for {gpus:g} GPUs a trial and can never start "
        f"on {counted(known.gpus, 'GPU')} (--gpus)"
    ]


def _beyond_budget(study: StudyConfig, rest: Estimate, state: StudyState | None) -> list[str]:
    """Say which budgets bind even if what is left to do goes as fast as it may."""
    estimates = {GPU_HOURS: ("gpu_hours", rest.gpu_hours), WALL_CLOCK: ("wall_clock_hours", rest.wall_clock_hours)}
    warned = []
    for name, used, limit in Spending(study.budget, [], state or StudyState(), now=lambda: 0).accounts():
        key, estimated = estimates[name]
        given, left = limit / 3600, max(0.0, limit - used) / 3600
        if estimated and estimated.low > left:
            of_it = f", of which {left:.3g} are left," if used else ""
            warned.append(
                f"budget.{key}: {given:g}{of_it} is less than the estimated {estimated.low:.3g}; "
                "the least informative trials will be left out"
            )
    return warned


def _speeds(wanted: grid.Grid, known: Known) -> recorded_speed.Speeds | None:
    if known.probe_steps:
        return recorded_speed.probe((trial.config for trial in wanted.trials), steps=known.probe_steps)
    return recorded_speed.from_ledgers(known.storage) if known.storage else None


def _images(reads: Sequence[Needed], known: Known) -> dict[str, image_counts.Images]:
    """Return the sizes that earlier studies recorded, and those of the other data sets whose label files are at hand.

    A plan alone reads no data: it counts where it is told a folder, or measures on this machine anyway.
    """
    found = image_counts.from_ledgers(known.storage) if known.storage else {}
    if known.roots or known.probe_steps:
        datasets = [need.dataset for need in reads]
        seen = (d for d in datasets if (size := image_counts.of(d, found)) is None or size.known == "published")
        found |= image_counts.counted(seen, known.roots, known.storage or Path())
    return found


def _measured(wanted: grid.Grid, speeds: recorded_speed.Speeds) -> list[dict[str, Any]]:
    """Return the measured speed of each kind of trial that the study has."""
    kinds = dict.fromkeys(recorded_speed.kind_of(trial.config) for trial in wanted.trials)
    return [
        {"backbone": kind[0], "resolution": kind[1], "adaptation": kind[2], "images_per_second": speed}
        for kind in kinds
        if (speed := speeds.images_per_second.get(kind)) is not None
    ]


def _told(study: StudyConfig, storage: Path) -> StudyState | None:
    """Return what the storage's ledger tells of a study, None if it never ran there."""
    folder = StudyFolder(storage, study.name)
    if not folder.ledger.is_file():
        return None
    state = StudyState.of(ledger.read(folder.ledger).events)
    state.close_what_died()  # what runs just now counts up to its last report
    return state


def _done(study: StudyConfig, state: StudyState) -> tuple[dict[str, Any], list[grid.Trial]]:
    """Compare what is asked for with what has happened.

    Returns:
        Counts, and the trials that are left.
    """
    wanted, coming = sampling.expand(study, state), sampling.to_come(study, state)
    asked = identified(wanted, state)
    known = {trial: state.trials[trial] for trial in asked if trial in state.trials}
    cells: dict[str, list[str]] = defaultdict(list)
    for identity, trial in asked.items():
        cells[trial.cell.name].append(identity)
    back = {selection.to_bring_back(state, trials) for trials in cells.values()}
    not_begun = [t for t, progress in known.items() if not (progress.epochs or progress.done or t in back)]
    over = {t for t, progress in known.items() if progress.done and not progress.dropped and t not in back}
    failed = {t for t in over if known[t].state is TrialState.FAILED}
    left = [trial for identity, trial in asked.items() if identity not in over]
    counts = {
        "finished": len(over - failed),
        "failed": len(failed),
        "begun": sum(t in back or (bool(p.epochs) and not p.done) for t, p in known.items()),
        "dropped": sum(progress.dropped and t not in back for t, progress in known.items()),
        "new": len(wanted.trials) + len(coming) - len(known) + len(not_begun),
        "epochs_left": sum(trial.config.recipe.epochs for trial in (*wanted.trials, *coming))
        - sum(asked[name].config.recipe.epochs for name in over)
        - sum(len(progress.epochs) for name, progress in known.items() if name not in over),
        "no_longer_asked_for": len(set(state.trials) - set(asked)),
    }
    return counts, [*left, *unidentified(wanted, state), *coming]


def _plain(space: Range | list[Any]) -> Any:
    return space.model_dump() if isinstance(space, Range) else space


def _told_left(done: dict[str, Any]) -> str:
    if not done["epochs_left"] or done["gpu_hours"] is None:
        return ""
    return f", {_span(done['gpu_hours'])} GPU-hours, {_span(done['wall_clock_hours'])} h of wall-clock at most"


def _span(found: dict[str, float], unit: float = 1.0) -> str:
    low, high = (_short(value / unit) for value in found.values())
    return low if low == high else f"{low} to {high}"


def _short(value: float) -> str:
    return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def show(planned: dict[str, Any], console: Console) -> None:
    """Print a plan for people."""
    table = Table(title=f"study {planned['study']}", show_header=False, box=None, title_justify="left")
    for axis, values in planned["axes"].items():
        table.add_row(axis, Text(", ".join(grid.readable(value) for value in values)))
    for name, values in planned["search"].items():
        words = ", ".join(map(grid.readable, values)) if isinstance(values, list) else grid.readable(values)
        table.add_row(f"search {name}", Text(words))
    table.add_row("seeds", ", ".join(map(str, planned["seeds"])))
    console.print(table)
    cost = planned["estimated"]
    console.print(
        f"\n[bold]{counted(planned['cells'], 'cell')}, {counted(planned['trials'], 'trial')}, "
        f"{counted(cost['epochs'], 'epoch')} at most[/bold] "
        f"({counted(planned['excluded'], 'combination')} excluded, {len(planned['refused'])} refused)"
    )
    if cost["images"]:
        console.print(
            f"{_span(cost['gpu_hours'])} GPU-hours, {_span(cost['wall_clock_hours'])} h of wall-clock, cache "
            f"{_span(cost['cache_bytes'], 1e9)} GB, checkpoints {_span(cost['checkpoint_bytes'], 1e9)} GB: "
            f"{cost['basis']}",
            markup=False,
            soft_wrap=True,
        )
    else:
        console.print(
            f"hours and bytes are not estimated: {cost['basis']}; --data-root SOURCE=PATH has the images counted, "
            "--storage knows those of earlier runs",
            markup=False,
            soft_wrap=True,
        )
    for kind in planned["measured"] or []:
        console.print(
            f"{kind['backbone']}, {kind['resolution']} px, {kind['adaptation']}: measured "
            f"{_short(kind['images_per_second'])} images/s",
            highlight=False,
            soft_wrap=True,
        )
    if done := planned["done"]:
        console.print(
            f"of these trials {done['finished']} are finished, {done['failed']} failed, {done['begun']} begun, "
            f"{done['dropped']} dropped for the budget and {done['new']} new; {done['epochs_left']} epochs are left"
            f"{_told_left(done)}; "
            f"{done['no_longer_asked_for']} earlier ones are no longer asked for and stay as they are",
            soft_wrap=True,
        )
    for reason in sorted({refusal["reason"] for refusal in planned["refused"]}):
        count = sum(refusal["reason"] == reason for refusal in planned["refused"])
        console.print(Text.assemble(("refused", "yellow"), f" {counted(count, 'cell')}: {reason}"), soft_wrap=True)
    for warning in planned["warnings"]:
        console.print(Text.assemble(("warning", "yellow"), f" {warning}"), soft_wrap=True)
