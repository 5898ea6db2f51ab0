"""External evaluation: a network trained on one data set, examined on another that shares no image with it."""

from datasets.dataset_config import DatasetConfig
from datasets.errors import DatasetError

_SAME_IMAGES = frozenset({"nih_chest_xray14", "rsna_pneumonia"})
"""RSNA's challenge re-uses images of the NIH collection, training images among them."""
_MANY_COLLECTIONS = frozenset({"csv", "phantom"})
"""Sources that say nothing of whose images they read."""


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
