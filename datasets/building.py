"""Fills a cache row by row, so that it may be interrupted anywhere and goes on."""

import csv
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from datasets.decoding import Decoded, Task, decode_all
from datasets.derivation import MARKER, VERBATIM, derived
from datasets.errors import DatasetError
from datasets.manifest import Manifest
from datasets.preprocessing import Preprocessing
from datasets.privacy import case_key, keyed_hash

TODO, READABLE, QUARANTINED = 0, 1, 2
_SETTLE_EVERY_SECONDS = 2.0

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


def estimate_bytes(rows: int, resolution: int) -> int:
    """Return the bytes that a cache will take."""
    return rows * (resolution * resolution + 34)


def build(
    manifest: Manifest,
    specification: Preprocessing,
    folder: Path,
    *,
    resolution: int,
    workers: int,
    progress: Progress | None,
) -> None:
    """Decode what is not decoded yet, and write the marker once all is.

    Args:
        manifest: whose images.
        specification: how they are prepared.
        folder: of the cache; nobody else may be building in it.
        resolution: side of the squares in pixels.
        workers: processes.
        progress: told now and then.

    Raises:
        DatasetError: the disk is too small.
    """
    rows = len(manifest)
    _check_space(folder, estimate_bytes(rows, resolution))
    arrays = _Arrays.open(folder, rows, resolution)
    todo = np.flatnonzero(arrays.state == TODO)
    described = _described(manifest, specification, resolution)
    paths, key = manifest.instances["path"].to_numpy(), case_key(folder.parent)
    settled = time.monotonic()
    with _quarantine_list(folder / "quarantine.csv") as file:
        results = _squares(manifest, specification, todo, described=described, folder=folder, workers=workers)
        for count, result in enumerate(results, start=rows - len(todo) + 1):
            if result.reason is not None:
                name = str(paths[result.row])
                csv.writer(file).writerow([result.row, keyed_hash(key, name), result.reason, name])
                file.flush()
            arrays.put(result)
            if time.monotonic() - settled > _SETTLE_EVERY_SECONDS:
                arrays.settle()
                settled = time.monotonic()
                if progress:
                    progress(count, rows)
    arrays.settle()
    if progress:
        progress(rows, rows)
    aside = folder / f".{MARKER}"
    aside.write_text(json.dumps(described, indent=1))
    aside.replace(folder / MARKER)


def _squares(
    manifest: Manifest,
    specification: Preprocessing,
    todo: np.ndarray,
    *,
    described: dict[str, Any],
    folder: Path,
    workers: int,
) -> Iterator[Decoded]:
    """Yield what is to do: first the rows that a larger cache gives without a loss, then those of the files."""
    left = set(todo.tolist())
    for result in derived(todo, wanted=described, cache=folder.parent, specification=specification):
        left.discard(result.row)
        yield result
    paths, sides = manifest.instances["path"].to_numpy(), (described["resolution"],)
    tasks = (Task(row, manifest.root / paths[row], specification.name, sides) for row in sorted(left))
    yield from decode_all(tasks, workers=workers)


@dataclass(frozen=True, slots=True)
class _Arrays:
    """The growing files of a cache, and the rows whose pixels are written but not yet declared done."""

    pixels: np.memmap
    hashes: np.memmap
    verbatim: np.memmap
    state: np.memmap
    unsettled: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def open(cls, folder: Path, rows: int, resolution: int) -> "_Arrays":
        return cls(
            _array(folder / "pixels.u8", (rows, resolution, resolution)),
            _array(folder / "sha256.bin", (rows, 32)),
            _array(folder / VERBATIM, (rows,)),
            _array(folder / "state.u8", (rows,)),
        )

    def put(self, result: Decoded) -> None:
        if result.reason is None:
            self.pixels[result.row] = result.squares[0]
            self.hashes[result.row] = np.frombuffer(bytes.fromhex(result.sha256 or ""), np.uint8)
            self.verbatim[result.row] = result.verbatim[0]
        self.unsettled.append((result.row, READABLE if result.reason is None else QUARANTINED))

    def settle(self) -> None:
        """Say that rows are done only after their pixels are on disk: a torn build then never trusts a torn row."""
        for array in (self.pixels, self.hashes, self.verbatim):
            array.flush()
        for row, value in self.unsettled:
            self.state[row] = value
        self.state.flush()
        self.unsettled.clear()


def _array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """Open a growing array for writing; a new one is all zeros.

    Its bytes are reserved at once: a disk that fills up later would end the process by a bus error.
    """
    size = int(np.prod(shape))
    if not path.exists() or path.stat().st_size != size:
        with path.open("wb") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                path.unlink()
                raise DatasetError(
                    f"no room for {size / 1e9:.2f} GB: {os.strerror(error.errno or 0)}", str(path.parent.parent)
                ) from None
    return np.memmap(path, np.uint8, mode="r+", shape=shape)


def _quarantine_list(path: Path) -> TextIO:
    """Open the keeper's list, past a last line that a crash may have torn."""
    torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    file = path.open("a", newline="")
    path.chmod(0o600)  # it names files; it stays where the pixels are
    if torn:
        file.write("\n")
    return file


def _described(manifest: Manifest, specification: Preprocessing, resolution: int) -> dict[str, Any]:
    return {
        "source": manifest.source,
        "images": len(manifest),
        "pixels": manifest.pixels,
        "resolution": resolution,
        "preprocessing": specification.pixels(),
    }


def _check_space(folder: Path, needed: int) -> None:
    stats = os.statvfs(folder)
    free = stats.f_bavail * stats.f_frsize
    present = (folder / "pixels.u8").stat().st_blocks * 512 if (folder / "pixels.u8").exists() else 0
    if needed - present > free:
        raise DatasetError(
            f"the cache needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free",
            str(folder.parent),
            fix="give another cache folder, or `python -m datasets gc`",
        )
