"""A server's database, users, secrets, artifacts and promotions in one folder, and back, counted and hashed each time.

The database is copied first: every artifact it names was written before its row, so it is among the files copied
afterwards. A server may go on meanwhile.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from mlflow_server import backup_database, object_store
from mlflow_server.credentials import SECRETS
from mlflow_server.errors import TrackingError
from mlflow_server.history import PROMOTIONS
from mlflow_server.server_config import ServerConfig

MANIFEST = "manifest.json"
"""Written last: a backup without it is not whole."""
DATABASE, ARTIFACTS, CREDENTIALS = "database", "artifacts", "credentials"
USERS = "users.db"


def back_up(config: ServerConfig, target: Path) -> dict[str, int]:
    """Copy everything that a server keeps into a new folder that only its owner can open: secrets are in it.

    Args:
        config: of the server.
        target: must not exist; appears whole or not at all.

    Returns:
        Rows by table of the database.

    Raises:
        TrackingError: `target` exists, or the database or the artifacts cannot be copied.
    """
    if target.exists():
        raise TrackingError(f"{target} exists; give a new folder")
    folder = config.artifact_folder
    if folder and target.resolve().is_relative_to(folder):
        raise TrackingError(f"{target} lies in {folder}, which is to be copied; give a folder elsewhere")
    aside = target.with_name(f".{target.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True, mode=0o700)
    try:
        counts = backup_database.copy(config, aside / DATABASE)
        _copy_credentials(config.credentials, aside / CREDENTIALS)
        _copy_artifacts(config, aside / ARTIFACTS)
        if (config.folder / PROMOTIONS).is_dir():
            _copy_tree(config.folder / PROMOTIONS, aside / PROMOTIONS)
        manifest = {
            "rows": counts,
            "kind": _kind(config),
            "artifacts": config.destination,
            "sha256": _hashes(aside),
        }
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
        aside.rename(target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
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
    _refuse_if_used(config)
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
    return _verified(config, manifest)


def _refuse_if_used(config: ServerConfig) -> None:
    own = (config.credentials / name for name in (USERS, *SECRETS))
    for path in (*own, config.folder / PROMOTIONS):
        if path.exists():
            raise TrackingError(f"{path} exists; a backup is restored into an empty place")
    folder = config.artifact_folder
    if folder.exists() if folder else object_store.names(config.destination):
        raise TrackingError(f"{folder or config.destination} exists; a backup is restored into an empty place")
    backup_database.refuse_if_used(config)


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
        shutil.copytree(source, target, symlinks=True)
    except shutil.Error as problem:
        raise TrackingError(f"{source} cannot be copied: {problem.args[0][0][2]}") from problem


def _verified(config: ServerConfig, manifest: dict[str, Any]) -> dict[str, int]:
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
