"""The slot of every trial of a study, measured and checked before anything starts."""

import json
from typing import Any

from search import ray_backend, worker
from search.grid import Grid, Trial
from search.resources import Slot, Want, slot_for
from search.study_config import StudyConfig

SlotKey = tuple[str, str]
"""Cell and searched values: what resources may depend on; seeds never do."""


def slot_key(trial: Trial) -> SlotKey:
    """Return what decides about a trial's slot."""
    return trial.cell.name, trial.point


def setting_of(trial: Trial) -> dict[str, Any]:
    """Return a trial's axis and searched values."""
    return {**dict(trial.cell.axes), **dict(trial.searched)}


def choose_slots(study: StudyConfig, wanted: Grid, *, has_gpus: bool) -> dict[SlotKey, Slot]:
    """Decide what each trial occupies on this cluster.

    Raises:
        StudyError: no node could ever hold one of them; nothing was started.
    """
    trials = {slot_key(trial): trial for trial in wanted.trials}
    wants: dict[str, Want] = {}
    if has_gpus:
        shapes = {shape_of(trial): trial.config for trial in trials.values()}
        measured = ray_backend.each(worker.measure_footprint, list(shapes.values()), [Slot(1)] * len(shapes))
        wants = {list(shapes)[index]: Want(**found) for index, found in measured}
    nodes = ray_backend.nodes()
    return {
        key: slot_for(study.resources, setting_of(trial), wants.get(shape_of(trial)), nodes)
        for key, trial in trials.items()
    }


def shape_of(trial: Trial) -> str:
    """Return what a trial's memory depends on: everything but data, seed and learning rate."""
    shape = trial.config.model_dump(mode="json", exclude={"dataset", "seed"})
    shape["recipe"] = {key: shape["recipe"][key] for key in ("batch_size", "precision", "optimizer", "ema")}
    return json.dumps(shape, sort_keys=True)
