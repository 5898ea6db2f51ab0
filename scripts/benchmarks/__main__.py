"""`python -m scripts.benchmarks [NAME …] [--quick] [--json]`: run them and print a row each."""

import importlib
import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from scripts import benchmarks
from scripts.benchmarks.row import Row

COLUMNS = ("benchmark", "ours", "peer", "ratio", "goal", "met")


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Of: {', '.join(benchmarks.names())}. Default: all.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller inputs and fewer repetitions.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per row.")] = False,
) -> None:
    """Measure ours beside its peers, after checking that both give the same result."""
    known = benchmarks.names()
    unknown = sorted(set(names or []) - set(known))
    if unknown:
        typer.echo(f"error: no benchmark {', '.join(unknown)}; benchmarks: {', '.join(known)}", err=True)
        raise typer.Exit(2)
    rows: list[Row] = []
    for name in names or known:
        found: list[Row] = importlib.import_module(f"scripts.benchmarks.{name}").run(quick=quick)
        rows += found
        for row in found if as_json else []:
            sys.stdout.write(json.dumps(row.as_json()) + "\n")
            sys.stdout.flush()
    if not as_json:
        _show(rows)


def _show(rows: list[Row]) -> None:
    table = Table(*COLUMNS)
    for row in rows:
        met = "met" if row.met else "not met"
        table.add_row(row.benchmark, f"{row.ours:.4g}", f"{row.peer:.4g}", f"{row.ratio:.3g}", row.goal, met)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
