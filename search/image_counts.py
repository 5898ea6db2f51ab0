"""How many images a data set has: as a ledger recorded it, as its label files say, or as was published."""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from datasets import sources
from datasets.dataset_config import DatasetConfig
from search import data_roots, ledger
from search.errors import StudyError
from search.identity import key_of
from search.study_state import StudyState

PUBLISHED_IMAGES: dict[str, int] = {
    "chexpert": 223_648,  # train.csv and valid.csv
    "mimic_cxr": 377_110,  # MIMIC-CXR-JPG 2.1.0
    "nih_chest_xray14": 112_120,
    "padchest": 160_861,
    "rsna_pneumonia": 26_684,
    "uka_cxr": 193_361,  # private; as the cohort is given by its owners' papers
    "vindr_cxr": 18_000,
    "vindr_pcxr": 9_125,
}
READ_IMAGES: dict[str, dict[str, int]] = {
    "chexpert": {"paper": 157_676, "conventional": 191_229},  # frontal; the paper's without uncertain rows
    "mimic_cxr": {"paper": 243_334, "conventional": 243_334},  # AP and PA
    "padchest": {"paper": 110_554, "conventional": 110_554},
}
"""Of those what a source reads without further options, by label list: frontal views."""
TRAINING_SHARE = 0.8
"""Images of a data set that are trained on where its partitions are not known."""


@dataclass(frozen=True, slots=True)
class Images:
    """The size of a data set.

    Attributes:
        whole: images of all partitions.
        trained: those that an epoch trains on.
        known: how.
    """

    whole: int
    trained: float
    known: Literal["published", "recorded", "counted"]


Known = Mapping[str, Images]
"""Sizes that are known beside the published ones: by key of the configuration, and by collection."""


def of(dataset: DatasetConfig, known: Known) -> Images | None:
    """Return the size of a data set, None where nobody knows it; what was seen beats what was published."""
    found = known.get(key_of(dataset)) or known.get(_collection(dataset.model_dump(mode="json")))
    published = _published(dataset)
    if found is None and published is not None:
        return Images(published, published * TRAINING_SHARE, "published")
    return found


def whole(dataset: DatasetConfig, *, state: StudyState) -> int:
    """Return the images of a data set as a study recorded them or as was published; 0 where nobody knows."""
    found = of(dataset, recorded([state]))
    return found.whole if found else 0


def _published(dataset: DatasetConfig) -> int | None:
    whole = PUBLISHED_IMAGES.get(dataset.name, PUBLISHED_IMAGES.get(dataset.source))
    every_view = dataset.options.get("views") == "all"
    return whole if every_view else READ_IMAGES.get(dataset.source, {}).get(dataset.labels, whole)


def recorded(states: Iterable[StudyState]) -> dict[str, Images]:
    """Return the sizes that studies recorded when they prepared their data."""
    found: dict[str, Images] = {}
    for state in states:
        configs = {trial.dataset_key: trial.config.get("dataset") for trial in state.trials.values()}
        for key, event in (*state.externals.items(), *state.datasets.items()):
            if images := event.get("images"):
                found[key] = Images(sum(images.values()), images["train"], "recorded")
                if config := configs.get(key):  # of use to a study that asks for other labels of the same images
                    found[_collection(config)] = found[key]
    return found


def from_ledgers(storage: Path) -> dict[str, Images]:
    """Return the sizes that the studies of a storage folder recorded."""
    return recorded(StudyState.of(ledger.read(path).events) for path in sorted(storage.glob("*/ledger.jsonl")))


def counted(
    datasets: Iterable[DatasetConfig], roots: Mapping[str, data_roots.Root], storage: Path
) -> dict[str, Images]:
    """Count the rows of the label files that are at hand; no image is opened, and no phantom drawn.

    Raises:
        DatasetError: label files that cannot be used.
    """
    found: dict[str, Images] = {}
    for dataset in datasets:
        with suppress(StudyError):  # nothing says where it lies
            root = data_roots.find(dataset, roots, storage)
            if root.is_dir() and dataset.source not in data_roots.GENERATED:
                count = len(sources.read(dataset, root).instances)
                found[key_of(dataset)] = Images(count, count * TRAINING_SHARE, "counted")
    return found


def trained_by_key(datasets: Iterable[DatasetConfig], known: Known) -> dict[str, float]:
    """Return the images that an epoch trains on, by key; a data set of unknown size is as large as the median one."""
    sizes = {key_of(dataset): of(dataset, known) for dataset in datasets}
    usual = median([size.trained for size in sizes.values() if size is not None] or [1.0])
    return {key: usual if size is None else size.trained for key, size in sizes.items()}


def _collection(config: Mapping[str, Any]) -> str:
    """Name the images that a configuration reads, whatever it makes of their labels."""
    return json.dumps([config["name"], config["source"], config.get("options", {})], sort_keys=True)
