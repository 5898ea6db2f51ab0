"""Batches out of a cache, the same for the same (seed, epoch, index) whoever loads them."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from datasets.cache import ImageCache
from datasets.manifest import Manifest, Partition
from datasets.transforms import resolve


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


def cut(rows: int, batch_size: int) -> list[slice]:
    """Cut rows into batches; the last may be smaller, but a rest of one row goes with the batch before it.

    Batch normalisation cannot train on one image where its maps have shrunk to one pixel.
    """
    ends = list(range(batch_size, rows, batch_size))
    if rows % batch_size == 1 and ends:
        del ends[-1]
    return [slice(first, end) for first, end in zip([0, *ends], [*ends, rows], strict=True)] if rows else []


class Batches:
    """The batches of a partition; the train partition is shuffled anew in every epoch.

    There is no state to save: `epoch(3, first_batch=17)` is where an interrupted epoch 3 goes on.
    Unreadable rows are left out. The last batch may be smaller, see `cut`.

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
        self._shuffled, self._seed = partition == "train", seed
        self._cuts = cut(len(self.rows), batch_size)
        self._augmentation = resolve(augmentation)

    def __len__(self) -> int:
        return len(self._cuts)

    def order(self, epoch: int) -> np.ndarray:
        """Return the rows (int64) in the order in which this epoch shows them."""
        if not self._shuffled:
            return np.asarray(self.rows)
        shuffle = np.random.Generator(np.random.Philox(key=[self._seed, epoch]))
        return np.asarray(self.rows[shuffle.permutation(len(self.rows))])

    def epoch(self, epoch: int, *, first_batch: int = 0, workers: int = 0, pin_memory: bool = False) -> Iterator[Batch]:
        """Yield the batches of an epoch.

        Workers are threads: a gather from the memory map and torch's operations run outside the interpreter's
        lock, and so a batch is not copied between processes, nothing is forked beside CUDA, and an epoch
        starts at once.

        Args:
            epoch: from 1.
            first_batch: batches already seen.
            workers: threads that load ahead; 0 loads when asked. Which does not change a bit.
            pin_memory: in page-locked memory, for CUDA.
        """
        order = self.order(epoch)

        def load(index: int) -> Batch:
            batch = self._batch(order[self._cuts[index]], epoch)
            return Batch(*(tensor.pin_memory() for tensor in batch)) if pin_memory else batch

        if workers == 0:
            yield from map(load, range(first_batch, len(self)))
            return
        with ThreadPoolExecutor(workers) as pool:
            ahead: deque[Future[Batch]] = deque()
            for index in range(first_batch, len(self)):
                ahead.append(pool.submit(load, index))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _batch(self, rows: np.ndarray, epoch: int) -> Batch:
        images = self._augmentation(self._pixels.take(rows, axis=0), rows=rows, seed=self._seed, epoch=epoch)
        return Batch(
            torch.from_numpy(np.ascontiguousarray(images))[:, None], self._labels[rows], torch.from_numpy(rows)
        )
