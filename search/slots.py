"""The slot of every trial of a study, measured and checked before anything starts."""

import json
from collections.abc import Callable, Mapping, Sequence

from datasets.dataset_config import DatasetConfig
from search import ray_cluster, worker
from search.grid import Trial
from search.identity import key_of
from search.resources import Slot, slot_for
from search.study_sections import Resources
from trainers.gpu_memory import Footprint

Key = tuple[str, str]
"""A cell and a point of it: seeds occupy the same."""


class Slots:
    """What each trial of a study occupies.

    Args:
        resources: the study's section.
        has_gpus: whether the cluster has any.
        images_of: returns the images of a data set, as far as they are known.
    """

    def __init__(self, resources: Resources, *, has_gpus: bool, images_of: Callable[[DatasetConfig], int]):
        self._resources = resources
        self._has_gpus = has_gpus
        self._images_of = images_of
        self._wants: dict[str, Footprint] = {}
        self._slots: dict[Key, Slot] = {}
        self._most_cpus = 1

    def check(self, trials: Sequence[Trial]) -> None:
        """Refuse trials that no node could ever hold, while little is known of their data.

        Raises:
            StudyError: with the numbers; nothing was started.
        """
        self._decide(trials)

    def choose(self, trials: Sequence[Trial]) -> None:
        """Decide for trials that are new.

        Raises:
            StudyError: no node could ever hold one of them; nothing was started.
        """
        self._slots |= self._decide([trial for trial in trials if _key(trial) not in self._slots])

    def _decide(self, trials: Sequence[Trial]) -> dict[Key, Slot]:
        different = {_key(trial): trial for trial in trials}
        wants = self._measure(different)
        datasets = {key: different[key].config.dataset for key, want in wants.items() if want.stored}
        counts = {name: self._images_of(one) for name, one in {key_of(one): one for one in datasets.values()}.items()}
        images = {key: counts[key_of(dataset)] for key, dataset in datasets.items()}
        nodes = ray_cluster.nodes() if different else []
        found = {
            key: slot_for(self._resources, trial.setting, wants.get(key), nodes, images=images.get(key, 0))
            for key, trial in different.items()
        }
        self._most_cpus = max([self._most_cpus, *(slot.cpus for slot in found.values())])
        return found

    def _measure(self, trials: Mapping[Key, Trial]) -> dict[Key, Footprint]:
        """Return what trials want of memory, each kind measured once; nothing where there is no GPU."""
        shapes = {key: shape_of(trial) for key, trial in trials.items()} if self._has_gpus else {}
        new = {shape: trials[key].config for key, shape in shapes.items() if shape not in self._wants}
        measured = ray_cluster.each(worker.measure_footprint, list(new.values()), [Slot(1)] * len(new))
        self._wants |= {list(new)[index]: found for index, found in measured}
        return {key: self._wants[shape] for key, shape in shapes.items()}

    def of(self, trial: Trial) -> Slot:
        """Return a trial's slot."""
        return self._slots[_key(trial)]

    @property
    def most_cpus(self) -> int:
        """CPUs of the largest slot that was checked or chosen."""
        return self._most_cpus


def shape_of(trial: Trial) -> str:
    """Return what a trial's memory depends on: everything but data, seed and learning rate."""
    shape = trial.config.model_dump(mode="json", exclude={"dataset", "seed"})
    shape["recipe"] = {key: shape["recipe"][key] for key in ("batch_size", "precision", "optimizer", "ema")}
    return json.dumps(shape, sort_keys=True)


def _key(trial: Trial) -> Key:
    return trial.cell.name, trial.point
