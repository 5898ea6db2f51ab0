"""The slot of every trial of a study, measured and checked before anything starts."""

import json
from collections.abc import Sequence

from search import ray_cluster, worker
from search.grid import Trial
from search.resources import Slot, slot_for
from search.study_sections import Resources


class Slots:
    """What each trial of a study occupies.

    Args:
        resources: the study's section.
        has_gpus: whether the cluster has any.
    """

    def __init__(self, resources: Resources, *, has_gpus: bool):
        self._resources = resources
        self._has_gpus = has_gpus
        self._slots: dict[tuple[str, str], Slot] = {}

    def choose(self, trials: Sequence[Trial]) -> None:
        """Decide for trials that are new.

        Raises:
            StudyError: no node could ever hold one of them; nothing was started.
        """
        new = {_key(trial): trial for trial in trials if _key(trial) not in self._slots}
        shapes = {shape_of(trial): trial.config for trial in new.values()} if self._has_gpus else {}
        measured = ray_cluster.each(worker.measure_footprint, list(shapes.values()), [Slot(1)] * len(shapes))
        wants = {list(shapes)[index]: found for index, found in measured}
        nodes = ray_cluster.nodes()
        for key, trial in new.items():
            want = wants.get(shape_of(trial))
            self._slots[key] = slot_for(self._resources, trial.setting, want, nodes)

    def of(self, trial: Trial) -> Slot:
        """Return a trial's slot."""
        return self._slots[_key(trial)]

    @property
    def most_cpus(self) -> int:
        """CPUs of the largest slot."""
        return max(slot.cpus for slot in self._slots.values())


def shape_of(trial: Trial) -> str:
    """Return what a trial's memory depends on: everything but data, seed and learning rate."""
    shape = trial.config.model_dump(mode="json", exclude={"dataset", "seed"})
    shape["recipe"] = {key: shape["recipe"][key] for key in ("batch_size", "precision", "optimizer", "ema")}
    return json.dumps(shape, sort_keys=True)


def _key(trial: Trial) -> tuple[str, str]:
    return trial.cell.name, trial.point
