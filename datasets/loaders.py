"""Batches out of a cache, the same for the same (seed, epoch, index) whoever loads them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from datasets.cache import ImageCache
from datasets.manifest import Manifest, Partition
from datasets.transforms import Augmentation, resolve


class Batch(NamedTuple):
    """Some images.

    Attributes:
        images: uint8 (B, 1, R, R), augmented, not normalised.
        labels: float32 (B, pathologies), NaN where not given.
        rows: int64 (B,), row numbers in the manifest.
    """

    images: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor


class Batches:
    """The batches of a partition; the train partition is shuffled anew in every epoch.

    There is no state to save: `epoch(3, first_batch=17)` is where an interrupted epoch 3 goes on.
    Unreadable rows are left out. The last batch may be smaller.

    Args:
        manifest: whose labels.
        cache: its pixels, opened with `datasets.cache.open_cache`.
        partition: which rows.
        batch_size: rows per batch.
        seed: of shuffling and augmentation.
        augmentation: a name in `datasets.transforms`; anything but 'none' is for training.
    """

    def __init__(
        self,
        manifest: Manifest,
        cache: ImageCache,
        *,
        partition: Partition,
        batch_size: int,
        seed: int = 0,
        augmentation: str = "none",
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, at least 1 is needed")
        rows = manifest.rows(partition)
        self.rows = rows[cache.readable[rows]]
        self._pixels, self._labels = cache.pixels, torch.from_numpy(np.ascontiguousarray(manifest.labels))
        self._shuffled, self._batch_size, self._seed = partition == "train", batch_size, seed
        self._augmentation = resolve(augmentation)

    def __len__(self) -> int:
        return (len(self.rows) + self._batch_size - 1) // self._batch_size

    def order(self, epoch: int) -> np.ndarray:
        """Return the rows (int64) in the order in which this epoch shows them."""
        if not self._shuffled:
            return np.asarray(self.rows)
        shuffle = np.random.Generator(np.random.Philox(key=[self._seed, epoch]))
        return np.asarray(self.rows[shuffle.permutation(len(self.rows))])

    def epoch(self, epoch: int, *, first_batch: int = 0, workers: int = 0, pin_memory: bool = False) -> Iterator[Batch]:
        """Yield the batches of an epoch.

        Args:
            epoch: from 1.
            first_batch: batches already seen.
            workers: processes that load ahead; 0 loads when asked. Which does not change a bit.
            pin_memory: in page-locked memory, for CUDA.
        """
        lots = _Lots(self._pixels, self._labels, self._augmentation, self.order(epoch), self._batch_size)
        lots.draw = (self._seed, epoch)
        if workers == 0 and not pin_memory:
            yield from (lots[index] for index in range(first_batch, len(self)))
            return
        loader: DataLoader[Batch] = DataLoader(
            lots,
            batch_size=None,  # an item is a batch already: one gather, not one call per image
            sampler=range(first_batch, len(self)),
            num_workers=workers,
            pin_memory=pin_memory,
            collate_fn=_as_it_is,
        )
        yield from loader


class _Lots(Dataset[Batch]):
    """Batches of one epoch by number."""

    draw = (0, 0)

    def __init__(
        self,
        pixels: np.ndarray,
        labels: torch.Tensor,
        augmentation: Augmentation,
        order: np.ndarray,
        batch_size: int,
    ):
        self._pixels, self._labels, self._augmentation = pixels, labels, augmentation
        self._order, self._batch_size = order, batch_size

    def __getitem__(self, index: int) -> Batch:
        rows = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        images = torch.from_numpy(self._pixels[rows])[:, None]
        seed, epoch = self.draw
        images = self._augmentation(images, rows=rows, seed=seed, epoch=epoch)
        return Batch(images, self._labels[rows], torch.from_numpy(rows))


def _as_it_is(batch: Any) -> Any:
    return batch
