"""A server's database, users, secrets, artifacts and promotions in one folder, and back, counted and hashed each time.

The database is copied first: every artifact it names was written before its row, so it is among the files copied
afterwards. A server may go on meanwhile.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mlflow_server import backup_database, object_store, restoring
from mlflow_server.credentials import SECRETS, USERS
from mlflow_server.errors import TrackingError
from mlflow_server.history import PROMOTIONS, all_alone
from mlflow_server.server_config import ServerConfig

MANIFEST = "manifest.json"
"""Written last: a backup without it is not whole."""
DATABASE, ARTIFACTS, CREDENTIALS = "database", "artifacts", "credentials"
PROMOTION_SECONDS = 60.0
"""A champion changes in a moment: whoever holds the right to it for longer hangs."""


def back_up(config: ServerConfig, target: Path) -> dict[str, int]:
    """Copy everything that a server keeps into a new folder that only its owner can open: secrets are in it.

    Args:
        config: of the server.
        target: must not exist; appears whole or not at all. One that is killed leaves `.NAME.writing` beside it, which
            the next backup to the same target removes.

    Returns:
        Rows by table of the database.

    Raises:
        TrackingError: `target` exists or is being written, or the database or the artifacts cannot be copied.
        PromotionError: a promotion is being carried out, and does not come to its end.
    """
    restoring.refuse_half_restored(config.folder)
    for folder in filter(None, (config.artifact_folder, config.credentials, config.folder.resolve() / PROMOTIONS)):
        if target.resolve().is_relative_to(folder):
            raise TrackingError(f"{target} lies in {folder}, which is to be copied; give a folder elsewhere")
    if not target.name:
        raise TrackingError(f"{target}: name a new folder")
    aside = target.with_name(f".{target.name}.writing")
    with _alone(target, aside):
        if target.exists():
            raise TrackingError(f"{target} exists; give a new folder")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(mode=0o700)
        try:
            counts = _write(config, aside)
            aside.rename(target)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    return counts


@contextmanager
def _alone(target: Path, aside: Path) -> Iterator[None]:
    """Hold the right to write a backup; the system lets go of it when the process dies."""
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{aside}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise TrackingError(f"{target} is being written by another backup; give a new folder") from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _write(config: ServerConfig, folder: Path) -> dict[str, int]:
    # The registry and the promotions' ledgers are of one moment: no champion changes between the two.
    with all_alone(config.folder, wait_seconds=PROMOTION_SECONDS):
        counts = backup_database.copy(config, folder / DATABASE)
        if (config.folder / PROMOTIONS).is_dir():
            _copy_tree(config.folder / PROMOTIONS, folder / PROMOTIONS)
    _copy_credentials(config.credentials, folder / CREDENTIALS)
    _copy_artifacts(config, folder / ARTIFACTS)
    manifest = {"rows": counts, "kind": _kind(config), "artifacts": config.destination, "sha256": _hashes(folder)}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
    return counts


def restore(config: ServerConfig, source: Path) -> dict[str, int]:
    """Bring a backup back into an empty place and hold what is there against the backup.

    Args:
        config: of a server that is not running, with an empty database, no users and no artifacts yet.
        source: what `back_up` wrote.

    Returns:
        Rows by table of the restored database.

    Raises:
        TrackingError: the backup is damaged, the place is not empty, or something is missing afterwards.
    """
    manifest = _checked(source)
    if _kind(config) != manifest["kind"]:
        raise TrackingError(f"{source} is of a {manifest['kind']} database, this server has {_kind(config)}")
    _refuse_if_half(config)
    _refuse_if_used(config)
    with restoring.marked(config.folder):
        _bring_back(config, source, manifest)
        return _verified(config, manifest)


def _bring_back(config: ServerConfig, source: Path, manifest: dict[str, Any]) -> None:
    backup_database.bring_back(config, source / DATABASE)
    before = manifest.get("artifacts", config.destination)
    if before != config.destination:
        backup_database.move_artifacts(config, before, config.destination)
    _copy_credentials(source / CREDENTIALS, config.credentials)
    if (source / PROMOTIONS).is_dir():
        _copy_tree(source / PROMOTIONS, config.folder / PROMOTIONS)
    if (source / ARTIFACTS).is_dir():
        if folder := config.artifact_folder:
            _copy_tree(source / ARTIFACTS, folder)
        else:
            object_store.upload(source / ARTIFACTS, config.destination)


def _refuse_if_half(config: ServerConfig) -> None:
    """Say what a restore that was cut off has written: whoever runs this again wants to begin anew."""
    mark = config.folder / restoring.MARK
    if not mark.exists():
        return
    elsewhere = {"the tables of the database": config.sqlite, config.destination: config.artifact_folder}
    written = [str(path) for path in (*filter(None, [config.sqlite]), *_places(config)) if _holds_something(path)]
    written += [name for name, path in elsewhere.items() if path is None]
    raise TrackingError(
        f"{config.folder} holds half a restore, which was cut off or is at work; if nothing is at work there, remove "
        f"{', '.join([*written, str(mark)])}, and restore again"
    )


def _refuse_if_used(config: ServerConfig) -> None:
    for path in _places(config):
        if _holds_something(path):
            raise TrackingError(f"{path} exists; a backup is restored into an empty place")
    if config.artifact_folder is None and object_store.names(config.destination):
        raise TrackingError(f"{config.destination} exists; a backup is restored into an empty place")
    backup_database.refuse_remains(config.credentials / USERS)
    backup_database.refuse_if_used(config)


def _places(config: ServerConfig) -> list[Path]:
    """Return the files and folders that a restore writes, but for the database."""
    own = [config.credentials / name for name in (USERS, *SECRETS)]
    return [*own, config.folder / PROMOTIONS, *filter(None, [config.artifact_folder])]


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _copy_credentials(source: Path, target: Path) -> None:
    """Copy users and secrets: of the admin's password `users.db` has only the hash, so that nobody could log in."""
    if not source.is_dir():
        return  # a server without authentication
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (source / USERS).is_file():
        backup_database.copy_sqlite(source / USERS, target / USERS)
    for name in SECRETS:
        if (source / name).is_file():
            (target / name).touch(mode=0o600)
            shutil.copyfile(source / name, target / name)


def _copy_artifacts(config: ServerConfig, target: Path) -> None:
    folder = config.artifact_folder
    if folder is None:
        object_store.download(config.destination, target)
    elif folder.is_dir():
        _copy_tree(folder, target)


def _copy_tree(source: Path, target: Path) -> None:
    """Copy a folder; a link stays a link, wherever it leads: what is not the server's is not taken along."""
    try:
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    except shutil.Error as problem:
        raise TrackingError(f"{source} cannot be copied: {problem.args[0][0][2]}") from problem


def _verified(config: ServerConfig, manifest: dict[str, Any]) -> dict[str, int]:
    for path in filter(None, (config.sqlite, config.credentials / USERS)):
        if path.is_file():
            backup_database.refuse_damaged(path)
    counts = backup_database.rows_by_table(config)
    if short := [name for name, rows in manifest["rows"].items() if counts.get(name) != rows]:
        raise TrackingError(f"restored, but these tables differ in their rows: {', '.join(short)}")
    wanted = {
        name.removeprefix(f"{ARTIFACTS}/"): value
        for name, value in manifest["sha256"].items()
        if name.startswith(f"{ARTIFACTS}/")
    }
    folder = config.artifact_folder
    if (_hashes(folder) if folder else object_store.hashes(config.destination)) != wanted:
        raise TrackingError(f"restored, but {folder or config.destination} is not what was backed up")
    return counts


def _checked(source: Path) -> dict[str, Any]:
    path = source / MANIFEST
    if not path.is_file():
        raise TrackingError(f"{source} is no whole backup: it has no {MANIFEST}")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        wanted = set(manifest["sha256"].items())
    except (ValueError, KeyError, TypeError, AttributeError):
        raise TrackingError(f"{path} was changed since the backup") from None
    found = {name: value for name, value in _hashes(source).items() if name != MANIFEST}
    if damaged := sorted(set(found.items()) ^ wanted, key=str):
        raise TrackingError(f"{source}: {damaged[0][0]} is missing, new or changed since the backup")
    return manifest


def _hashes(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = hashlib.sha256(os.fsencode(path.readlink())).hexdigest()
        elif path.is_file():
            with path.open("rb") as stream:
                found[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def _kind(config: ServerConfig) -> str:
    return config.backend.partition(":")[0]
