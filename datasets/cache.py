"""Every image decoded once to each resolution: a memory-mapped uint8 array, shared by all trials of a node.

`<cache>/<key>/` holds `pixels.u8` (rows × R × R), `state.u8` (per row: 0 to do, 1 readable, 2 quarantined, 3
quarantined until it is tried again, since the disk or the machine was at fault and not the file), `sha256.bin`
(32 bytes of content hash per row), `verbatim.u8` (see `datasets/derivation.py`), `quarantine.csv` and, last of
all, `complete.json`. The key is a hash of the files (paths, sizes, a sample of their content) and of what decides
about pixels; labels and partitions are not in it.
"""

import csv
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from datasets.building import NOT_READ, QUARANTINED, READABLE, Progress, build, estimate_bytes, too_many
from datasets.derivation import MARKER, PIXELS, have_their_sizes
from datasets.errors import DatasetError
from datasets.manifest import Manifest
from datasets.preprocessing import Preprocessing, resolve


@dataclass(frozen=True, slots=True)
class Preparation:
    """What `prepare` found or did.

    Attributes:
        folder: of the cache.
        images: rows in all.
        quarantined: (keyed hash of the path, reason) of each unreadable row.
        bytes: of pixels.
        seconds: this call took; next to nothing if all was done before.
    """

    folder: Path
    images: int
    quarantined: tuple[tuple[str, str], ...]
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ImageCache:
    """Pixels of a manifest, row by row; opened read-only, so that all processes share the same pages.

    Attributes:
        pixels: memory map, uint8 (rows, R, R).
        readable: bool (rows,); the pixels of an unreadable row are 0 and mean nothing.
        folder: of the cache.
    """

    pixels: np.ndarray
    readable: np.ndarray
    folder: Path


def prepare(
    manifest: Manifest,
    *,
    resolution: int,
    preprocessing: str,
    cache: Path,
    workers: int = 1,
    progress: Progress | None = None,
) -> Preparation:
    """Decode what is not in the cache yet.

    Interrupted and called again it goes on where it was. Of two processes or nodes that ask for the same
    cache one builds and the other waits for it.

    Every call tries those images again that could not be read for want of access, time or memory. One that was refused
    for what it is stays refused, unless there are more unreadable images than the manifest puts up with.

    Args:
        manifest: whose images.
        resolution: side of the squares in pixels.
        preprocessing: a name in `datasets.preprocessing`.
        cache: folder of all caches; may be shared by several data sets and nodes.
        workers: processes.
        progress: told now and then.

    Raises:
        DatasetError: more images are unreadable than the manifest puts up with, or the disk is too small.
    """
    (prepared,) = prepare_all(
        manifest,
        resolutions=(resolution,),
        preprocessing=preprocessing,
        cache=cache,
        workers=workers,
        progress=progress,
    )
    return prepared


def prepare_all(
    manifest: Manifest,
    *,
    resolutions: Sequence[int],
    preprocessing: str,
    cache: Path,
    workers: int = 1,
    progress: Progress | None = None,
) -> tuple[Preparation, ...]:
    """Decode every image once for all these resolutions; otherwise as `prepare`, with one result per resolution."""
    specification, started = resolve(preprocessing), time.monotonic()
    sides = sorted(set(resolutions))
    folders = {side: cache / cache_key(manifest, specification, side) for side in sides}
    with ExitStack() as locks:
        for folder in folders.values():  # in one order everywhere, so that two builders cannot wait for each other
            _make(folder)
            locks.enter_context(FileLock(folder / "lock"))
        for side, folder in folders.items():
            if (folder / PIXELS).exists() and not _is_whole(folder, manifest, side):
                _discard(folder)
        missing = {side: folder for side, folder in folders.items() if _lacks_rows(folder, manifest)}
        if missing:
            build(manifest, specification, missing, workers=workers, progress=progress)
    seconds, rows = time.monotonic() - started, len(manifest)
    done = {side: tuple(_quarantine(folder)) for side, folder in folders.items()}
    _check_quarantine(max(done.values(), key=len), manifest)
    return tuple(
        Preparation(folders[side], rows, done[side], estimate_bytes(rows, side), seconds) for side in resolutions
    )


def is_prepared(manifest: Manifest, *, resolution: int, preprocessing: str, cache: Path) -> bool:
    """Say whether there is a finished cache, with no more unreadable images than the manifest puts up with."""
    folder = cache / cache_key(manifest, resolve(preprocessing), resolution)
    return _finished(folder, manifest) and _is_whole(folder, manifest, resolution)


def open_cache(manifest: Manifest, *, resolution: int, preprocessing: str, cache: Path) -> ImageCache:
    """Open a prepared cache read-only.

    Raises:
        DatasetError: it has not been prepared, or was cut off since.
    """
    folder = cache / cache_key(manifest, resolve(preprocessing), resolution)
    if not (folder / MARKER).is_file():
        raise DatasetError(
            f"the images are not prepared at {resolution} px with {preprocessing!r}",
            f"source {manifest.source}",
            fix="call datasets.cache.prepare, or `python -m datasets prepare`",
        )
    if not _is_whole(folder, manifest, resolution):
        raise DatasetError(
            "the cache was cut off since it was prepared", str(folder), fix="`run` or prepare again: it is built anew"
        )
    pixels = np.memmap(folder / PIXELS, np.uint8, mode="r", shape=(len(manifest), resolution, resolution))
    return ImageCache(pixels, _state(folder) == READABLE, folder)


def cache_key(manifest: Manifest, specification: Preprocessing, resolution: int) -> str:
    """Return the folder name: the source, the resolution and 16 hex digits of what decides about the pixels."""
    settings = json.dumps([manifest.pixels, specification.pixels(), resolution], sort_keys=True)
    return f"{manifest.source}-{resolution}-{hashlib.sha256(settings.encode()).hexdigest()[:16]}"


def content_hashes(folder: Path) -> np.ndarray:
    """Return uint8 (rows, 32): sha256 of each file as it was when its pixels were cached, 0 where unreadable."""
    return np.fromfile(folder / "sha256.bin", np.uint8).reshape(-1, 32)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(
            f"a cache cannot be made: {os.strerror(error.errno or 0)}",
            str(folder.parent),
            "a folder that may be written to",
            "give another cache folder",
        ) from None


def _is_whole(folder: Path, manifest: Manifest, side: int) -> bool:
    """Say whether the files have their sizes, which they get before the first row is written."""
    return have_their_sizes(folder, rows=len(manifest), side=side)


def _discard(folder: Path) -> None:
    """Remove what is left of a cache that was cut off: its states say of rows that they are there."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name != MARKER):
        if path.name != "lock":
            path.unlink()


def _finished(folder: Path, manifest: Manifest) -> bool:
    return (folder / MARKER).is_file() and not too_many(_state(folder), manifest)


def _lacks_rows(folder: Path, manifest: Manifest) -> bool:
    return not _finished(folder, manifest) or bool((_state(folder) == NOT_READ).any())


def _state(folder: Path) -> np.ndarray:
    return np.fromfile(folder / "state.u8", np.uint8)


def _quarantine(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (hash, reason) of each quarantined row, though an interrupted build may have listed it twice or torn it."""
    listed: dict[str, tuple[str, str]] = {}
    if (folder / "quarantine.csv").is_file():
        with (folder / "quarantine.csv").open(newline="") as file:
            listed = {line[0]: (line[1], line[2]) for line in csv.reader(file) if len(line) == 4}
    for row in np.flatnonzero(_state(folder) >= QUARANTINED):
        yield listed.get(str(row), (f"row {row}", "the reason was lost in a crash"))


def _check_quarantine(quarantined: Sequence[tuple[str, str]], manifest: Manifest) -> None:
    share = len(quarantined) / max(1, len(manifest))
    if share > manifest.quarantine_limit:
        first = "; ".join(f"{digest}: {reason}" for digest, reason in quarantined[:3])
        raise DatasetError(
            f"{len(quarantined)} of {len(manifest)} images are unreadable ({share:.1%}), first {first}",
            f"source {manifest.source}",
            f"at most {manifest.quarantine_limit:.1%}",
            "`python -m datasets verify … --files LIST` lists the files locally; repair them or raise quarantine_limit",
        )
