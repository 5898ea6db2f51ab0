"""A server's database in one file and back, SQLite or PostgreSQL, and the rows that were in it at that moment."""

import itertools
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import sqlalchemy

from mlflow_server.errors import TrackingError
from mlflow_server.reach import SECONDS
from mlflow_server.server_config import ServerConfig

ARTIFACT_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Where MLflow's schema names places of artifacts."""
REMAINS = ("-journal", "-wal", "-shm")
"""Suffixes of the files that SQLite keeps beside a database while it writes."""


def refuse_if_away(config: ServerConfig) -> None:
    """Refuse a database that is not there: of SQLite, MLflow would make an empty one.

    Raises:
        TrackingError: the file is missing, or the database does not answer.
    """
    if config.sqlite and not config.sqlite.is_file():
        raise TrackingError(f"{config.sqlite} does not exist; the server makes it when it is started first")
    with _connected(config.backend):
        pass


def copy(config: ServerConfig, target: Path) -> dict[str, int]:
    """Write the database as it is at one moment, while others may write to it.

    Args:
        config: of the server.
        target: new file.

    Returns:
        Rows by table, of the copy.

    Raises:
        TrackingError: the database cannot be reached or copied.
    """
    if config.sqlite:
        copy_sqlite(config.sqlite, target)
        return _rows(f"sqlite:///{target}")
    with _connected(config.backend) as connection:
        # What pg_dump writes and what is counted here are the same snapshot.
        connection.execute(sqlalchemy.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        snapshot = connection.scalar(sqlalchemy.text("SELECT pg_export_snapshot()"))
        words = ("--format=custom", f"--snapshot={snapshot}", f"--file={target}", f"--dbname={_plain_uri(config)}")
        _postgresql("pg_dump", *words)
        return _counted(connection)


def refuse_if_used(config: ServerConfig) -> None:
    """Refuse a database that holds something.

    Raises:
        TrackingError: it does.
    """
    if config.sqlite:
        if config.sqlite.exists():
            raise TrackingError(f"{config.sqlite} exists; a backup is restored into an empty place")
        refuse_remains(config.sqlite)
    elif rows_by_table(config):
        raise TrackingError("the database has tables; a backup is restored into an empty place")


def refuse_remains(path: Path) -> None:
    """Refuse what SQLite left of a database that is gone: it would be played into the one that is restored.

    Args:
        path: where the database will be.

    Raises:
        TrackingError: names the file.
    """
    for suffix in REMAINS:
        if (left := path.with_name(f"{path.name}{suffix}")).exists():
            raise TrackingError(
                f"{left} is left of a database that is gone, and SQLite would play it into the restored one; move it "
                "away and restore again"
            )


def refuse_damaged(path: Path) -> None:
    """Have SQLite look through a whole database, which nobody should be writing to.

    Raises:
        TrackingError: it is damaged.
    """
    if found := _damage(path):
        raise TrackingError(f"{path} is damaged: {found}")


def _damage(path: Path) -> str | None:
    try:
        with closing(sqlite3.connect(path)) as connection:
            found = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
    except sqlite3.Error as problem:
        return str(problem)
    return None if found == "ok" else found.splitlines()[-1]


def bring_back(config: ServerConfig, source: Path) -> None:
    """Fill an empty database from what `copy` wrote.

    Raises:
        TrackingError: PostgreSQL refuses.
    """
    if config.sqlite:
        config.sqlite.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        config.sqlite.touch(mode=0o600)
        shutil.copyfile(source, config.sqlite)
    else:
        _postgresql("pg_restore", "--exit-on-error", "--no-owner", f"--dbname={_plain_uri(config)}", str(source))


def move_artifacts(config: ServerConfig, before: str, now: str) -> None:
    """Say in the database that artifacts lie in another place; what the server proxies is named without any.

    Args:
        config: of the server.
        before: URI of the folder or bucket where they lay.
        now: where they lie.

    Raises:
        TrackingError: the database does not answer.
    """
    places = [(before, now)]
    if before.startswith("file://"):  # MLflow writes a folder with and without the scheme
        places.append((_path(before), _path(now) if now.startswith("file://") else now))
    with _connected(config.backend) as connection:
        for column, place in itertools.product(ARTIFACT_COLUMNS, places):
            _replace_prefix(connection, *column, *place)
        connection.commit()


def _replace_prefix(connection: sqlalchemy.Connection, name: str, column: str, before: str, now: str) -> None:
    place: sqlalchemy.ColumnClause[str] = sqlalchemy.column(column, sqlalchemy.Text)
    inside = sqlalchemy.or_(place == before, place.startswith(f"{before}/", autoescape=True))
    rest = sqlalchemy.func.substr(place, len(before) + 1, type_=sqlalchemy.Text)
    rows = sqlalchemy.update(sqlalchemy.table(name, place)).where(inside)
    connection.execute(rows.values({column: sqlalchemy.literal(now, sqlalchemy.Text) + rest}))


def _path(uri: str) -> str:
    return unquote(urlsplit(uri).path)


def rows_by_table(config: ServerConfig) -> dict[str, int]:
    """Return the number of rows of every table of a server's database.

    Raises:
        TrackingError: the database does not answer.
    """
    return _rows(config.backend)


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy an SQLite file that others may write to, to a file that only its owner can read.

    Raises:
        TrackingError: it does not exist, or is damaged.
    """
    if not source.is_file():
        raise TrackingError(f"{source} does not exist")
    target.touch(mode=0o600)
    try:
        with closing(sqlite3.connect(source)) as read, closing(sqlite3.connect(target)) as written:
            read.backup(written)
    except sqlite3.Error as problem:
        raise TrackingError(f"{source} cannot be copied: {problem}") from problem
    if found := _damage(target):  # asked of the copy, it keeps nobody from writing
        raise TrackingError(f"{source} is damaged, and so would be its copy: {found}")


def _rows(uri: str) -> dict[str, int]:
    with _connected(uri) as connection:
        return _counted(connection)


@contextmanager
def _connected(uri: str) -> Iterator[sqlalchemy.Connection]:
    seconds = {} if uri.startswith("sqlite:") else {"connect_timeout": int(SECONDS)}
    engine = sqlalchemy.create_engine(uri, connect_args=seconds)
    try:
        with engine.connect() as connection:
            yield connection
    except sqlalchemy.exc.SQLAlchemyError as problem:
        raise TrackingError(f"the database does not answer: {str(problem).splitlines()[0]}") from problem
    finally:
        engine.dispose()


def _counted(connection: sqlalchemy.Connection) -> dict[str, int]:
    counted = {
        name: connection.scalar(sqlalchemy.select(sqlalchemy.func.count()).select_from(sqlalchemy.table(name)))
        for name in sqlalchemy.inspect(connection).get_table_names()
    }
    return {name: int(count or 0) for name, count in sorted(counted.items())}


def _plain_uri(config: ServerConfig) -> str:
    return config.backend.replace("postgresql+psycopg://", "postgresql://", 1)


def _postgresql(*words: str) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise TrackingError(f"{words[0]} is not installed; it comes with PostgreSQL's client") from None
    if done.returncode:
        raise TrackingError(f"{words[0]}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'failed'}")
