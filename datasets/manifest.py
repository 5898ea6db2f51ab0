"""A manifest: which images there are, whose they are, what is known of them, and who may see them."""

import dataclasses
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

Partition = Literal["train", "val", "test"]
PARTITIONS: tuple[Partition, ...] = ("train", "val", "test")
COLUMNS = ("path", "case", "patient", "view", "age", "sex", "origin", "partition")
PEOPLE = tuple(name for name in COLUMNS if name != "partition")
"""Whose an image is and what is known of it; the partition is in the fingerprint."""
_SAMPLED_FILES = 8
_SAMPLED_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Manifest:
    """The rows of one data set as one configuration sees them.

    Attributes:
        source: module in `datasets/sources` that read it.
        root: folder that the paths are relative to.
        instances: one row per image with the columns `path` (relative to root), `case` and `patient` (raw
            identifiers: they never leave this room unhashed), `view` ('PA', 'AP', 'LATERAL', … or None),
            `age` (years, NaN unknown), `sex` ('M', 'F' or None), `origin` (sub-source or None), `partition`.
        labels: float32 (rows, pathologies): 1 present, 0 absent, NaN not given; values between only in the
            train partition (soft labels).
        pathologies: canonical names, in the order of the columns of `labels`.
        fingerprint: sha256 (hex) of `pixels`, pathologies, partitions and labels.
        pixels: sha256 (hex) of source, paths, file sizes and a sample of the files' content; what a cache of pixels
            depends on. A sample, since reading every file would cost as much as preparing it, and without one a
            re-export of all images at equal sizes, as uncompressed DICOM gives, would be taken for the first. One
            file changed among many may not be in it: `python -m datasets verify --cache` compares all of them.
        validation: how the validation partition came about, e.g. 'drawn from train by patient'.
        completeness: 'complete', 'subset' or 'differs' by the published counts, 'unknown' where there are none.
        quarantine_limit: largest share of unreadable images that is put up with.
    """

    source: str
    root: Path
    instances: pd.DataFrame
    labels: np.ndarray
    pathologies: tuple[str, ...]
    fingerprint: str
    pixels: str
    validation: str
    completeness: str = "unknown"
    quarantine_limit: float = 0.01

    def __len__(self) -> int:
        return len(self.instances)

    def rows(self, partition: Partition) -> np.ndarray:
        """Return the row numbers (int64) of a partition, ascending."""
        return np.flatnonzero((self.instances["partition"] == partition).to_numpy())

    @property
    def people(self) -> str:
        """sha256 (hex) of whose images they are and what is known of them; no network depends on it, intervals do."""
        return _digest(*(self.instances[name].astype(str).tolist() for name in PEOPLE))

    def take(self, rows: np.ndarray) -> "Manifest":
        """Return a manifest of these rows only, with fingerprints of its own."""
        instances = self.instances.iloc[rows].reset_index(drop=True)
        labels = self.labels[rows]
        part = dataclasses.replace(self, instances=instances, labels=labels)
        return part.fingerprinted(sizes_of(self.root, instances["path"]))

    def fingerprinted(self, sizes: np.ndarray) -> "Manifest":
        """Return the same manifest with `fingerprint` and `pixels` computed.

        Of 8 files spread evenly over those that are there, the first 64 KiB and 64 KiB from the middle are read.

        Args:
            sizes: int64 (rows,), bytes of each file, -1 where it is missing.
        """
        pixels = _digest(self.source, list(self.instances["path"]), sizes.tolist(), self._sample(sizes))
        labels = np.where(np.isnan(self.labels), np.float32(-9), self.labels).astype("<f4")
        fingerprint = _digest(
            pixels,
            list(self.pathologies),
            list(self.instances["partition"]),
            hashlib.sha256(labels.tobytes()).hexdigest(),
        )
        return dataclasses.replace(self, fingerprint=fingerprint, pixels=pixels)

    def _sample(self, sizes: np.ndarray) -> list[str]:
        present = np.flatnonzero(sizes >= 0)
        rows = present[np.linspace(0, len(present) - 1, min(_SAMPLED_FILES, len(present))).astype(int)]
        files = [self.root / path for path in self.instances["path"].iloc[rows]]
        with ThreadPoolExecutor(_SAMPLED_FILES) as pool:  # a network file system answers many questions at once
            return list(pool.map(_sampled, files, (sizes[rows] // 2).tolist()))


def sizes_of(root: Path, paths: pd.Series) -> np.ndarray:
    """Return the size in bytes (int64, -1 missing) of each file, reading every folder once and no file."""
    folders = sorted({path.rpartition("/")[0] for path in paths})
    sizes: dict[str, int] = {}
    with ThreadPoolExecutor(16) as pool:  # a network file system answers many questions at once
        for part in pool.map(partial(_sizes_in, root), folders):
            sizes |= part
    return np.array([sizes.get(path, -1) for path in paths], dtype=np.int64)


def _sizes_in(root: Path, folder: str) -> dict[str, int]:
    prefix = f"{folder}/" if folder else ""
    try:
        with os.scandir(root / folder) as entries:
            return {f"{prefix}{entry.name}": entry.stat().st_size for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _sampled(path: Path, middle: int) -> str:
    """Return the sha256 (hex) of a file's beginning and of as many bytes from its middle on; '' if it is unreadable."""
    try:
        with path.open("rb") as file:
            content = file.read(_SAMPLED_BYTES)
            file.seek(middle)
            return hashlib.sha256(content + file.read(_SAMPLED_BYTES)).hexdigest()
    except OSError:
        return ""


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
