"""What a study would do, before anything is spent."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
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
    preparation,
    recorded_speed,
    samplers,
    sampling,
    selection,
)
from search.estimate import Estimate, estimate
from search.identity import identified
from search.study_config import StudyConfig
from search.study_folder import StudyFolder
from search.study_sections import Range
from search.study_state import StudyState
from search.wording import counted
from trainers import adaptations
from trainers.initializations import FILE_PREFIX
from trainers.trial import TrialConfig, TrialState


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
    reads = preparation.needed(study, wanted)
    estimated = partial(
        estimate,
        gpus=known.gpus,
        speeds=speeds,
        prunes=_prunes(study, wanted),
        images=_images(reads, known),
        reads=reads,
    )
    cost = estimated(wanted)
    done, left = _done(study, known.storage) if known.storage else (None, [])
    if done is not None:
        rest = estimated(replace(wanted, trials=tuple(left)))
        done |= {name: rest.as_json()[name] for name in ("gpu_hours", "wall_clock_hours")}
    return {
        "study": study.name,
        "cells": len(wanted.cells),
        "trials": len(wanted.trials),
        "excluded": wanted.excluded,
        "refused": [{"cell": dict(refusal.cell.axes), "reason": refusal.reason} for refusal in wanted.refused],
        "warnings": [*warnings(study, wanted), *_beyond_cluster(study, wanted, known), *_beyond_budget(study, cost)],
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


def _beyond_budget(study: StudyConfig, cost: Estimate) -> list[str]:
    """Say which budgets bind even if all goes as fast as it may."""
    estimates = {"gpu_hours": cost.gpu_hours, "wall_clock_hours": cost.wall_clock_hours}
    return [
        f"budget.{name}: {given:g} is less than the estimated {low:.3g}; the least informative trials will be left out"
        for name, estimated in estimates.items()
        if estimated and (given := getattr(study.budget, name)) is not None and (low := estimated.low) > given
    ]


def _prunes(study: StudyConfig, wanted: grid.Grid) -> bool:
    """Say whether anything can be pruned: who is alone in its group never is."""
    largest = max(_groups(study, wanted).values(), default=0)
    return study.pruning.pruner != "none" and largest > 1 and not _waits_for_more(study, largest)


def _groups(study: StudyConfig, wanted: grid.Grid) -> dict[str, int]:
    """Count what races in each comparison group: trials, or for `cell_race`, in which seeds go as one, points."""
    trials = Counter(trial.cell.group(study.pruning.within) for trial in wanted.trials)
    together = len(study.seeds) if study.pruning.pruner == "cell_race" else 1
    return {group: count // together for group, count in trials.items()}


def _waits_for_more(study: StudyConfig, largest: int) -> bool:
    """Say whether the pruner waits for more finished trials than the largest group has."""
    waits = study.pruning.pruner.lower().startswith(("median", "percentile"))
    return waits and largest <= _trials_before_pruning(study)


def _trials_before_pruning(study: StudyConfig) -> int:
    return int(study.pruning.settings.get("n_startup_trials", 5))


def _speeds(wanted: grid.Grid, known: Known) -> recorded_speed.Speeds | None:
    if known.probe_steps:
        return recorded_speed.probe((trial.config for trial in wanted.trials), steps=known.probe_steps)
    return recorded_speed.from_ledgers(known.storage) if known.storage else None


def _images(reads: Sequence[preparation.Needed], known: Known) -> dict[str, image_counts.Images]:
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


def _done(study: StudyConfig, storage: Path) -> tuple[dict[str, Any] | None, list[grid.Trial]]:
    """Compare what is asked for with what the storage holds of this study, None if it never ran there.

    Returns:
        Counts, and the trials that are left.
    """
    folder = StudyFolder(storage, study.name)
    if not folder.ledger.is_file():
        return None, []
    state = StudyState.of(ledger.read(folder.ledger).events)
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
    done = {(trial.cell.name, trial.searched, trial.seed) for trial in map(asked.__getitem__, over)}
    left = [trial for trial in wanted.trials if (trial.cell.name, trial.searched, trial.seed) not in done]
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
    return counts, [*left, *coming]


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


def warnings(study: StudyConfig, wanted: grid.Grid) -> list[str]:
    """Say what is allowed but probably not meant."""
    found = []
    prunes = study.pruning.pruner != "none"
    groups = _groups(study, wanted)
    if prunes and len(groups) == 1 and len(wanted.cells) > 1:
        found.append(
            f"pruning.within: {grid.readable(study.pruning.within)} compares trials of all cells: hard data sets and "
            "slow backbones lose their trials to easy ones, and most cells keep only the one trial that is never pruned"
        )
    if prunes and len(study.seeds) > 1 and study.pruning.pruner != "cell_race":
        found.append(
            f"pruning.pruner: {study.pruning.pruner} stops seeds of the same hyperparameters one by one, so that means "
            "over seeds are of those that it left; cell_race stops or keeps them together"
        )
    largest = max(groups.values(), default=0)
    if _waits_for_more(study, largest):
        found.append(
            f"pruning: {study.pruning.pruner} waits for n_startup_trials={_trials_before_pruning(study)} finished "
            f"trials, a comparison group has {largest} at most: nothing will be pruned"
        )
    by_chance = samplers.points_before_learning(study)
    points = len(wanted.trials) // len(wanted.cells) // len(study.seeds)
    if by_chance >= points == study.sampling.trials:  # where all points that exist are drawn there is nothing to learn
        found.append(
            f"sampling.trials: {study.sampling.sampler} draws {by_chance} points of a cell before it learns from what "
            f"they came to, and gets {points}: give more trials, or a smaller per_round"
        )
    return [*found, *_without_weights(wanted), *_without_effect(wanted)]


def _without_weights(wanted: grid.Grid) -> Iterator[str]:
    """Tell of weights files that are not here; a relative one may lie in the folder that `--weights` names."""
    for name in dict.fromkeys(trial.config.initialization for trial in wanted.trials):
        path = Path(name.removeprefix(FILE_PREFIX))
        if name.startswith(FILE_PREFIX) and path.is_absolute() and not path.is_file():
            yield f"initialization {name}: no such file on this machine; every node that trains needs it at this path"


def _without_effect(wanted: grid.Grid) -> Iterator[str]:
    """Tell of settings that are compared or searched where they change nothing, so that trainings are repeated."""
    by_adaptation: dict[str, list[TrialConfig]] = defaultdict(list)
    for trial in wanted.trials:
        by_adaptation[trial.config.adaptation].append(trial.config)
    for name, configs in by_adaptation.items():
        ignored = adaptations.load(name).ignores
        differ = [s for s in sorted(ignored) if len({repr(getattr(config.recipe, s)) for config in configs}) > 1]
        if not differ:
            continue
        recipes = [config.recipe.model_dump(exclude=set(ignored)) for config in configs]
        pairs = zip(configs, recipes, strict=True)
        different = {repr({**config.model_dump(mode="json"), "recipe": recipe}) for config, recipe in pairs}
        if repeated := len(configs) - len(different):
            yield (
                f"adaptation {name}: {', '.join(differ)} changes nothing there; {counted(repeated, 'trial')} of "
                f"{len(configs)} would repeat others"
            )


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
