"""Fills a cache row by row, so that it may be interrupted anywhere and goes on."""

import csv
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from datasets.decoding import Decoded, Task, decode_all
from datasets.derivation import MARKER, PIXELS, VERBATIM, derived
from datasets.errors import DatasetError
from datasets.manifest import Manifest
from datasets.preprocessing import Preprocessing
from datasets.privacy import case_key, keyed_hash
from datasets.whole_file import replacing, reserve

TODO, READABLE, QUARANTINED, NOT_READ = 0, 1, 2, 3
"""States of a row: NOT_READ is quarantined until it is tried again, since the disk or the machine was at fault."""
_SETTLE_EVERY_SECONDS = 2.0

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


def too_many(state: np.ndarray, manifest: Manifest) -> bool:
    """Say whether more rows are quarantined than the manifest puts up with."""
    return int((state >= QUARANTINED).sum()) / max(1, len(manifest)) > manifest.quarantine_limit


def estimate_bytes(rows: int, resolution: int) -> int:
    """Return the bytes that a cache will take."""
    return rows * (resolution * resolution + 34)


def build(
    manifest: Manifest,
    specification: Preprocessing,
    folders: Mapping[int, Path],
    *,
    workers: int,
    progress: Progress | None,
) -> None:
    """Decode what is not decoded yet, every file once for all resolutions; write a marker to each cache that is whole.

    A whole cache has no more quarantined rows than the manifest puts up with. One that has is left unfinished, and
    all its quarantined rows are tried again by the next call; of a whole one those that the disk or the machine failed.

    Args:
        manifest: whose images.
        specification: how they are prepared.
        folders: of the caches, by the side of their squares; nobody else may be building in them.
        workers: processes.
        progress: told (files done, files in all) now and then.

    Raises:
        DatasetError: the disk is too small.
    """
    rows, key = len(manifest), case_key(next(iter(folders.values())).parent)
    _check_space({folder: estimate_bytes(rows, side) for side, folder in folders.items()})
    growing = [_Growing.open(folder, manifest, side) for side, folder in folders.items()]
    for cache in growing:
        wanted = _described(manifest, specification, cache.side)
        for result in derived(cache.todo(), wanted=wanted, cache=cache.folder.parent, specification=specification):
            cache.put(result, result.squares[0], verbatim=False)
        cache.settle()
    _decode_into(growing, manifest, specification, key=key, workers=workers, progress=progress)
    for cache in growing:
        cache.settle()
        cache.listing.close()
        if too_many(cache.state, manifest):
            continue
        with replacing(cache.folder / MARKER) as aside:
            aside.write_text(json.dumps(_described(manifest, specification, cache.side), indent=1))


def _decode_into(
    growing: "Sequence[_Growing]",
    manifest: Manifest,
    specification: Preprocessing,
    *,
    key: bytes,
    workers: int,
    progress: Progress | None,
) -> None:
    paths, rows = manifest.instances["path"].to_numpy(), len(manifest)
    lacking: dict[int, list[_Growing]] = {}
    for cache in growing:
        for row in cache.todo().tolist():
            lacking.setdefault(row, []).append(cache)
    tasks = (
        Task(row, manifest.root / paths[row], specification.name, tuple(cache.side for cache in lacking[row]))
        for row in sorted(lacking)
    )
    settled = time.monotonic()
    for count, result in enumerate(decode_all(tasks, workers=workers), start=rows - len(lacking) + 1):
        for place, cache in enumerate(lacking[result.row]):
            if result.reason is None:
                cache.put(result, result.squares[place], verbatim=result.verbatim[place])
            else:
                name = str(paths[result.row])
                cache.quarantine(result.row, [keyed_hash(key, name), result.reason, name], again=result.again)
        if time.monotonic() - settled > _SETTLE_EVERY_SECONDS:
            for cache in growing:
                cache.settle()
            settled = time.monotonic()
            if progress:
                progress(count, rows)
    if progress:
        progress(rows, rows)


@dataclass(frozen=True, slots=True)
class _Growing:
    """The files of a cache that is being built, and the rows that are written but not yet declared done.

    `doubtful` are the states whose rows are to do.
    """

    folder: Path
    side: int
    pixels: np.memmap
    hashes: np.memmap
    verbatim: np.memmap
    state: np.memmap
    listing: TextIO
    doubtful: tuple[int, ...]
    unsettled: dict[int, int] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, manifest: Manifest, side: int) -> "_Growing":
        rows = len(manifest)
        state = _array(folder / "state.u8", (rows,))
        whole = (folder / MARKER).exists() and not too_many(state, manifest)
        return cls(
            folder,
            side,
            _array(folder / PIXELS, (rows, side, side)),
            _array(folder / "sha256.bin", (rows, 32)),
            _array(folder / VERBATIM, (rows,)),
            state,
            _quarantine_list(folder / "quarantine.csv"),
            (TODO, NOT_READ) if whole else (TODO, NOT_READ, QUARANTINED),
        )

    def todo(self) -> np.ndarray:
        """Return the rows (int64) that are not done."""
        return np.flatnonzero(np.isin(self.state, self.doubtful))

    def put(self, result: Decoded, square: np.ndarray, *, verbatim: bool) -> None:
        self.pixels[result.row] = square
        self.hashes[result.row] = np.frombuffer(bytes.fromhex(result.sha256 or ""), np.uint8)
        self.verbatim[result.row] = verbatim
        self.unsettled[result.row] = READABLE

    def quarantine(self, row: int, told: list[str], *, again: bool) -> None:
        csv.writer(self.listing).writerow([row, *told])
        self.unsettled[row] = NOT_READ if again else QUARANTINED

    def settle(self) -> None:
        """Say that rows are done only after their pixels are on disk: a torn build then never trusts a torn row."""
        for array in (self.pixels, self.hashes, self.verbatim, self.listing):
            array.flush()
        for row, value in self.unsettled.items():
            self.state[row] = value
        self.state.flush()
        self.unsettled.clear()


def _array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """Open a growing array for writing; a new one is all zeros."""
    size = int(np.prod(shape))
    if not path.exists() or path.stat().st_size != size:
        try:
            reserve(path, size)
        except OSError as error:
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


def _check_space(caches: Mapping[Path, int]) -> None:
    """Refuse caches that together take more bytes than are free; what is there of them has its bytes already."""
    place = next(iter(caches)).parent
    stats = os.statvfs(place)
    free = stats.f_bavail * stats.f_frsize
    begun = [folder / PIXELS for folder in caches if (folder / PIXELS).exists()]
    needed = sum(caches.values()) - sum(path.stat().st_blocks * 512 for path in begun)
    if needed > free:
        raise DatasetError(
            f"the cache needs {needed / 1e9:.1f} GB more and {free / 1e9:.1f} GB are free",
            str(place),
            fix="give another cache folder, or `python -m datasets gc`",
        )
