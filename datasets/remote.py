"""Data sets and prepared caches that lie in remote storage: mirrored to a local folder through fsspec.

Mirrored and not streamed: a cache is mapped into memory, and label files and images are read by processes
that are denied everything but their file. Any fsspec address serves (s3://, gs://, sftp://, memory://, …).
"""

import base64
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from datasets.derivation import MARKER, PIXELS
from datasets.errors import DatasetError
from datasets.privacy import KEY_FILE
from datasets.whole_file import ASIDE, replacing

_ASKED_AT_ONCE = 16
_ABANDONED = 3600.0
"""Seconds since the last byte of a copy."""
_LOCK = "lock"
TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".json", ".xlsx")
"""Endings of label files. A corrected label often leaves the size as it was, and to copy them costs little."""
_PRIVATE = frozenset({KEY_FILE, "quarantine.csv"})
"""What undoes the hashes, and what names files: readable by the owner only, wherever it is."""
_USER = re.compile(r"://(?:[^/]*|[^/:]*:(?!\d+/).*)@")
"""Before the host; a password may hold any letter, and a number after a colon is a port."""
_QUERY = re.compile(r"[?#].*")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a remote folder.

    Attributes:
        name: as the file system calls it.
        size: in bytes.
        md5: hex digits, where the storage tells them with its listing (Google Cloud Storage, Azure).
    """

    name: str
    size: int
    md5: str | None


@dataclass(frozen=True, slots=True)
class RemoteFolder:
    """What lies at an address.

    Attributes:
        system: fsspec's file system.
        address: without secrets.
        files: by path relative to the folder; none lies outside it.
    """

    system: Any
    address: str
    files: dict[PurePosixPath, RemoteFile]


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What a mirroring found and did.

    Attributes:
        files: in the remote folder, of those asked for.
        bytes: of them all.
        copied: files that were copied now: those that were not here yet, and the label files.
        unfinished: caches in the remote folder that are still being built; nothing of them is copied.
    """

    files: int
    bytes: int
    copied: int
    unfinished: int = 0


def mirror(
    address: str, folder: Path, *, workers: int = 8, progress: Callable[[int, int], None] | None = None
) -> Mirrored:
    """Bring a remote folder here; what is here already, at its size, is not copied again.

    Except label files outside of caches (.csv, .csv.gz, .tsv, .tsv.gz, .txt, .json, .xlsx): they are copied every
    time. An image that changed there at equal size stays here as it was; remove it to have it copied.

    Every file is written aside, synced and renamed, the markers of caches come last: interrupted, it goes on, and a
    half copied cache never looks whole. Of a cache whose marker is not there nothing is copied, and one whose marker
    is not here is copied from its beginning: its arrays have their full size before they are filled.

    Args:
        address: of a folder, as fsspec understands it.
        folder: local.
        workers: files at once.
        progress: told (files copied, files to copy).

    Raises:
        DatasetError: there is nothing at that address, it cannot be reached, it names files outside itself, or a file
            did not arrive as it was listed.
    """
    remote = listing(address)
    _sweep(remote, folder)
    return copy(remote, folder, workers=workers, progress=progress)


def listing(address: str) -> RemoteFolder:
    """Say what lies at an address.

    Raises:
        DatasetError: there is nothing, it cannot be reached, or it names files outside itself.
    """
    system, base = _system(address)
    try:
        found: dict[str, Any] = system.find(base, detail=True)
    except Exception as error:  # any: every file system has exceptions of its own
        raise DatasetError(
            f"cannot list: {type(error).__name__}", public(address), fix="check address and credentials"
        ) from None
    if not found:
        raise DatasetError(
            "no files", public(address), "a folder with a data set or a cache", "check the address, and that it answers"
        )
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:  # a listing over http has no sizes: each file is asked for its own
        files = pool.map(lambda item: RemoteFile(item[0], _remote_size(system, *item), _md5(item[1])), found.items())
        inside = {_inside(file.name, base, address): file for file in files}
    if PurePosixPath() in inside:
        raise DatasetError("this is a file", public(address), "the folder that it lies in")
    return RemoteFolder(system, public(address), inside)


def copy(
    remote: RemoteFolder,
    folder: Path,
    *,
    only: Collection[PurePosixPath] | None = None,
    workers: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Mirrored:
    """Bring files of a remote folder here; otherwise as `mirror`.

    Args:
        remote: from `listing`.
        folder: local.
        only: paths in the remote folder; those that do not exist are left out. None: all.
        workers: files at once.
        progress: told (files copied, files to copy).
    """
    building, unmarked = _unfinished(remote), _unmarked(remote, folder)
    asked = {path: remote.files[path] for path in (remote.files if only is None else only) if path in remote.files}
    asked = {path: file for path, file in asked.items() if path.parent not in building}
    anew = {path for path in asked if path.parent in unmarked and path.name != _LOCK}  # somebody may hold the lock
    anew |= {path for path in asked if path.name.lower().endswith(TABLES)} - _of_caches(remote)
    wanted = sorted(path for path, file in asked.items() if path in anew or _size(folder / path) != file.size)
    markers = [path for path in wanted if path.name == MARKER]
    with ThreadPoolExecutor(workers) as pool:
        for part in ([path for path in wanted if path.name != MARKER], markers):
            for count, _ in enumerate(pool.map(lambda path: _copy(remote, path, folder / path), part), start=1):
                if progress and count % 100 == 0:
                    progress(count, len(wanted))
    return Mirrored(len(asked), sum(file.size for file in asked.values()), len(wanted), len(building))


def _sweep(remote: RemoteFolder, folder: Path) -> None:
    """Remove what killed copies left half written; not what was written to a moment ago, for another may be at it."""
    hidden = ((path, ASIDE.fullmatch(path.name)) for path in folder.rglob(".*"))
    halves = [(path, path.with_name(own[1]).relative_to(folder)) for path, own in hidden if own]
    for path, whole in halves:
        if PurePosixPath(whole) in remote.files and time.time() - path.stat().st_mtime > _ABANDONED:
            path.unlink(missing_ok=True)


def _unfinished(remote: RemoteFolder) -> set[PurePosixPath]:
    """Return the folders of caches that are still being built there."""
    return {cache for cache in _caches(remote) if cache / MARKER not in remote.files}


def _caches(remote: RemoteFolder) -> set[PurePosixPath]:
    return {path.parent for path in remote.files if path.name == PIXELS}


def _of_caches(remote: RemoteFolder) -> set[PurePosixPath]:
    caches = _caches(remote)
    return {path for path in remote.files if path.parent in caches}


def _unmarked(remote: RemoteFolder, folder: Path) -> set[PurePosixPath]:
    """Return the folders that are whole there and not here."""
    whole = (path.parent for path in remote.files if path.name == MARKER)
    return {cache for cache in whole if not (folder / cache / MARKER).is_file()}


def _system(address: str) -> tuple[Any, str]:
    try:
        system, base = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise DatasetError(
            f"fsspec cannot open it: {error}", public(address), fix="install the package it names"
        ) from None
    return system, str(base)


def _inside(name: str, base: str, address: str) -> PurePosixPath:
    path = PurePosixPath(name.removeprefix(base).lstrip("/"))
    if not name.startswith(base) or ".." in path.parts or path.is_absolute():
        raise DatasetError("a file lies outside the folder it is listed in", public(address))
    return path


def _remote_size(system: Any, name: str, entry: dict[str, Any]) -> int:
    size = entry.get("size")
    return int((system.size(name) if size is None else size) or 0)


def _md5(entry: dict[str, Any]) -> str | None:
    """Return the MD5 of a listed file in hex, if its storage tells one.

    S3's ETag will not do: it is another hash for encrypted files and for those of several parts, and does not say so.
    """
    if "md5Hash" in entry:
        return base64.b64decode(entry["md5Hash"]).hex()
    azure = (entry.get("content_settings") or {}).get("content_md5")
    return bytes(azure).hex() if azure else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _copy(remote: RemoteFolder, inside: PurePosixPath, path: Path) -> None:
    file = remote.files[inside]
    with replacing(path) as aside:
        if path.name in _PRIVATE:
            aside.touch(mode=0o600)
        try:
            with remote.system.open(file.name, "rb") as source, aside.open("wb") as target:
                shutil.copyfileobj(source, target, 2**20)
        except Exception as error:  # any: every file system has exceptions of its own, and most of them name the file
            told = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__
            raise DatasetError(
                f"a file cannot be copied: {told}", remote.address, fix="remove links to nothing, or start again"
            ) from None
        _check_arrived(remote, file, aside)


def _check_arrived(remote: RemoteFolder, file: RemoteFile, copied: Path) -> None:
    """Refuse what is not as long as the storage lists it or, where it tells an MD5, has another."""
    if (arrived := _size(copied)) != file.size:
        raise _damaged(remote, f"{arrived} bytes of a file arrived, {file.size} are listed")
    if file.md5 is not None:
        with copied.open("rb") as content:
            if hashlib.file_digest(content, "md5").hexdigest() != file.md5:
                raise _damaged(remote, "a file arrived with another MD5 than its storage lists")


def _damaged(remote: RemoteFolder, what: str) -> DatasetError:
    return DatasetError(what, remote.address, fix="start again: what is here already is not copied twice")


def public(address: str) -> str:
    """Return an address without users, passwords and queries; of a chain (`zip://a::s3://b`) every one."""
    links = address.split("::") if "://" in address else [address]
    return "::".join(_QUERY.sub("", _USER.sub("://", link)) if "://" in link else link for link in links)
