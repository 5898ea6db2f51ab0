"""Data sets and prepared caches that lie in remote storage: mirrored to a local folder through fsspec.

Mirrored and not streamed: a cache is mapped into memory, and label files and images are read by processes
that are denied everything but their file. Any fsspec address serves (s3://, gs://, sftp://, memory://, …).
"""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import fsspec

from datasets.derivation import MARKER
from datasets.errors import DatasetError


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What a mirroring found and did.

    Attributes:
        files: in the remote folder.
        bytes: of them all.
        copied: files that were not here yet.
    """

    files: int
    bytes: int
    copied: int


def mirror(
    address: str, folder: Path, *, workers: int = 8, progress: Callable[[int, int], None] | None = None
) -> Mirrored:
    """Bring a remote folder here; what is here already, at its size, is not copied again.

    Every file is written aside and renamed, the markers of caches come last: interrupted, it goes on, and a
    half copied cache never looks whole.

    Args:
        address: of a folder, as fsspec understands it.
        folder: local.
        workers: files at once.
        progress: told (files copied, files to copy).

    Raises:
        DatasetError: there is nothing at that address, it cannot be reached, or it names files outside itself.
    """
    system, base = _system(address)
    try:
        found: dict[str, Any] = system.find(base, detail=True)
    except Exception as error:  # any: every file system has exceptions of its own
        raise DatasetError(
            f"cannot list: {type(error).__name__}", _public(address), fix="check address and credentials"
        ) from None
    if not found:
        raise DatasetError("no files", _public(address), "a folder with a data set or a cache")
    sizes = {_inside(name, base, address): (name, int(entry.get("size") or 0)) for name, entry in found.items()}
    wanted = [(path, *rest) for path, rest in sizes.items() if _size(folder / path) != rest[1]]
    wanted.sort(key=lambda item: (item[0].name == MARKER, item[0]))
    markers = [item for item in wanted if item[0].name == MARKER]
    with ThreadPoolExecutor(workers) as pool:
        for part in (wanted[: len(wanted) - len(markers)], markers):
            for count, _ in enumerate(pool.map(lambda item: _copy(system, item[1], folder / item[0]), part), start=1):
                if progress and count % 100 == 0:
                    progress(count, len(wanted))
    return Mirrored(len(sizes), sum(size for _, size in sizes.values()), len(wanted))


def _system(address: str) -> tuple[Any, str]:
    try:
        system, base = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise DatasetError(
            f"fsspec cannot open it: {error}", _public(address), fix="install the package it names"
        ) from None
    return system, str(base)


def _inside(name: str, base: str, address: str) -> PurePosixPath:
    path = PurePosixPath(name.removeprefix(base).lstrip("/"))
    if ".." in path.parts or path.is_absolute():
        raise DatasetError("a file lies outside the folder it is listed in", _public(address))
    return path


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _copy(system: Any, name: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    with system.open(name, "rb") as source, aside.open("wb") as target:
        shutil.copyfileobj(source, target, 2**20)
    aside.replace(path)


def _public(address: str) -> str:
    """Return the address without user, password and query."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}" if parts.scheme else address
