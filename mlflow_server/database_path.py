"""Which folders an SQLite database can lie in, as MLflow, Optuna and SQLAlchemy are told of it by an address."""

import re
from pathlib import Path

SQLITE = "sqlite:///"
OTHERWISE_READ = re.compile(r"\?|%[0-9A-Fa-f]{2}")
"""Where the options of an address begin, and what stands for another letter in it."""


def problem_of(path: str | Path) -> str | None:
    """Say why a path cannot stand in a database's address, or None."""
    found = OTHERWISE_READ.search(str(path))
    if found is None:
        return None
    return f"`{found.group()}` cannot be in the path of a database, which is told by its address; choose another name"
