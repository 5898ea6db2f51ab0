"""`python -m scripts.screenshots [STORAGE]`: renew the pictures of docs/ui.md.

Runs the 112 trials of screenshots.yaml into the storage folder (what is there already is not run again), promotes the
winner, opens MLflow's UI and the report in the system's Chromium, and photographs what a user would look at.
"""

import io
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from mlflow.tracking import MlflowClient
from PIL import Image
from playwright.sync_api import Browser, Locator, Page

from scripts import mlflow_pages
from scripts.browser import chromium

ROOT = Path(__file__).resolve().parents[1]
STUDY = ROOT / "scripts" / "screenshots.yaml"
PICTURES = ROOT / "docs" / "ui"
NAME = "many-runs"
COLOURS = 128
"""Of a picture: enough for a user interface, a third of the bytes."""
COLUMNS = (
    "tags.`cell.initialization`",
    "tags.`cell.resolution`",
    "tags.`cell.adaptation`",
    "params.`learning_rate`",
    "metrics.`val/auroc/macro`",
    "metrics.`test/auroc/macro`",
)
WINNERS = 'tags.cell.initialization = "imagenet" and tags.radsweep.winner = "true"'


def main(storage: Annotated[Path, typer.Argument(help="Folder of the study.")] = Path("storage/screenshots")) -> None:
    """Run the study if it has not run yet, and take the pictures."""
    storage = storage.resolve()
    for words in (["run", "--progress", "lines"], ["promote"]):
        command = [sys.executable, "-m", "search", words[0], str(STUDY), "--storage", str(storage), *words[1:]]
        subprocess.run(command, cwd=ROOT, check=True)
    PICTURES.mkdir(parents=True, exist_ok=True)
    with chromium() as browser, mlflow_pages.served(storage) as address:
        _photograph_report(browser, storage / NAME / "report" / "report.html")
        _photograph_mlflow(browser, address)


def _photograph_mlflow(browser: Browser, address: str) -> None:
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name(NAME).experiment_id
    winners = client.search_runs([experiment], "tags.`radsweep.winner` = 'true'", max_results=6)
    context = browser.new_context(viewport={"width": 1440, "height": 820})
    context.add_init_script(mlflow_pages.remember(experiment, COLUMNS))
    page = context.new_page()

    def open_page(route: str, sign: Locator) -> None:
        page.goto("about:blank")  # MLflow keeps filters of the page before
        page.goto(f"{address}/#/{route}")
        sign.first.wait_for()
        page.wait_for_timeout(2500)  # charts draw themselves in steps

    listed = page.get_by_text("matching runs")
    open_page(mlflow_pages.runs(experiment), listed)
    _save(page, "runs")
    open_page(mlflow_pages.runs(experiment, where=WINNERS, by="test/auroc/macro"), listed)
    _save(page, "filter")
    open_page(mlflow_pages.runs(experiment, where='tags.radsweep.winner = "true"', charts=True), listed)
    page.get_by_placeholder("Search metric charts").fill("val/auroc")
    page.wait_for_timeout(2500)
    _save(page, "charts")
    open_page(
        mlflow_pages.comparison(experiment, [run.info.run_id for run in winners]), page.get_by_text("Comparing 6")
    )
    _save(page, "compare")
    open_page(f"experiments/{experiment}/runs/{_study_run(client, experiment)}", page.get_by_text("Description"))
    _save(page, "study")
    open_page(f"models/{NAME}/versions/1", page.get_by_text("Version 1"))
    _save(page, "version")
    context.close()


def _study_run(client: MlflowClient, experiment: str) -> str:
    return str(client.search_runs([experiment], "tags.`radsweep.level` = 'study'")[0].info.run_id)


def _photograph_report(browser: Browser, report: Path) -> None:
    context = browser.new_context(viewport={"width": 1200, "height": 820})
    page = context.new_page()
    page.goto(report.as_uri())
    _save(page, "report")
    page.set_viewport_size({"width": 390, "height": 820})
    page.locator("#differences").evaluate("section => section.scrollIntoView()")
    _save(page, "report-phone")
    context.close()


def _save(page: Page, name: str) -> None:
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(PICTURES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    typer.run(main)
