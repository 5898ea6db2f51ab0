"""The commands of `python -m search`."""

import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from mlflow_server.storage_option import STORAGE, Storage
from search.errors import StudyError

Study = Annotated[
    Path, typer.Argument(metavar="STUDY.yaml", help="The study file; shipped ones are in search/studies.")
]
DataRoot = Annotated[
    list[str] | None,
    typer.Option(metavar="SOURCE=PATH", help="A data set's folder, or its address (s3://…); may be repeated."),
]
Weights = Annotated[
    Path | None, typer.Option(exists=True, help="Folder or file of pretrained weights instead of the hub.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
PROBE_STEPS = 20
UNFOLDED = 1000
"""Columns of what is no terminal: no table is that wide."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=(
        "Search and benchmark transfer learning on medical images.\n\n"
        "A study file names a grid of data sets, initializations, backbones and resolutions, and the hyperparameters "
        "to search inside each cell. The usual way: plan it, run it (again and again: what is done is not repeated), "
        "look at the report or the MLflow UI (`python -m mlflow_server start`), promote the winner."
    ),
)


@app.callback()
def _settings(
    debug: Annotated[bool, typer.Option(help="Show tracebacks of errors.")] = False,
) -> None:
    os.environ["RADSWEEP_DEBUG"] = "1" if debug else os.environ.get("RADSWEEP_DEBUG", "")
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(message)s")
    for chatty in ("alembic", "mlflow", "ray", "matplotlib", "urllib3", "filelock"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # of processes that died, which the ledger tells
    if not debug:
        warnings.simplefilter("ignore")


@app.command()
def plan(
    study: Study,
    storage: Annotated[
        Path | None,
        typer.Option(help="Folder of all studies: what is done, recorded speeds and image counts."),
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs of the cluster, for the wall-clock time.")] = 1,
    probe: Annotated[
        bool,
        typer.Option(help="Measure 20 steps of each kind of trial on this machine, and count images that are at hand."),
    ] = False,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Show cells, trials, refused combinations and the estimated cost; touches no GPU, no data, no tracker.

    With --probe it measures on this machine; of data sets that --data-root names it reads the label files, to count
    their images. Sizes that are not known beforehand are null in JSON, and so is what rests on them.
    """
    from search import data_roots
    from search import plan as planning
    from search.study_config import load_study

    place, steps = storage.resolve() if storage else None, PROBE_STEPS if probe else 0
    known = planning.Known(place, gpus, steps, data_roots.parse(data_root or []))
    planned = planning.plan(load_study(study), known)
    if as_json:
        _print_json(planned)
    else:
        planning.show(planned, _console())


@app.command()
def run(
    study: Study,
    storage: Storage = STORAGE,
    data_root: DataRoot = None,
    weights: Weights = None,
    address: Annotated[str | None, typer.Option(help="Head of a running Ray cluster; default: this machine.")] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPUs of this machine to use.")] = None,
    retry_failed: Annotated[
        bool, typer.Option(help="Try trials again that failed in an earlier run, and winners whose weights are gone.")
    ] = False,
    progress: Annotated[str, typer.Option(help="auto, live, lines or json.")] = "auto",
) -> None:
    """Run what is missing of a study: train, prune, evaluate winners, report. Safe to run again at any time.

    Ends with 0 if any cell has a finished trial, 1 if none has or a data set could not be used, 2 for bad input (also
    where no data set can be used), 130 when interrupted.
    """
    from search import data_roots, report
    from search import progress as showing
    from search.study import Machine, run_study
    from search.study_config import load_study
    from search.study_folder import StudyFolder

    console, loaded = _console(), load_study(study)
    machine = Machine(
        storage=storage,
        data_roots=data_roots.parse(data_root or []),
        weights=weights.resolve() if weights else None,
        address=address,
        cpus=cpus,
        retry_failed=retry_failed,
    )
    shown = showing.create(progress, console)
    try:
        run_study(loaded, machine, shown)
    except KeyboardInterrupt:
        _stop("interrupted; run the same command again and it goes on where it stood", 130)
    finally:
        shown.close()
    found = report.read(StudyFolder(storage.resolve(), loaded.name))
    if progress != "json":
        report.show(found, console)
    if not found["cells"]:
        _stop("no cell has a finished trial; `python -m search status` says why", 1)
    if found["unusable"]:
        _stop(f"data that could not be used: {', '.join(found['unusable'])}; mend them and run again", 1)


@app.command()
def status(study: Study, storage: Storage = STORAGE, as_json: Json = False) -> None:
    """Show what is done, running, pruned and failed, and the best of each cell so far; works while a run goes on."""
    from search import status as stating
    from search.study_config import load_study

    found = stating.status(load_study(study), storage.resolve())
    if as_json:
        _print_json(found)
    else:
        stating.show(found, _console())


@app.command()
def report(
    study: Study,
    storage: Storage = STORAGE,
    renew: Annotated[
        bool, typer.Option("--renew", help="Write all files again, from what is stored so far, also while it runs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show test metrics per cell and per target with their intervals; `run` has written the files."""
    from search import report as reporting
    from search.study_config import load_study
    from search.study_folder import StudyFolder

    loaded = load_study(study)
    folder = StudyFolder(storage.resolve(), loaded.name)
    if renew:
        reporting.renew(loaded, folder)
    found = reporting.read(folder)
    if as_json:
        _print_json(found)
    else:
        reporting.show(found, _console())


@app.command()
def replay(
    curves: Annotated[
        Path,
        typer.Argument(
            metavar="CURVES",
            help="Study folder, or .csv/.parquet: group, trial, epoch, value [, cost, outcome, point].",
        ),
    ],
    pruner: Annotated[
        list[str] | None,
        typer.Option(help='Pruner to try, e.g. median or "median: {n_startup_trials: 3}"; may be repeated.'),
    ] = None,
    minimize: Annotated[bool, typer.Option(help="Smaller values are better.")] = False,
    restarts: Annotated[
        bool, typer.Option(help="Each row is a training of its own: rows that are not looked at cost nothing.")
    ] = False,
    carry: Annotated[bool, typer.Option(help="Let a pruner learn from the other groups.")] = True,
    seeds: Annotated[int, typer.Option(min=1, help="Orders of the trials, for pruners that depend on it.")] = 5,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw cost against regret, too: a .png or .svg.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per pruner.")] = False,
) -> None:
    """Try pruners on recorded curves beside the full grid, random search, top-k, Optuna's pruners and ASHA.

    Trials are chosen by their last value. Where a choice is to be judged by something else, a test set say, the column
    `outcome` has it in the last row of each trial. Trials that differ in their seed alone share a name in the column
    `point`: they are chosen by their mean, and `cell_race` stops or keeps them together. The column `cost` is what a
    row itself costs, not a sum up to it; without it all epochs cost the same. The rungs of `cell_race` are shares of a
    training's cost. The printed cost is the mean share of a group's full grid. Without settings Optuna's median waits
    for one finished trial, not for five, as its comparison groups are small.
    """
    from search.replay import curves as recorded
    from search.replay import picture
    from search.replay import run as replaying

    if figure is not None:
        picture.check(figure)
    groups = recorded.load(curves, minimize=minimize, restarts=restarts)
    asked = replaying.asked(pruner or ["cell_race"])
    scores = []
    for score in replaying.replay(groups, asked, seeds=seeds, carry=carry):
        typer.echo(json.dumps(score.as_json()) if as_json else replaying.line(score))
        scores.append(score)
    if figure is not None:
        picture.write(picture.draw({curves.name: scores}, asked=list(asked)), figure)


@app.command()
def promote(
    study: Study,
    storage: Storage = STORAGE,
    data_root: DataRoot = None,
    weights: Weights = None,
    dry_run: Annotated[bool, typer.Option(help="Judge, and change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Register the study's winner and make it champion if the evidence allows; else say why not (exit code 1)."""
    from search import data_roots
    from search import promote as promoting
    from search.study_config import load_study

    roots = data_roots.parse(data_root or [])
    decision = promoting.promote(load_study(study), storage.resolve(), roots=roots, weights=weights, dry_run=dry_run)
    if as_json:
        _print_json(decision)
    else:
        promoting.show(decision, _console())
    if not decision["promoted"]:
        raise typer.Exit(1)


@app.command()
def compare(
    first: Annotated[
        str,
        typer.Argument(help="Trial or its beginning, cell, STUDY/CELL, runs:/ID, models:/NAME@ALIAS, models:/NAME/3."),
    ],
    second: Annotated[str, typer.Argument(help="The same; the differences are first minus second.")],
    storage: Storage = STORAGE,
    tracking: Annotated[
        str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help="Server of the registry; default: the storage's.")
    ] = None,
    pathology: Annotated[list[str] | None, typer.Option(help="Compare these alone; may be repeated.")] = None,
    metric: Annotated[
        str | None, typer.Option(help="Default: the study's primary metric; auroc where it is unknown.")
    ] = None,
    redraws: Annotated[
        int | None,
        typer.Option(
            min=100, max=100_000, help="Default: as the study says; 1,000 where the storage has not that study."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare two measured trials, cells, runs or model versions by stored test scores: paired, nothing is run."""
    from search import compare as comparing

    question = comparing.Question(metric, tuple(pathology or ()), redraws)
    found = comparing.compare(first, second, storage=storage.resolve(), uri=tracking, question=question)
    if as_json:
        _print_json(found)
    else:
        comparing.show(found, _console())


def main() -> None:
    """Run a command; bad input ends with a message and exit code 2."""
    try:
        app(standalone_mode=True)
    except Exception as problem:
        message = _plain_message(problem)
        if os.environ.get("RADSWEEP_DEBUG") or message is None:
            raise
        _stop(message, 2)


def _plain_message(problem: Exception) -> str | None:
    """Return what to tell of a problem that lies in the input or the surroundings; None: it is a bug."""
    from datasets.errors import DatasetError
    from mlflow_server.errors import PromotionError, TrackingError, refusal
    from trainers.plugins import UnknownNameError
    from trainers.trial import TrialError

    if isinstance(problem, (StudyError, DatasetError, TrackingError, PromotionError, UnknownNameError, TrialError)):
        return str(problem)
    return refusal(problem)


def _stop(message: str, code: int) -> None:
    from mlflow_server.reach import without_password

    message = without_password(message)
    Console(stderr=True).print(
        f"error: {message}" if code == 2 else message, markup=False, highlight=False, soft_wrap=True
    )
    sys.exit(code)


def _console() -> Console:
    """Return the terminal, or for a file or a pipe a console that folds no table."""
    return Console() if sys.stdout.isatty() or "COLUMNS" in os.environ else Console(width=UNFOLDED)


def _print_json(content: Any) -> None:
    typer.echo(json.dumps(content, indent=2, default=str))
