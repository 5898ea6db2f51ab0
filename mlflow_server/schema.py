"""Whether a database has the schema that the installed MLflow works with: it refuses any other, with a traceback."""

from importlib.metadata import version
from pathlib import Path

import sqlalchemy

from mlflow_server.database_path import SQLITE
from mlflow_server.errors import TrackingError
from mlflow_server.reach import SECONDS, without_password

MIGRATE = "python -m mlflow_server migrate SERVER.yaml"


def refuse_other(uri: str, *, upgrade: str) -> str | None:
    """Refuse a database with a schema of another MLflow, and look at nothing else.

    Args:
        uri: of the database.
        upgrade: command that brings it to the schema of the installed MLflow.

    Returns:
        The revision of its schema; None: there is no database yet, or nothing is in it, and MLflow fills it.

    Raises:
        TrackingError: says which schema it has, which it needs, and what to do; or the database does not answer.
    """
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file():
        return None
    is_empty, found = _state(uri)
    if is_empty:
        return None
    known, expected = _revisions()
    if found == expected:
        return found
    told = f"{found or 'none'}, expected {expected} (mlflow {version('mlflow')})"
    if found is not None and found not in known:
        raise TrackingError(f"{told}; a later MLflow made this database, install that one")
    raise TrackingError(f"{told}; make a backup, then run `{upgrade}`")


def _state(uri: str) -> tuple[bool, str | None]:
    """Return whether a database has no tables, and the revision of its schema, if it says one."""
    from alembic.migration import MigrationContext

    seconds = {} if uri.startswith("sqlite:") else {"connect_timeout": int(SECONDS)}
    engine = sqlalchemy.create_engine(uri, connect_args=seconds)
    try:
        with engine.connect() as connection:
            tables = sqlalchemy.inspect(connection).get_table_names()
            revision = MigrationContext.configure(connection).get_current_revision()
    except sqlalchemy.exc.SQLAlchemyError as problem:
        told = without_password(str(problem).splitlines()[0])
        raise TrackingError(f"the database does not answer: {told}") from problem
    finally:
        engine.dispose()
    return all(name.startswith("alembic_") for name in tables), revision  # as MLflow itself asks whether to fill it


def _revisions() -> tuple[set[str], str]:
    """Return the revisions that the installed MLflow knows, and the last one."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config, _get_latest_schema_revision

    scripts = ScriptDirectory.from_config(_get_alembic_config(""))
    return {script.revision for script in scripts.walk_revisions()}, str(_get_latest_schema_revision())
