"""What a trial reads: batches of its train partition from any place on, and whole partitions in order."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from datasets import sources
from datasets.cache import ImageCache, is_prepared, open_cache, prepare
from datasets.errors import DatasetError
from datasets.loaders import Batches, cut
from datasets.manifest import Manifest, Partition
from trainers import seeding
from trainers.trial import Operation, TrialConfig

EVALUATION_BATCH = 64  # images at once where no gradient is kept; no result depends on it
Batch = tuple[Tensor, Tensor, Tensor]


class Material(Protocol):
    """Images (or stored features) and labels of one trial."""

    @property
    def pathologies(self) -> tuple[str, ...]:
        """Return the names of the labels' columns."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """Return float32 (n, P), row-aligned with `instances`; NaN not given."""
        ...

    @property
    def instances(self) -> pd.DataFrame:
        """Return the manifest's table."""
        ...

    @property
    def fingerprint(self) -> str:
        """Return the manifest's fingerprint."""
        ...

    def steps(self) -> int:
        """Return the optimizer steps of one epoch."""
        ...

    def train(self, epoch: int, *, start: int) -> Iterator[Batch]:
        """Yield (images, labels, rows) of an epoch (counted from 0) from batch `start` on."""
        ...

    def partition(self, name: str) -> Iterator[Batch]:
        """Yield (images, labels, rows) of a partition in order, not augmented."""
        ...

    def rows(self, partition: str) -> np.ndarray:
        """Return the readable rows of a partition."""
        ...


@dataclass(frozen=True, slots=True)
class ImageMaterial:
    """Images from a prepared cache, augmented as the recipe says.

    Attributes:
        manifest: labels and partitions.
        cache: pixels.
        config: batch size, seed, augmentation.
        workers: threads that load ahead.
        pinned: whether batches lie in page-locked memory, for CUDA.
    """

    manifest: Manifest
    cache: ImageCache
    config: TrialConfig
    workers: int
    pinned: bool

    @property
    def pathologies(self) -> tuple[str, ...]:
        """Return the label names."""
        return self.manifest.pathologies

    @property
    def labels(self) -> np.ndarray:
        """Return the labels (n, P)."""
        return self.manifest.labels

    @property
    def instances(self) -> pd.DataFrame:
        """Return the manifest's table."""
        return self.manifest.instances

    @property
    def fingerprint(self) -> str:
        """Return the manifest's fingerprint."""
        return self.manifest.fingerprint

    def steps(self) -> int:
        """Return the optimizer steps of one epoch; the last batch may be smaller."""
        return len(self._train())

    def train(self, epoch: int, *, start: int) -> Iterator[Batch]:
        """Yield an epoch's batches from `start` on."""
        # The loader counts epochs from 1.
        yield from self._train().epoch(epoch + 1, first_batch=start, workers=self.workers, pin_memory=self.pinned)

    def partition(self, name: str) -> Iterator[Batch]:
        """Yield a partition in order, not augmented."""
        rows = self.rows(name)
        for first in range(0, len(rows), EVALUATION_BATCH):
            chosen = rows[first : first + EVALUATION_BATCH]
            images = torch.from_numpy(self.cache.pixels[chosen])[:, None]
            yield images, torch.from_numpy(self.manifest.labels[chosen]), torch.from_numpy(chosen)

    def rows(self, partition: str) -> np.ndarray:
        """Return the readable rows of a partition."""
        rows = self.manifest.rows(cast(Partition, partition))
        readable: np.ndarray = rows[self.cache.readable[rows]]
        return readable

    def _train(self) -> Batches:
        recipe = self.config.recipe
        return Batches(
            self.manifest,
            self.cache,
            partition="train",
            batch_size=recipe.batch_size,
            seed=self.config.seed,
            augmentation=recipe.augmentation,
        )


def open_images(config: TrialConfig, operation: Operation, *, pinned: bool = False) -> ImageMaterial:
    """Open the images of a trial, preparing the cache if nobody did.

    What could not be read then is not tried again here: the trials of a study are to see the same images.

    Raises:
        datasets.errors.DatasetError: the data cannot be used, or are others than were found before.
    """
    manifest = sources.load(config.dataset, operation.data_root)
    if operation.fingerprint not in {None, manifest.fingerprint}:
        raise DatasetError(
            "labels, partitions or images changed since the study looked at them",
            where=f"data set {config.dataset.name}",
            fix="run the study again; it trains on the data as they are then",
        )
    resolution, preprocessing = config.resolution, config.dataset.preprocessing
    if not is_prepared(manifest, resolution=resolution, preprocessing=preprocessing, cache=operation.cache):
        prepare(
            manifest,
            resolution=resolution,
            preprocessing=preprocessing,
            cache=operation.cache,
            workers=operation.threads,
        )
    cache = open_cache(manifest, resolution=resolution, preprocessing=preprocessing, cache=operation.cache)
    return ImageMaterial(manifest, cache, config, operation.loader_workers, pinned)


@dataclass(frozen=True, slots=True)
class TensorMaterial:
    """Material that fits in memory: stored features, or small images.

    Attributes:
        inputs: (n, …) row-aligned with `instances`.
        batch_size: of training; evaluation uses eight times as many rows at once.
        seed: of the order of the rows.
        described: how the inputs were computed, for the checkpoint.
    """

    inputs: Tensor
    labels: np.ndarray
    pathologies: tuple[str, ...]
    instances: pd.DataFrame
    fingerprint: str
    batch_size: int
    seed: int
    described: dict[str, Any] = field(default_factory=dict)

    def steps(self) -> int:
        """Return the optimizer steps of one epoch; the last batch may be smaller."""
        return len(cut(len(self.rows("train")), self.batch_size))

    def train(self, epoch: int, *, start: int) -> Iterator[Batch]:
        """Yield an epoch in an order drawn from (seed, epoch)."""
        rows = self.rows("train")
        order = np.random.default_rng(seeding.derive(self.seed, "order", epoch)).permutation(len(rows))
        yield from self._batches(rows[order], self.batch_size, start)

    def partition(self, name: str) -> Iterator[Batch]:
        """Yield a partition in order."""
        yield from self._batches(self.rows(name), 8 * self.batch_size, 0)

    def rows(self, partition: str) -> np.ndarray:
        """Return the rows of a partition."""
        return np.flatnonzero((self.instances["partition"] == partition).to_numpy())

    def _batches(self, rows: np.ndarray, size: int, start: int) -> Iterator[Batch]:
        for batch in cut(len(rows), size)[start:]:
            chosen = torch.from_numpy(rows[batch].astype(np.int64))
            labels = torch.from_numpy(self.labels[chosen.numpy()].astype(np.float32))
            yield self.inputs[chosen], labels, chosen
