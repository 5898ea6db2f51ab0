"""What lies in the cache folder, and what of it no study uses.

A study's preparation leaves `caches.json` in the study's folder, which lies beside the cache folder: the names of the
caches it reads. Removing a study's folder, or running the study after an edit, therefore also frees its caches.

`features/<key>/` in the cache folder holds what was computed of a cache, whose name it keeps in `made_from.txt`. It
goes when that cache goes or is gone.
"""

import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from datasets.derivation import MARKER, PIXELS
from datasets.errors import DatasetError
from datasets.whole_file import replacing

USES = "caches.json"
FEATURES = "features"
_MADE_FROM = "made_from.txt"
_READ_OF_ALL = (MARKER, _MADE_FROM)
"""Who looks for a cache, or for what may go, reads these of every one: that is no use of it."""
STORE_MARKER = "COMPLETE"
"""Written last into a feature store."""


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One cache.

    Attributes:
        name: folder name.
        bytes: on disk.
        idle_days: since it was last opened or written.
        complete: its marker is there.
        images: rows, 0 if unknown.
        made_from: of a feature store: the cache it was computed of, None where that was not recorded.
    """

    name: str
    bytes: int
    idle_days: float
    complete: bool
    images: int
    made_from: str | None = None


def entries(cache: Path) -> list[CacheEntry]:
    """Return the caches in a folder, largest first."""
    found = [_entry(folder) for folder in cache.iterdir() if (folder / PIXELS).is_file()] if cache.is_dir() else []
    return sorted(found, key=lambda entry: (-entry.bytes, entry.name))


def stores(cache: Path) -> list[CacheEntry]:
    """Return the feature stores in a cache folder, largest first; their names begin with `features/`."""
    folders = [path for path in (cache / FEATURES).glob("*") if path.is_dir() and any(path.iterdir())]
    return sorted((_store(folder) for folder in folders), key=lambda entry: (-entry.bytes, entry.name))


def record_origin(store: Path, cache: Path) -> None:
    """Write down of which cache a feature store is made, before it is finished."""
    with replacing(store / _MADE_FROM) as aside:
        aside.write_text(cache.name)


def record_uses(study_folder: Path, caches: Iterable[str]) -> None:
    """Write down which caches a study reads, instead of what it was recorded to read before.

    Args:
        study_folder: beside the folder of all caches.
        caches: names in the folder of all caches.
    """
    with replacing(study_folder / USES) as aside:
        aside.write_text(json.dumps(sorted(set(caches)), indent=1))


def recorded_uses(study_folder: Path) -> set[str]:
    """Return the names of the caches that a study reads, as it recorded them; none if it recorded nothing.

    Raises:
        DatasetError: the record cannot be read.
    """
    path = study_folder / USES
    if not path.is_file():
        return set()
    try:
        names = json.loads(path.read_text())
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DatasetError(
            "the record of caches in use cannot be read",
            str(path),
            "a JSON list of names",
            "remove the file and run the study again, which writes it anew",
        )
    return set(names)


def users(cache: Path) -> dict[str, list[str]]:
    """Return, by name of a cache, the studies in the same storage folder that use it.

    Raises:
        DatasetError: a study's record cannot be read; nothing may be removed then.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(cache.absolute().parent.glob(f"*/{USES}")):
        for name in recorded_uses(path.parent):
            found.setdefault(name, []).append(path.parent.name)
    return found


def remove_unused(
    cache: Path, *, used: Iterable[str] = (), idle_days: float = 0.0, dry_run: bool = True
) -> list[CacheEntry]:
    """Remove caches that no study uses, and the feature stores made of them or of caches that are gone.

    Args:
        cache: folder of all caches.
        used: names of caches to keep, beside those that studies of the same storage folder recorded.
        idle_days: opened or written more recently is kept, too; a build that is under way always is.
        dry_run: only say what would go.

    Returns:
        What went, or would go.

    Raises:
        DatasetError: a study's record cannot be read.
    """
    keep = {*used, *users(cache)}
    found = entries(cache)
    unused = [entry for entry in found if entry.name not in keep and entry.idle_days >= idle_days]
    staying = {entry.name for entry in found} - {entry.name for entry in unused}
    unused += [
        store
        for store in stores(cache)
        if store.made_from is not None and not {store.name, store.made_from} & (keep | staying)
        if store.idle_days >= idle_days
    ]
    return [entry for entry in unused if dry_run or _remove(cache / entry.name)]


def _entry(folder: Path) -> CacheEntry:
    images = (folder / "state.u8").stat().st_size if (folder / "state.u8").is_file() else 0
    return CacheEntry(folder.name, *_size_and_idle_days(folder), (folder / MARKER).is_file(), images)


def _store(folder: Path) -> CacheEntry:
    origin = folder / _MADE_FROM
    return CacheEntry(
        f"{FEATURES}/{folder.name}",
        *_size_and_idle_days(folder),
        (folder / STORE_MARKER).is_file(),
        0,
        origin.read_text() if origin.is_file() else None,
    )


def _size_and_idle_days(folder: Path) -> tuple[int, float]:
    files = {path.name: path.stat() for path in folder.iterdir() if path.is_file()}
    written = [stat.st_mtime for stat in files.values()]
    opened = [stat.st_atime for name, stat in files.items() if name not in _READ_OF_ALL]
    touched = max(written + opened, default=time.time())
    return sum(stat.st_blocks * 512 for stat in files.values()), max(0.0, (time.time() - touched) / 86_400)


def _remove(folder: Path) -> bool:
    try:
        with FileLock(folder / "lock", timeout=0):
            for marker in (MARKER, STORE_MARKER):  # first: what is half removed must not look whole
                (folder / marker).unlink(missing_ok=True)
            shutil.rmtree(folder)
    except Timeout:
        return False
    return True
