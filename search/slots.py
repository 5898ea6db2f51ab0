"""The slot of every trial of a study, measured and checked before anything starts."""

import json
from collections.abc import Callable, Sequence

from datasets.dataset_config import DatasetConfig
from search import ray_cluster, worker
from search.grid import Trial
from search.identity import key_of
from search.resources import Slot, slot_for
from search.study_sections import Resources
from trainers.gpu_memory import Footprint


class Slots:
    """What each trial of a study occupies.

    Args:
        resources: the study's section.
        has_gpus: whether the cluster has any.
        images_of: returns the images of a data set, as far as they are known.
    """

    def __init__(
        self, resources: Resources, *, has_gpus: bool, images_of: Callable[[DatasetConfig], int] = lambda _: 0
    ):
        self._resources = resources
        self._has_gpus = has_gpus
        self._images_of = images_of
        self._wants: dict[str, Footprint] = {}
        self._slots: dict[tuple[str, str], Slot] = {}

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

    def _decide(self, trials: Sequence[Trial]) -> dict[tuple[str, str], Slot]:
        self._measure(trials)
        nodes = ray_cluster.nodes() if trials else []
        images = {key: self._images_of(dataset) for key, dataset in self._stored(trials).items()}
        found = {}
        for key, trial in {_key(trial): trial for trial in trials}.items():
            of_data = images.get(key_of(trial.config.dataset), 0) if images else 0
            found[key] = slot_for(self._resources, trial.setting, self._want(trial), nodes, images=of_data)
        return found

    def _want(self, trial: Trial) -> Footprint | None:
        return self._wants[shape_of(trial)] if self._has_gpus else None

    def _stored(self, trials: Sequence[Trial]) -> dict[str, DatasetConfig]:
        """Return the data of trials that hold something of each image in memory."""
        wants = ((trial.config.dataset, self._want(trial)) for trial in trials)
        return {key_of(dataset): dataset for dataset, want in wants if want is not None and want.stored}

    def _measure(self, trials: Sequence[Trial]) -> None:
        shapes = {shape_of(trial): trial.config for trial in trials} if self._has_gpus else {}
        new = [shape for shape in shapes if shape not in self._wants]
        measured = ray_cluster.each(worker.measure_footprint, [shapes[shape] for shape in new], [Slot(1)] * len(new))
        self._wants |= {new[index]: found for index, found in measured}

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
