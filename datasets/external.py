"""External evaluation: a network trained on one data set, examined on another, on the pathologies both know."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datasets.dataset_config import DatasetConfig
from datasets.errors import DatasetError
from datasets.labels import shared
from datasets.manifest import Manifest

_SAME_IMAGES = frozenset({"nih_chest_xray14", "rsna_pneumonia"})
"""RSNA's challenge re-uses images of the NIH collection, training images among them."""
_MANY_COLLECTIONS = frozenset({"csv", "phantom"})
"""Sources that say nothing of whose images they read."""


@dataclass(frozen=True, slots=True)
class ExternalTest:
    """What an external evaluation needs.

    Attributes:
        manifest: the other data set's test partition, with the shared pathologies only.
        pathologies: shared, in the order of the trained network's outputs.
        outputs: int64, which outputs of the network these are.
    """

    manifest: Manifest
    pathologies: tuple[str, ...]
    outputs: np.ndarray


def check_external(other: DatasetConfig, *, trained_on: DatasetConfig) -> None:
    """Refuse a data set that shares images with the one that a network was trained on; no file is read.

    Raises:
        DatasetError: it is the same collection or one that shares its images.
    """
    images, known = _collection(other), _collection(trained_on)
    if images == known or {images, known} <= _SAME_IMAGES:
        raise DatasetError(
            f"{other.name} is not external to {trained_on.name}",
            "key `external`",
            "a data set without the images of the training",
        )


def _collection(config: DatasetConfig) -> str:
    """Return what names a data set's images: its source, or its own name where a source reads many collections."""
    return f"{config.source} {config.name}" if config.source in _MANY_COLLECTIONS else config.source


def external_test(
    other: Manifest, *, config: DatasetConfig, trained_on: DatasetConfig, pathologies: Sequence[str]
) -> ExternalTest:
    """Return the test partition of another data set on the pathologies that a trained network knows.

    Args:
        other: the data set to examine on; only its test partition is used.
        config: what `other` was read with.
        trained_on: the data set the network was trained on.
        pathologies: the network's outputs, in order.

    Raises:
        DatasetError: it is the same collection or one that shares its images, or no pathology is shared.
    """
    check_external(config, trained_on=trained_on)
    names = shared(pathologies, other.pathologies)
    if not names:
        raise DatasetError(
            f"{trained_on.name} and {config.name} share no pathology",
            "key `external`",
            f"one of {', '.join(pathologies)}",
            "choose the other label list or another data set",
        )
    columns = [other.pathologies.index(name) for name in names]
    tested = dataclasses.replace(other, labels=other.labels[:, columns], pathologies=names).take(other.rows("test"))
    return ExternalTest(tested, names, np.array([list(pathologies).index(name) for name in names], dtype=np.int64))
