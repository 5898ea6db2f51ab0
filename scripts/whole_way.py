"""`python -m scripts.whole_way [STUDY.yaml]`: everything a group does with radsweep, in one go, and what it printed.

Starts an MLflow server with authentication (on PostgreSQL where it is installed), runs a study against it, promotes,
looks at the UI in Chromium, runs changed grids of the same study, sees one promotion refused and one accepted, rolls
back, serves the champion and scores a DICOM film over HTTP.
"""

import base64
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import requests
import typer
import yaml
from mlflow.tracking import MlflowClient
from rich.console import Console

from datasets import sources
from datasets.dataset_config import DatasetConfig
from scripts import mlflow_pages, services
from scripts.browser import NoChromiumError, chromium

ROOT = Path(__file__).resolve().parents[1]
NIH_SUBSET = ROOT / "search" / "studies" / "nih_subset.yaml"
NOT_WORSE_BY = 0.1
PROMOTED, REFUSED = "promoted", "not promoted"
VERDICTS = (PROMOTED, REFUSED, "champion already")
"""How the first line of `promote` begins."""
SECONDS_TO_DRAW = 5
CONSOLE = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the way is gone.

    Attributes:
        folder: of everything that is written.
        data_roots: `--data-root` options.
        environment: of every command, with the tracker's address and credentials.
    """

    folder: Path
    data_roots: list[str]
    environment: Mapping[str, str]

    def search(self, command: str, study: Path, *words: str, code: int | None = 0) -> str:
        """Run `python -m search` and show what it printed."""
        roots = [word for root in self.data_roots for word in ("--data-root", root)]
        options = roots if command in {"run", "promote"} else []
        lines = ["--progress", "lines"] if command == "run" else []
        storage = ["--storage", str(self.folder / "storage")]
        return self.command("search", command, str(study), *storage, *options, *lines, *words, code=code)

    def verdict(self, study: Path) -> str:
        """Ask for a promotion, show the reasons, and return how it ended, one of `VERDICTS`."""
        told = [line.partition(":")[0] for line in self.search("promote", study, code=None).splitlines()]
        return next(word for word in told if word in VERDICTS)

    def command(self, room: str, *words: str, code: int | None = 0) -> str:
        """Run a command of a room and show what it printed; the way ends where it ends otherwise than expected.

        Args:
            room: whose command it is.
            words: of the command.
            code: its expected exit code; None: any.
        """
        CONSOLE.rule(f"python -m {room} {' '.join(words)}"[:160], align="left")
        command = [sys.executable, "-m", room, *words]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        CONSOLE.print(done.stdout[-6000:] + done.stderr[-2000:], markup=False)
        if code is not None and done.returncode != code:
            sys.exit(f"python -m {room} {words[0]} ended with exit code {done.returncode}; what it said stands above")
        return done.stdout

    def study(self, content: Mapping[str, Any], name: str) -> Path:
        """Write a study file."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(dict(content), sort_keys=False))
        return path


def main(
    study: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="Study; its first axis of several values is cut.")
    ] = NIH_SUBSET,
    data_root: Annotated[list[str] | None, typer.Option(metavar="SOURCE=PATH", help="Where a data set lies.")] = None,
    to: Annotated[Path | None, typer.Option(help="Folder to keep everything in; default: a temporary one.")] = None,
) -> None:
    """Go the whole way from a study file to a film scored over HTTP."""
    folder = (to or Path(tempfile.mkdtemp(prefix="radsweep-whole-way-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with _server(folder) as known:
        environment = {**os.environ, **known, "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
        place = Place(folder, data_root or [], environment)
        _go(place, yaml.safe_load(study.read_text()), known)
    CONSOLE.print(f"the whole way took {(time.monotonic() - began) / 60:.1f} min; everything lies in {folder}")


def _go(place: Place, content: dict[str, Any], known: Mapping[str, str]) -> None:
    """Promote the study with one value of its first axis of several, then the whole, then a smaller grid again.

    The whole study's winner is refused where the evidence does not suffice; then a policy that only asks it not to be
    worse by more than `NOT_WORSE_BY` is tried. Whether both a refusal and a promotion were seen is told afterwards:
    on small data neither is certain.
    """
    model = content.get("promotion", {}).get("registered_model") or content["name"]
    content["tracking"] = {"uri": known["MLFLOW_TRACKING_URI"]}
    axis, values = next((axis, values) for axis, values in content["axes"].items() if len(_list(values)) > 1)
    smaller = {**content, "axes": {**content["axes"], axis: _list(values)[0]}}
    first, whole = place.study(smaller, "smaller-grid"), place.study(content, "study")
    place.search("run", first)
    place.search("promote", first)
    place.search("run", whole)
    verdicts = [place.verdict(whole)]
    if verdicts == [PROMOTED]:
        changed = place.study({**smaller, "search": _one_more(content["search"])}, "changed-grid")
        place.search("run", changed)
        verdicts.append(place.verdict(changed))
    else:
        policy = {"rule": "non_inferiority", "margin": NOT_WORSE_BY, "per_pathology": None}
        tolerant = place.study({**content, "promotion": {**content.get("promotion", {}), **policy}}, "changed-policy")
        verdicts.append(place.verdict(tolerant))
    accepted = PROMOTED in verdicts
    CONSOLE.print(f"one promotion refused: {REFUSED in verdicts}, one accepted over a champion: {accepted}")
    registry = ["--storage", str(place.folder / "storage"), "--tracking", known["MLFLOW_TRACKING_URI"]]
    place.command("mlflow_server", "history", model, *registry)
    if accepted:
        place.command("mlflow_server", "rollback", model, *registry)
    _photograph(place.folder, known, model)
    _serve(place, model)


def _one_more(search: Mapping[str, Any]) -> dict[str, Any]:
    """Add a value between the two largest of the first searched setting."""
    name, values = next(iter(search.items()))
    *_, second, largest = sorted(float(value) for value in values)
    return {**search, name: [*values, float(f"{(second * largest) ** 0.5:.2g}")]}


def _list(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values]


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[dict[str, str]]:
    with contextlib.ExitStack() as ends:
        try:
            _, database = ends.enter_context(services.postgresql())
        except services.NoPostgresError as reason:
            CONSOLE.print(f"{reason}: the server uses SQLite")
            database = None
        server, known = services.mlflow(folder / "server", database)
        ends.callback(server.kill)
        server.start()
        CONSOLE.print(f"MLflow server with authentication on {'PostgreSQL' if database else 'SQLite'}")
        yield known


def _photograph(folder: Path, known: Mapping[str, str], model: str) -> None:
    """Open the UI as a user would, with the password, and keep two pictures."""
    credentials = {"username": known["MLFLOW_TRACKING_USERNAME"], "password": known["MLFLOW_TRACKING_PASSWORD"]}
    try:
        with chromium() as browser:
            context = browser.new_context(http_credentials=credentials, viewport={"width": 1440, "height": 820})  # type: ignore[arg-type]
            page = context.new_page()
            os.environ.update(known)
            client = MlflowClient(known["MLFLOW_TRACKING_URI"])
            experiment = next(found for found in client.search_experiments() if found.name != "Default").experiment_id
            context.add_init_script(mlflow_pages.remember(experiment, ("metrics.`val/auroc/macro`",)))
            routes = {"runs": mlflow_pages.runs(experiment), "model": f"models/{model}"}
            for name, route in routes.items():
                page.goto("about:blank")  # MLflow keeps the page before
                page.goto(f"{known['MLFLOW_TRACKING_URI']}/#/{route}")
                page.wait_for_timeout(SECONDS_TO_DRAW * 1000)
                page.screenshot(path=folder / f"{name}.png")
                CONSOLE.print(f"picture of the UI: {folder / name}.png")
    except NoChromiumError as problem:
        CONSOLE.print(f"no pictures of the UI: {problem}")


def _serve(place: Place, model: str) -> None:
    """Serve the champion and send it a film."""
    uri, log = f"models:/{model}@champion", place.folder / "serve.log"
    server, address = services.served_model(uri, log, place.environment)
    phantom = DatasetConfig(name="phantom", source="phantom", options={"patients": 12, "size": 512})
    manifest = sources.load(phantom, place.folder / "phantom")
    film = (place.folder / "phantom" / manifest.instances["path"].iloc[0]).read_bytes()
    server.start()
    try:
        CONSOLE.rule(f"curl {address}/invocations with a DICOM film of {len(film):,} bytes", align="left")
        body = {"inputs": [base64.b64encode(film).decode()]}
        answer = requests.post(f"{address}/invocations", json=body, timeout=120)
        answer.raise_for_status()
        CONSOLE.print(answer.text, markup=False)
    finally:
        server.kill()


if __name__ == "__main__":
    typer.run(main)
