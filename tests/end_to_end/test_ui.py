"""MLflow's own pages in a real browser, over a study that ran."""

import pytest
from mlflow.tracking import MlflowClient

from scripts import mlflow_pages

pytestmark = pytest.mark.slow
SECONDS = 60_000  # a page may be slow on a busy machine; what is waited for is its content


@pytest.fixture(scope="module")
def address(undisturbed):
    with mlflow_pages.served(undisturbed.storage) as found:
        yield found


@pytest.fixture(scope="module")
def experiment(address):
    return MlflowClient(address).get_experiment_by_name("tiny").experiment_id


@pytest.fixture
def page(chromium):
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    context.add_init_script(mlflow_pages.remember())
    context.set_default_timeout(SECONDS)
    opened = context.new_page()
    opened.outside = []
    opened.on("request", lambda request: note(opened.outside, request.url))
    yield opened
    context.close()


def note(outside, url):
    if not url.startswith(("http://127.0.0.1:", "data:", "blob:", "about:")):
        outside.append(url)


def test_runs_are_listed_flat_by_names_that_tell_them_apart(page, address, experiment):
    page.goto(f"{address}/#/{mlflow_pages.runs(experiment)}")
    page.get_by_text("7 matching runs").or_(page.get_by_text("matching runs")).first.wait_for()
    for name in ("test_convnext2 learning_rate=0.001", "test_vit3 learning_rate=0.003"):
        page.get_by_text(name, exact=True).first.wait_for()
    assert page.outside == []


def test_a_filter_by_cell_tags_leaves_the_cells_runs(page, address, experiment):
    where = 'tags.cell.backbone = "test_vit3" and tags.radsweep.level = "trial"'
    page.goto(f"{address}/#/{mlflow_pages.runs(experiment, where=where)}")
    page.get_by_text("test_vit3 learning_rate=0.001", exact=True).first.wait_for()
    assert page.get_by_role("link", name="test_vit3 learning_rate").count() == 3
    assert page.get_by_role("link", name="test_convnext2 learning_rate").count() == 0


def test_each_pathology_has_a_chart(page, address, experiment):
    page.goto(f"{address}/#/{mlflow_pages.runs(experiment, charts=True)}")
    page.get_by_placeholder("Search metric charts").fill("val/auroc")
    for pathology in ("cardiomegaly", "nodule", "pneumothorax", "macro"):
        page.get_by_text(f"val/auroc/{pathology}").first.wait_for()


def test_runs_are_compared_side_by_side(page, address, experiment):
    found = MlflowClient(address).search_runs([experiment], "tags.`radsweep.level` = 'trial'")
    page.goto(f"{address}/#/{mlflow_pages.comparison(experiment, [run.info.run_id for run in found])}")
    page.get_by_text("Comparing 6 Runs from 1 Experiment").first.wait_for()
    page.get_by_text("test_vit3 learning_rate=0.003").first.wait_for()


def test_the_studys_run_says_what_came_of_it_and_holds_the_report(page, address, experiment):
    client = MlflowClient(address)
    (study,) = client.search_runs([experiment], "tags.`radsweep.level` = 'study'")
    page.goto(f"{address}/#/experiments/{experiment}/runs/{study.info.run_id}")
    page.get_by_text("2 cells, 6 trials").first.wait_for()
    assert {"report/report.html", "report/results.tex"} <= {
        f.path for f in client.list_artifacts(study.info.run_id, "report")
    }
