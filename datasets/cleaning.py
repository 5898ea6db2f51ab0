"""What lies in the cache folder, and what of it no study uses."""

import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from datasets.derivation import MARKER


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One cache.

    Attributes:
        name: folder name.
        bytes: on disk.
        idle_days: since it was last opened or written.
        complete: its marker is there.
        images: rows, 0 if unknown.
    """

    name: str
    bytes: int
    idle_days: float
    complete: bool
    images: int


def entries(cache: Path) -> list[CacheEntry]:
    """Return the caches in a folder, largest first."""
    found = [_entry(folder) for folder in cache.iterdir() if (folder / "pixels.u8").is_file()] if cache.is_dir() else []
    return sorted(found, key=lambda entry: (-entry.bytes, entry.name))


def remove_unused(
    cache: Path, *, used: Iterable[str] = (), idle_days: float = 30.0, dry_run: bool = True
) -> list[CacheEntry]:
    """Remove caches that no study names and nobody opened for a while.

    Args:
        cache: folder of all caches.
        used: names of caches to keep, e.g. those of the studies at hand.
        idle_days: opened or written more recently is kept; a build that is under way always is.
        dry_run: only say what would go.

    Returns:
        What went, or would go.
    """
    keep = set(used)
    unused = [entry for entry in entries(cache) if entry.name not in keep and entry.idle_days >= idle_days]
    return [entry for entry in unused if dry_run or _remove(cache / entry.name)]


def _entry(folder: Path) -> CacheEntry:
    files = [path.stat() for path in folder.iterdir() if path.is_file()]
    touched = max(max(stat.st_mtime, stat.st_atime) for stat in files)
    images = (folder / "state.u8").stat().st_size if (folder / "state.u8").is_file() else 0
    return CacheEntry(
        folder.name,
        sum(stat.st_blocks * 512 for stat in files),
        max(0.0, (time.time() - touched) / 86_400),
        (folder / MARKER).is_file(),
        images,
    )


def _remove(folder: Path) -> bool:
    try:
        with FileLock(folder / "lock", timeout=0):
            (folder / MARKER).unlink(missing_ok=True)  # first: what is half removed must not look whole
            shutil.rmtree(folder)
    except Timeout:
        return False
    return True
