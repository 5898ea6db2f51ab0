"""External evaluation: a network trained on one source, examined on another, on the pathologies both know."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datasets.errors import DatasetError
from datasets.labels import shared
from datasets.manifest import Manifest

_SAME_IMAGES = frozenset({"nih_chest_xray14", "rsna_pneumonia"})
"""RSNA's challenge re-uses images of the NIH collection, training images among them."""


@dataclass(frozen=True, slots=True)
class ExternalTest:
    """What an external evaluation needs.

    Attributes:
        manifest: the other source's test partition, with the shared pathologies only.
        pathologies: shared, in the order of the trained network's outputs.
        outputs: int64, which outputs of the network these are.
    """

    manifest: Manifest
    pathologies: tuple[str, ...]
    outputs: np.ndarray


def check_external(source: str, *, trained_on: str) -> None:
    """Refuse a source that shares images with the one that a network was trained on.

    Raises:
        DatasetError: it is the same source or one that shares its images.
    """
    if source == trained_on or {source, trained_on} <= _SAME_IMAGES:
        raise DatasetError(
            f"{source} is not external to {trained_on}",
            "key `external`",
            "a source without the images of the training",
        )


def external_test(other: Manifest, *, trained_on: str, pathologies: Sequence[str]) -> ExternalTest:
    """Return the test partition of another source on the pathologies that a trained network knows.

    Args:
        other: the source to examine on; only its test partition is used.
        trained_on: the source the network was trained on.
        pathologies: the network's outputs, in order.

    Raises:
        DatasetError: it is the same source or one that shares its images, or no pathology is shared.
    """
    check_external(other.source, trained_on=trained_on)
    names = shared(pathologies, other.pathologies)
    if not names:
        raise DatasetError(
            f"{trained_on} and {other.source} share no pathology",
            "key `external`",
            f"one of {', '.join(pathologies)}",
            "choose the other label list or another source",
        )
    columns = [other.pathologies.index(name) for name in names]
    tested = dataclasses.replace(other, labels=other.labels[:, columns], pathologies=names).take(other.rows("test"))
    return ExternalTest(tested, names, np.array([list(pathologies).index(name) for name in names], dtype=np.int64))
