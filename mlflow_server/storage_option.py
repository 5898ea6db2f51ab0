"""The option `--storage`, the same in every command."""

from pathlib import Path
from typing import Annotated

import typer

from mlflow_server.database_path import problem_of


def _fit_for_a_database(storage: Path) -> Path:
    if problem := problem_of(storage.absolute()):
        raise typer.BadParameter(problem)
    return storage


Storage = Annotated[
    Path,
    typer.Option(
        envvar="RADSWEEP_STORAGE",
        help="Folder of all studies; on a cluster, a path that all nodes share.",
        callback=_fit_for_a_database,
    ),
]
STORAGE = Path("storage")
"""Where nothing is said."""
