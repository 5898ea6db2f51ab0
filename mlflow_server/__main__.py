"""`python -m mlflow_server`: the tracking server."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mlflow_server.errors import TrackingError
from mlflow_server.server import ServerSettings
from mlflow_server.server import start as start_server

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="The MLflow server over the studies of a storage folder.",
)


@app.callback()
def _commands() -> None:
    """The MLflow server over the studies of a storage folder."""


@app.command()
def start(
    storage: Annotated[Path, typer.Option(envvar="RADSWEEP_STORAGE", help="Folder of all studies.")] = Path("storage"),
    host: Annotated[str, typer.Option(help="Loopback address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
) -> None:
    """Open the UI on the studies of a storage folder; stop it with Ctrl-C."""
    settings = ServerSettings(storage, host, port)
    typer.echo(f"MLflow UI: {settings.uri}  (storage {storage})")
    raise typer.Exit(start_server(settings))


def main() -> None:
    """Run a command; bad input ends with a message and exit code 2."""
    try:
        app()
    except TrackingError as problem:
        Console(stderr=True).print(f"error: {problem}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
