"""Every image decoded once to each resolution: a memory-mapped uint8 array, shared by all trials of a node.

`<cache>/<key>/` holds `pixels.u8` (rows × R × R), `state.u8` (per row: 0 to do, 1 readable, 2 quarantined),
`sha256.bin` (32 bytes of content hash per row), `verbatim.u8` (see `datasets/derivation.py`), `quarantine.csv`
and, last of all, `complete.json`. The key is a hash of the files (paths, sizes) and of what decides about
pixels; labels and partitions are not in it.
"""

import csv
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from filelock import FileLock

from datasets.decoding import Decoded, Task, decode_all
from datasets.derivation import MARKER, VERBATIM, derived
from datasets.errors import DatasetError
from datasets.manifest import Manifest
from datasets.preprocessing import Preprocessing, resolve
from datasets.privacy import case_key, keyed_hash

TODO, READABLE, QUARANTINED = 0, 1, 2
_SETTLE_EVERY_SECONDS = 2.0

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


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


def estimate_bytes(rows: int, resolution: int) -> int:
    """Return the bytes that a cache will take."""
    return rows * (resolution * resolution + 34)


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
    specification, started = resolve(preprocessing), time.monotonic()
    folder = cache / cache_key(manifest, specification, resolution)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / MARKER).exists():
            _build(manifest, specification, folder, resolution=resolution, workers=workers, progress=progress)
    quarantined = tuple(_quarantine(folder))
    _check_quarantine(quarantined, manifest)
    return Preparation(
        folder, len(manifest), quarantined, estimate_bytes(len(manifest), resolution), time.monotonic() - started
    )


def open_cache(manifest: Manifest, *, resolution: int, preprocessing: str, cache: Path) -> ImageCache:
    """Open a prepared cache read-only.

    Raises:
        DatasetError: it has not been prepared.
    """
    folder = cache / cache_key(manifest, resolve(preprocessing), resolution)
    if not (folder / MARKER).is_file():
        raise DatasetError(
            f"the images are not prepared at {resolution} px with {preprocessing!r}",
            f"source {manifest.source}",
            fix="call datasets.cache.prepare, or `python -m datasets prepare`",
        )
    pixels = np.memmap(folder / "pixels.u8", np.uint8, mode="r", shape=(len(manifest), resolution, resolution))
    state = np.fromfile(folder / "state.u8", np.uint8)
    return ImageCache(pixels, state == READABLE, folder)


def cache_key(manifest: Manifest, specification: Preprocessing, resolution: int) -> str:
    """Return the folder name: the source, the resolution and 16 hex digits of what decides about the pixels."""
    settings = json.dumps([manifest.pixels, specification.pixels(), resolution], sort_keys=True)
    return f"{manifest.source}-{resolution}-{hashlib.sha256(settings.encode()).hexdigest()[:16]}"


def content_hashes(folder: Path) -> np.ndarray:
    """Return uint8 (rows, 32): sha256 of each file as it was when its pixels were cached, 0 where unreadable."""
    return np.fromfile(folder / "sha256.bin", np.uint8).reshape(-1, 32)


def _build(
    manifest: Manifest,
    specification: Preprocessing,
    folder: Path,
    *,
    resolution: int,
    workers: int,
    progress: Progress | None,
) -> None:
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


def _quarantine(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (hash, reason) of each quarantined row, though an interrupted build may have listed it twice or torn it."""
    with (folder / "quarantine.csv").open(newline="") as file:
        listed = {line[0]: (line[1], line[2]) for line in csv.reader(file) if len(line) == 4}
    for row in np.flatnonzero(np.fromfile(folder / "state.u8", np.uint8) == QUARANTINED):
        yield listed.get(str(row), (f"row {row}", "the reason was lost in a crash"))


def _check_quarantine(quarantined: Sequence[tuple[str, str]], manifest: Manifest) -> None:
    share = len(quarantined) / max(1, len(manifest))
    if share > manifest.quarantine_limit:
        first = "; ".join(f"{digest}: {reason}" for digest, reason in quarantined[:3])
        raise DatasetError(
            f"{len(quarantined)} of {len(manifest)} images are unreadable ({share:.1%}), first {first}",
            f"source {manifest.source}",
            f"at most {manifest.quarantine_limit:.1%}",
            "`python -m datasets verify` lists the files locally; repair them or raise quarantine_limit",
        )


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


def _described(manifest: Manifest, specification: Preprocessing, resolution: int) -> dict[str, Any]:
    return {
        "source": manifest.source,
        "images": len(manifest),
        "pixels": manifest.pixels,
        "resolution": resolution,
        "preprocessing": specification.pixels(),
    }
