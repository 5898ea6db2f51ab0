"""`python -m mlflow_server`: the tracking server."""

import json
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from mlflow_server.database_path import embedded_if_there
from mlflow_server.errors import PromotionError, TrackingError, refusal
from mlflow_server.server import ServerSettings, start_configured, upgrade
from mlflow_server.server import start as start_server
from mlflow_server.storage_option import STORAGE, Storage

Config = Annotated[Path, typer.Argument(metavar="SERVER.yaml", help="The server's file.")]

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="The MLflow server over the studies of a storage folder.",
)


@app.command()
def start(
    storage: Storage = STORAGE,
    host: Annotated[str, typer.Option(help="Loopback address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
    config: Annotated[Path | None, typer.Option(metavar="SERVER.yaml", help="Instead: what this file says.")] = None,
) -> None:
    """Open the UI on the studies of a storage folder, or a server for many users; stop it with Ctrl-C."""
    if config is not None:
        from mlflow_server import server_config

        configured = server_config.load(config)
        told = f"MLflow UI: {configured.uri}"
        if configured.authentication:
            told += f"\nuser admin, password in {configured.credentials / 'admin-password'}"
        raise typer.Exit(start_configured(configured, lambda: typer.echo(told)))
    settings = ServerSettings(storage, host, port)
    raise typer.Exit(start_server(settings, lambda: typer.echo(f"MLflow UI: {settings.uri}  (storage {storage})")))


@app.command()
def check(config: Config) -> None:
    """Ask a running server whether it is whole: reachable, closed to strangers, artifacts (else exit code 1)."""
    from mlflow_server import check as checking
    from mlflow_server import server_config

    found = checking.check(server_config.load(config))
    for finding in found:
        typer.echo(f"{'ok  ' if finding.holds else 'FAIL'} {finding.name}: {finding.evidence}")
    if not all(finding.holds for finding in found):
        raise typer.Exit(1)


@app.command()
def backup(config: Config, target: Annotated[Path, typer.Argument(help="New folder.")]) -> None:
    """Copy database, users and artifacts into a new folder; the server may go on meanwhile."""
    from mlflow_server import backup as backing
    from mlflow_server import server_config

    counts = backing.back_up(server_config.load(config), target)
    typer.echo(f"{target}: {sum(counts.values())} rows of {len(counts)} tables, and the artifacts")


@app.command()
def restore(config: Config, source: Annotated[Path, typer.Argument(help="What `backup` wrote.")]) -> None:
    """Bring a backup back into an empty database and folder, the same or another, and verify rows and files."""
    from mlflow_server import backup as backing
    from mlflow_server import server_config

    counts = backing.restore(server_config.load(config), source)
    typer.echo(f"{source}: {sum(counts.values())} rows of {len(counts)} tables and the artifacts are back, verified")


@app.command()
def migrate(config: Config) -> None:
    """Bring the database to the schema of the installed MLflow; make a backup first."""
    from mlflow_server import server_config

    code = upgrade(server_config.load(config))
    if code == 0:
        typer.echo(f"the database has the schema of MLflow {version('mlflow')}")
    raise typer.Exit(code)


@app.command()
def gc(
    config: Config,
    days: Annotated[float, typer.Option(min=0, help="Runs that were deleted later, or ended later, stay.")] = 30,
    dry_run: Annotated[bool, typer.Option(help="Say what would go, and delete nothing.")] = False,
) -> None:
    """Delete for good the deleted runs that no champion, cell winner or promotion rests on, artifacts included."""
    from mlflow_server import garbage, server_config

    found = garbage.collect(
        server_config.load(config), days=days, dry_run=dry_run, told=lambda run: typer.echo(f"gone    {run}")
    )
    for run in found.collected if dry_run else ():
        typer.echo(f"may go  {run}")
    for run, reason in found.kept.items():
        typer.echo(f"stays   {run}  {reason}")


Tracking = Annotated[
    str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help="Server of the registry; default: the storage's store.")
]
Name = Annotated[str, typer.Argument(help="Registered model.")]


@app.command()
def history(
    name: Name,
    storage: Storage = STORAGE,
    tracking: Tracking = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything, one JSON object a line.")] = False,
) -> None:
    """Show what was promoted, refused and rolled back, by whom and on what evidence."""
    from mlflow_server import succession
    from mlflow_server.history import History
    from mlflow_server.registry import Registry

    registry, own = Registry(tracking or embedded_if_there(storage)), History(storage.resolve(), name)
    entries = succession.told(name, registry=registry, history=own)
    if not entries:
        raise PromotionError(f"{name}: nothing is on record, neither in {storage} nor in the registry")
    if lost := succession.lost(name, registry=registry, history=own):
        typer.echo(
            f"warning: {len(lost)} of these entries were written in {storage} and are missing in its history now, "
            "which was emptied or shortened; they are shown as the registry has them, without their differences. "
            "Bring the history back from a backup",
            err=True,
        )
    champion = registry.champion(name)
    if champion is not None and (problem := succession.by_hand(champion, registry=registry, history=own)):
        typer.echo(f"warning: {problem}", err=True)
    for entry in entries:
        typer.echo(json.dumps(entry) if as_json else _line(entry))


@app.command()
def rollback(name: Name, storage: Storage = STORAGE, tracking: Tracking = None) -> None:
    """Make the champion before this one champion again."""
    from mlflow_server.history import History
    from mlflow_server.registry import Registry
    from mlflow_server.rollback import roll_back

    registry = Registry(tracking or embedded_if_there(storage))
    typer.echo(_line(roll_back(name, registry=registry, history=History(storage.resolve(), name))))


@app.command()
def unlock(name: Name, storage: Storage = STORAGE, tracking: Tracking = None) -> None:
    """Take away the claim that a promotion left which died while it moved the alias."""
    from mlflow_server.registry import Registry

    found = Registry(tracking or embedded_if_there(storage)).unlock(name)
    typer.echo(f"{name}: the claim is gone" if found else f"{name}: nothing holds it")


def _line(entry: dict[str, Any]) -> str:
    when = datetime.fromtimestamp(entry["time_ms"] / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    source = f", from study {entry['study']}" if "study" in entry else ""
    failed = [f"{r['condition']} ({r['evidence']})" for r in entry.get("reasons", []) if not r["holds"]]
    because = f": {'; '.join(failed)}" if failed else ""
    before = f" instead of {entry['champion_before']}" if entry.get("champion_before") else ""
    return f"{when}  {entry['action']}  version {entry['version']}{before}, by {entry['who']}{source}{because}"


def main() -> None:
    """Run a command; bad input ends with a message and exit code 2."""
    try:
        app()
    except (PromotionError, TrackingError) as problem:
        _stop(str(problem))
    except Exception as problem:
        message = refusal(problem)
        if message is None:
            raise
        _stop(message)


def _stop(message: str) -> None:
    from mlflow_server.reach import without_password

    Console(stderr=True).print(f"error: {without_password(message)}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
