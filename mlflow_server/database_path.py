"""Which folders an SQLite database can lie in, as MLflow, Optuna and SQLAlchemy are told of it by an address."""

import re
from pathlib import Path

from mlflow_server.errors import TrackingError

SQLITE = "sqlite:///"
OTHERWISE_READ = re.compile(r"\?|%[0-9A-Fa-f]{2}")
"""Where the options of an address begin, and what stands for another letter in it."""


def embedded(storage: Path) -> str:
    """Return the address of a storage folder's own store."""
    return f"{SQLITE}{storage.resolve() / 'mlflow.db'}"


def embedded_if_there(storage: Path) -> str:
    """Return the address of a storage folder's own store; asking for one that is not there would make it.

    Raises:
        TrackingError: it is not there.
    """
    path = storage.resolve() / "mlflow.db"
    if not path.is_file():
        raise TrackingError(f"{path} is missing: no study ran there; give its --storage, or --tracking and the server")
    return embedded(storage)


def problem_of(path: str | Path) -> str | None:
    """Say why a path cannot stand in a database's address, or None."""
    found = OTHERWISE_READ.search(str(path))
    if found is None:
        return None
    return f"`{found.group()}` cannot be in the path of a database, which is told by its address; choose another name"
