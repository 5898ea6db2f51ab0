"""A server's database, users and artifacts in one folder, and back; both ends are counted and hashed.

The database is copied first: every artifact it names was written before its row, so it is among the files copied
afterwards. A server may go on meanwhile.
"""

import hashlib
import json
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import sqlalchemy

from mlflow_server.errors import TrackingError
from mlflow_server.server_config import ServerConfig

MANIFEST = "manifest.json"
"""Written last: a backup without it is not whole."""
DATABASE, USERS, ARTIFACTS = "database", "users.db", "artifacts"


def back_up(config: ServerConfig, target: Path) -> dict[str, int]:
    """Copy everything that a server keeps into a new folder.

    Args:
        config: of the server.
        target: must not exist; appears whole or not at all.

    Returns:
        Rows by table of the database.

    Raises:
        TrackingError: `target` exists, the artifacts lie in a bucket, or the database cannot be copied.
    """
    if target.exists():
        raise TrackingError(f"{target} exists; give a new folder")
    artifacts = _artifact_folder(config)
    aside = target.with_name(f".{target.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True, mode=0o700)
    if config.backend.startswith("sqlite"):
        _copy_sqlite(_sqlite_path(config), aside / DATABASE)
    else:
        _postgresql("pg_dump", "--format=custom", f"--file={aside / DATABASE}", f"--dbname={_plain_uri(config)}")
    users = config.folder / "credentials" / USERS
    if users.is_file():
        _copy_sqlite(users, aside / USERS)
    if artifacts.is_dir():
        shutil.copytree(artifacts, aside / ARTIFACTS)
    counts = rows_by_table(config)
    manifest = {"rows": counts, "kind": config.backend.partition(":")[0], "sha256": _hashes(aside)}
    (aside / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
    aside.rename(target)
    return counts


def restore(config: ServerConfig, source: Path) -> dict[str, int]:
    """Bring a backup back into an empty place and hold what is there against the backup.

    Args:
        config: of a server that is not running, with an empty database and no artifacts yet.
        source: what `back_up` wrote.

    Returns:
        Rows by table of the restored database.

    Raises:
        TrackingError: the backup is damaged, the place is not empty, or something is missing afterwards.
    """
    manifest = _checked(source)
    kind, artifacts = config.backend.partition(":")[0], _artifact_folder(config)
    if kind != manifest["kind"]:
        raise TrackingError(f"{source} is of a {manifest['kind']} database, this server has {kind}")
    if artifacts.exists():
        raise TrackingError(f"{artifacts} exists; a backup is restored into an empty place")
    if kind == "sqlite":
        path = _sqlite_path(config)
        if path.exists():
            raise TrackingError(f"{path} exists; a backup is restored into an empty place")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / DATABASE, path)
    else:
        if rows_by_table(config):
            raise TrackingError("the database has tables; a backup is restored into an empty place")
        words = ("--exit-on-error", "--no-owner", f"--dbname={_plain_uri(config)}", str(source / DATABASE))
        _postgresql("pg_restore", *words)
    if (source / USERS).is_file():
        (config.folder / "credentials").mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copyfile(source / USERS, config.folder / "credentials" / USERS)
    if (source / ARTIFACTS).is_dir():
        shutil.copytree(source / ARTIFACTS, artifacts)
    return _verified(config, manifest, artifacts)


def rows_by_table(config: ServerConfig) -> dict[str, int]:
    """Return the number of rows of every table of a server's database."""
    engine = sqlalchemy.create_engine(config.backend)
    try:
        with engine.connect() as connection:
            names = sqlalchemy.inspect(connection).get_table_names()
            counted = {
                name: connection.scalar(sqlalchemy.select(sqlalchemy.func.count()).select_from(sqlalchemy.table(name)))
                for name in names
            }
    except sqlalchemy.exc.SQLAlchemyError as problem:
        raise TrackingError(f"the database does not answer: {str(problem).splitlines()[0]}") from problem
    finally:
        engine.dispose()
    return {name: int(count or 0) for name, count in sorted(counted.items())}


def _verified(config: ServerConfig, manifest: dict[str, Any], artifacts: Path) -> dict[str, int]:
    counts = rows_by_table(config)
    if short := [name for name, rows in manifest["rows"].items() if counts.get(name) != rows]:
        raise TrackingError(f"restored, but these tables differ in their rows: {', '.join(short)}")
    wanted = {
        name.removeprefix(f"{ARTIFACTS}/"): value
        for name, value in manifest["sha256"].items()
        if name.startswith(f"{ARTIFACTS}/")
    }
    if (_hashes(artifacts) if artifacts.is_dir() else {}) != wanted:
        raise TrackingError(f"restored, but {artifacts} is not what was backed up")
    return counts


def _checked(source: Path) -> dict[str, Any]:
    path = source / MANIFEST
    if not path.is_file():
        raise TrackingError(f"{source} is no whole backup: it has no {MANIFEST}")
    manifest: dict[str, Any] = json.loads(path.read_text())
    found = {name: value for name, value in _hashes(source).items() if name != MANIFEST}
    if damaged := sorted(set(found.items()) ^ set(manifest["sha256"].items()), key=str):
        raise TrackingError(f"{source}: {damaged[0][0]} is missing, new or changed since the backup")
    return manifest


def _hashes(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as stream:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def _artifact_folder(config: ServerConfig) -> Path:
    parts = urlsplit(config.destination)
    if parts.scheme != "file":
        raise TrackingError(f"artifacts in {parts.scheme}://: back the bucket up with its own versioning")
    return Path(unquote(parts.path))


def _sqlite_path(config: ServerConfig) -> Path:
    return Path(config.backend.removeprefix("sqlite:///"))


def _copy_sqlite(source: Path, target: Path) -> None:
    if not source.is_file():
        raise TrackingError(f"{source} does not exist")
    with closing(sqlite3.connect(source)) as read, closing(sqlite3.connect(target)) as written:
        read.backup(written)


def _plain_uri(config: ServerConfig) -> str:
    return config.backend.replace("postgresql+psycopg://", "postgresql://", 1)


def _postgresql(*words: str) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise TrackingError(f"{words[0]} is not installed; it comes with PostgreSQL's client") from None
    if done.returncode:
        raise TrackingError(f"{words[0]}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'failed'}")
