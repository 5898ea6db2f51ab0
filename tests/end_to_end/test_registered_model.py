"""The model that a study promotes, from films to named probabilities, in this process and over HTTP."""

import base64
import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from datasets import sources
from datasets.dataset_config import DatasetConfig
from datasets.privacy import case_key, keyed_hash
from scripts.services import free_port
from tests.end_to_end.conftest import ROOT, Command, environment
from trainers.evaluation import case_scores

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def promoted(undisturbed, tmp_path_factory) -> Command:
    """A copy of the finished study with its winner promoted."""
    folder = tmp_path_factory.mktemp("promoted")
    shutil.copytree(undisturbed.storage, folder / "storage")
    command = Command(folder)
    command.decision = json.loads(command("promote", "--json"))
    command.uri = f"sqlite:///{command.storage}/mlflow.db"
    return command


@pytest.fixture
def model(promoted):
    mlflow.set_tracking_uri(promoted.uri)
    return mlflow.pyfunc.load_model("models:/tiny@champion")


def films_of_single_cases(command):
    """Return paths of test cases with one film each, and the scores that the trial stored for them."""
    trial = command.decision["trial"]
    config = next(e for e in command.events() if e.get("trial") == trial)["config"]
    root = command.storage / "generated" / "phantom"
    manifest = sources.load(DatasetConfig(**config["dataset"]), root)
    scores = case_scores.load(command.folder / "winners" / trial / "scores.parquet")
    stored = dict(zip(scores.table["case"], scores.scores, strict=True))
    key, cases = case_key(command.storage), manifest.instances["case"]
    rows = [row for row in manifest.rows("test") if (cases == cases[row]).sum() == 1]
    paths = [root / manifest.instances["path"][row] for row in rows]
    return paths, np.array([stored[keyed_hash(key, cases[row])] for row in rows])


def test_from_the_film_to_the_stored_score(promoted, model):
    paths, stored = films_of_single_cases(promoted)
    assert len(paths) > 5
    answer = model.predict(paths)
    assert list(answer.columns) == ["cardiomegaly", "pleural_effusion", "nodule", "pneumothorax"]
    assert np.abs(answer.to_numpy() - stored).max() < 1e-5


def test_the_version_tells_what_it_is(promoted, model):
    version = MlflowClient(promoted.uri).get_model_version_by_alias("tiny", "champion")
    assert "It is no medical device" in version.description
    assert "drawn from" not in version.description
    (evaluated,) = [
        e for e in promoted.events() if e["kind"] == "evaluated" and e["trial"] == promoted.decision["trial"]
    ]
    macro = evaluated["metrics"]["test/auroc/macro"]
    assert f"| macro |  |  | {macro:.3f} (" in version.description
    assert model.metadata.metadata["thresholds"] == evaluated["thresholds"]
    assert version.tags["radsweep.trial"] == promoted.decision["trial"]


@pytest.fixture(scope="module")
def served(promoted):
    """Address of `mlflow models serve` on the champion."""
    port = free_port()
    words = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", "models:/tiny@champion"]
    words += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    surroundings = {**environment(), "MLFLOW_TRACKING_URI": promoted.uri, "PYTHONPATH": ""}
    with (promoted.folder / "serve.log").open("wb") as log:
        running = subprocess.Popen(
            words, cwd=promoted.folder, env=surroundings, stdout=log, stderr=log, start_new_session=True
        )
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while not answers(f"{address}/ping"):
            told = (promoted.folder / "serve.log").read_text()[-2000:]
            assert running.poll() is None and time.monotonic() < deadline, told
            time.sleep(0.2)
        yield address
    finally:
        running.terminate()
        running.wait(30)


def answers(address):
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def ask(address, content):
    return send(address, json.dumps(content).encode(), "application/json")


def send(address, body, content_type):
    """Return status and JSON of the answer."""
    request = urllib.request.Request(f"{address}/invocations", body)
    request.add_header("Content-Type", content_type)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


def test_a_film_is_scored_over_http(promoted, served):
    paths, stored = films_of_single_cases(promoted)
    status, answer = ask(served, {"inputs": [base64.b64encode(path.read_bytes()).decode() for path in paths[:3]]})
    assert status == 200
    rows = answer["predictions"]
    assert list(rows[0]) == ["cardiomegaly", "pleural_effusion", "nodule", "pneumothorax"]
    assert np.abs(np.array([list(row.values()) for row in rows]) - stored[:3]).max() < 1e-5


def test_films_are_scored_as_a_parquet_table_over_http(promoted, served):
    paths, stored = films_of_single_cases(promoted)
    table = pd.DataFrame({"image": [path.read_bytes() for path in paths[:3]]})
    status, answer = send(served, table.to_parquet(), "application/vnd.apache.parquet")
    assert status == 200
    rows = answer["predictions"]
    assert np.abs(np.array([list(row.values()) for row in rows]) - stored[:3]).max() < 1e-5


def test_decisions_are_given_over_http(promoted, served, model):
    path = films_of_single_cases(promoted)[0][0]
    content = base64.b64encode(path.read_bytes()).decode()
    status, answer = ask(served, {"inputs": [content], "params": {"decisions": True}})
    assert status == 200
    expected = model.predict([path], params={"decisions": True}).iloc[0].to_dict()
    assert answer["predictions"][0] == pytest.approx(expected)
    assert {type(value) for name, value in answer["predictions"][0].items() if name.startswith("decision_")} == {bool}


def test_a_client_cannot_name_a_file_of_the_server(promoted, served):
    path = films_of_single_cases(promoted)[0][0]
    for text in (str(path), f"file://{path}", "/etc/passwd"):
        table = pd.DataFrame({"image": [text]}).to_parquet()
        for status, answer in (
            ask(served, {"inputs": [text]}),
            send(served, table, "application/vnd.apache.parquet"),
        ):
            assert status == 400
            assert "image 0: text is read as base64" in json.dumps(answer)


def test_what_is_no_image_is_refused_over_http(served):
    status, answer = ask(served, {"inputs": [base64.b64encode(b"no image").decode()]})
    assert status == 400
    assert "image 0: neither PNG, JPEG nor DICOM" in json.dumps(answer)


def test_a_promotion_killed_in_the_middle_is_completed_by_the_next(again):
    """The command itself dies right after the alias has moved, and is run again."""
    killing = (
        "import os, signal, sys; from mlflow.tracking import MlflowClient as C; move = C.set_registered_model_alias\n"
        "def dying(self, name, alias, version):\n"
        "    move(self, name, alias, version)\n"
        "    alias == 'champion' and os.kill(os.getpid(), signal.SIGKILL)\n"
        "C.set_registered_model_alias = dying\n"
        "from search.cli import main; main()"
    )
    words = [sys.executable, "-c", killing, *again.words("promote")[3:]]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, check=False)
    assert done.returncode == -9
    ledger = again.storage / "mlpromotions" / "tiny.jsonl"
    assert not ledger.exists()
    decision = json.loads(again("promote", "--json"))
    assert decision["reasons"][0]["condition"] == "this model is the champion"
    (entry,) = map(json.loads, ledger.read_text().splitlines())
    assert (entry["action"], entry["version"]) == ("promoted", "1")
    assert any("gives the stored scores" in reason["condition"] for reason in entry["reasons"])
    assert '"kind":"promotion"' in (again.folder / "promotions.jsonl").read_text()


def test_an_equal_challenger_is_refused_with_the_figures(promoted, tmp_path):
    """The champion's trial is trained once more, as another study that promotes to the same name."""
    shutil.copytree(promoted.storage, tmp_path / "storage")
    again = Command(tmp_path)
    trial = promoted.decision["trial"]
    entry = next(event for event in again.events() if event["kind"] == "trial" and event["trial"] == trial)
    text = again.study.read_text().replace("name: tiny", "name: tiny-again")
    text = text.replace("[test_convnext2, test_vit3]", entry["axes"]["backbone"])
    text = text.replace("[1e-3, 1e-4, 3e-3]", f"{entry['searched']['learning_rate']}")
    again.study.write_text(text + "promotion: {registered_model: tiny}\n")
    again("run")
    refused = json.loads(again("promote", "--json", code=1))
    assert not refused["promoted"]
    assert "challenger minus champion +0.0000, interval +0.0000 to +0.0000" in refused["reasons"][0]["evidence"]
