from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.tracking import MlflowClient

from mlflow_server.errors import TrackingError
from mlflow_server.garbage import place_of
from mlflow_server.tracking import IDENTITY_TAG, Measurement, RunDescription, Tracker


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def tracker(uri, request, tmp_path):
    return Tracker(uri, request.node.name, tmp_path)


def run_of(uri, tracker, identity):
    return MlflowClient(uri).get_run(tracker.run_id(identity))


def study_and_trial(tracker):
    tracker.open(RunDescription("study", "my study", 1000, {"radsweep.level": "study"}))
    tracker.open(
        RunDescription(
            "t1", "cell lr", 2000, {"cell.backbone": "vit"}, {"learning_rate": 1e-4, "ema": None}, "nih", "f" * 64
        ),
        parent="study",
    )


def test_a_trial_is_a_child_run_with_tags_parameters_and_data(uri, tracker):
    study_and_trial(tracker)
    run = run_of(uri, tracker, "t1")
    assert run.info.run_name == "cell lr"
    assert run.info.start_time == 2000
    assert run.data.params == {"learning_rate": "0.0001", "ema": ""}
    assert run.data.tags["cell.backbone"] == "vit"
    assert run.data.tags["mlflow.parentRunId"] == tracker.run_id("study")
    dataset = run.inputs.dataset_inputs[0].dataset
    assert (dataset.name, dataset.digest) == ("nih", "f" * 36)


def test_a_run_gets_another_name_unless_somebody_gave_it_one_by_hand(uri, tracker):
    study_and_trial(tracker)
    tracker.finish("t1", "KILLED", 9000)
    for name in ("longer", "longer"):  # told twice
        tracker.rename("t1", name, instead_of="cell lr")
    run = run_of(uri, tracker, "t1")
    assert (run.info.run_name, run.data.tags["mlflow.runName"]) == ("longer", "longer")
    assert (run.info.status, run.info.end_time) == ("KILLED", 9000)
    MlflowClient(uri).update_run(run.info.run_id, name="my favourite")
    tracker.rename("t1", "longest", instead_of="longer")
    assert run_of(uri, tracker, "t1").info.run_name == "my favourite"


def test_what_is_told_of_a_run_that_somebody_deleted_is_dropped(uri, tracker, request, tmp_path):
    study_and_trial(tracker)
    tracker.finish("t1", "FINISHED", 9000)
    client, run_id = MlflowClient(uri), tracker.run_id("t1")
    client.delete_run(run_id)
    driver = Tracker(uri, request.node.name, tmp_path)
    driver.log("t1", [Measurement(1, 5001, {"val/auroc/macro": 0.6})])
    driver.tag("t1", {"radsweep.winner": "false"})
    driver.rename("t1", "longer", instead_of="cell lr")
    driver.log_artifacts("t1", tmp_path)
    driver.replace_artifacts("t1", tmp_path, "report")
    driver.finish("t1", "KILLED", 9500)
    run = client.get_run(run_id)
    assert (run.info.lifecycle_stage, run.info.run_name, run.info.status) == ("deleted", "cell lr", "FINISHED")
    assert run.data.metrics == {}
    assert driver.knows("t1")
    with pytest.raises(TrackingError, match=f"t1: its run {run_id} is deleted in MLflow"):
        driver.run_id("t1")


@pytest.mark.parametrize("again", ["open", "reopen"])
def test_a_deleted_run_is_restored_where_its_trial_trains_again(uri, tracker, request, tmp_path, again):
    study_and_trial(tracker)
    tracker.finish("t1", "FAILED", 9000)
    client, run_id = MlflowClient(uri), tracker.run_id("t1")
    client.delete_run(run_id)
    driver = Tracker(uri, request.node.name, tmp_path)
    if again == "reopen":
        driver.reopen("t1")
    study_and_trial(driver)
    driver.log("t1", [Measurement(1, 5001, {"val/auroc/macro": 0.6})])
    run = client.get_run(run_id)
    assert (run.info.lifecycle_stage, run.info.status) == ("active", "RUNNING")
    assert run.data.metrics == {"val/auroc/macro": 0.6}
    assert driver.run_id("t1") == run_id


def test_a_trial_below_a_study_that_was_deleted_meanwhile_is_its_child_all_the_same(uri, tracker, request, tmp_path):
    tracker.open(RunDescription("study", "my study", 1000))
    run_id = tracker.run_id("study")
    MlflowClient(uri).delete_run(run_id)
    driver = Tracker(uri, request.node.name, tmp_path)
    driver.open(RunDescription("t1", "cell lr", 2000), parent="study")
    assert run_of(uri, driver, "t1").data.tags["mlflow.parentRunId"] == run_id


@pytest.mark.parametrize("number", range(4))  # of runs of one time MLflow names any first
def test_of_a_run_that_was_made_twice_the_one_stays_that_was_logged_to(uri, tracker, request, tmp_path, number):
    study_and_trial(tracker)
    client, runs = MlflowClient(uri), {identity: tracker.run_id(identity) for identity in ("study", "t1")}
    experiment = client.get_experiment_by_name(request.node.name).experiment_id
    for identity, start in (("study", 1000), ("t1", 2000)):
        client.create_run(experiment, start_time=start, tags={IDENTITY_TAG: identity, "radsweep.level": "study"})
    driver = Tracker(uri, request.node.name, tmp_path)
    assert {identity: driver.run_id(identity) for identity in runs} == runs
    assert len(client.search_runs([experiment])) == 2
    for run_id in runs.values():
        client.delete_run(run_id)
    driver = Tracker(uri, request.node.name, tmp_path)
    for identity in runs:
        driver.reopen(identity)
    assert {identity: driver.run_id(identity) for identity in runs} == runs


def test_groups_that_search_the_same_on_one_server_have_runs_of_their_own(uri, request, tmp_path):
    """And take nothing from one another, however often they connect; nor from those of earlier versions."""
    trackers = [Tracker(uri, request.node.name, tmp_path, origin=origin) for origin in (None, "a", "b")]
    for number, tracker in enumerate(trackers):
        study_and_trial(tracker)
        tracker.log("t1", [Measurement(1, 5000 + number, {"val/auroc/macro": number / 10})])
    client = MlflowClient(uri)
    for origin, before in zip((None, "a", "b"), trackers, strict=True):
        again = Tracker(uri, request.node.name, tmp_path, origin=origin)
        assert again.run_id("t1") == before.run_id("t1")
        assert again.run_id("study") == before.run_id("study")
    experiment = client.get_experiment_by_name(request.node.name).experiment_id
    assert len(client.search_runs([experiment])) == 6
    for number, tracker in enumerate(trackers):
        history = client.get_metric_history(tracker.run_id("t1"), "val/auroc/macro")
        assert [(row.step, row.value) for row in history] == [(1, number / 10)]
    assert not Tracker(uri, request.node.name, tmp_path, origin="c").knows("t1")


def test_everything_may_be_told_again_by_the_next_driver(uri, tracker, request, tmp_path):
    measured = [Measurement(epoch, 5000 + epoch, {"val/auroc/macro": 0.5 + epoch / 10}) for epoch in (1, 2, 3)]
    for number in range(2):
        driver = tracker if number == 0 else Tracker(uri, request.node.name, tmp_path)
        study_and_trial(driver)
        driver.log("t1", measured)
        driver.tag("t1", {"radsweep.state": "COMPLETE"})
        driver.finish("t1", "FINISHED", 9000)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(request.node.name)
    assert len(client.search_runs([experiment.experiment_id])) == 2
    history = client.get_metric_history(tracker.run_id("t1"), "val/auroc/macro")
    assert sorted((m.step, m.timestamp, m.value) for m in history) == [(1, 5001, 0.6), (2, 5002, 0.7), (3, 5003, 0.8)]
    run = run_of(uri, tracker, "t1")
    assert (run.info.status, run.info.end_time) == ("FINISHED", 9000)


@pytest.mark.parametrize("dies_in", ["log_batch", "log_inputs"])
def test_a_run_that_a_dead_driver_only_created_is_completed(uri, tracker, request, tmp_path, monkeypatch, dies_in):
    def die(*_, **__):
        raise ConnectionError(dies_in)

    tracker.open(RunDescription("study", "my study", 1000))
    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, dies_in, die)
        with pytest.raises(ConnectionError):
            study_and_trial(tracker)
    again = Tracker(uri, request.node.name, tmp_path)
    study_and_trial(again)
    run = run_of(uri, again, "t1")
    assert run.data.params == {"learning_rate": "0.0001", "ema": ""}
    assert [found.dataset.name for found in run.inputs.dataset_inputs] == ["nih"]


def test_a_parameter_that_is_there_already_is_left_as_it_is(uri, tracker):
    study_and_trial(tracker)
    tracker.open(RunDescription("t1", "cell lr", 2000, params={"learning_rate": 1e-3, "epochs": 3}), parent="study")
    assert run_of(uri, tracker, "t1").data.params == {"learning_rate": "0.0001", "ema": "", "epochs": "3"}


def test_a_run_doubled_by_a_lost_answer_is_taken_away(uri, tracker, request, tmp_path):
    study_and_trial(tracker)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(request.node.name)
    double = client.create_run(experiment.experiment_id, start_time=3000, tags={IDENTITY_TAG: "t1"})
    again = Tracker(uri, request.node.name, tmp_path)
    assert again.run_id("t1") == tracker.run_id("t1")
    assert client.get_run(double.info.run_id).info.lifecycle_stage == "deleted"


def test_a_run_whose_identity_somebody_took_away_is_nobodys(uri, request, tmp_path):
    tracker = Tracker(uri, request.node.name, tmp_path, origin="a")
    study_and_trial(tracker)
    run_id = tracker.run_id("t1")
    MlflowClient(uri).delete_tag(run_id, IDENTITY_TAG)
    again = Tracker(uri, request.node.name, tmp_path, origin="a")
    study_and_trial(again)
    assert again.run_id("t1") != run_id


def test_more_metrics_than_a_batch_takes_all_arrive(uri, tracker):
    study_and_trial(tracker)
    tracker.log("t1", [Measurement(step, step, {f"m{i}": float(i) for i in range(60)}) for step in range(40)])
    history = MlflowClient(uri).get_metric_history(tracker.run_id("t1"), "m59")
    assert len(history) == 40


def test_any_number_of_parameters_of_any_length_is_recorded(uri, tracker):
    params = {f"p{number:03d}": number for number in range(230)} | {"long": "x" * 7000}
    tracker.open(RunDescription("t1", "cell lr", 2000, params=params))
    recorded = run_of(uri, tracker, "t1").data.params
    assert recorded == {name: str(value)[:6000] for name, value in params.items()}


def test_the_last_value_of_a_metric_is_that_of_the_newest_event_and_what_is_no_number_is_left_out(uri, tracker):
    study_and_trial(tracker)
    told = [Measurement(step, 5000 + step, {"val/loss": 1 / step, "val/odd": float("nan")}) for step in (1, 2, 3)]
    tracker.log("t1", told)
    tracker.log("t1", told[:2])  # told again, late
    tracker.log("t1", [Measurement(4, 5004, {"val/odd": float("inf")})])
    run = run_of(uri, tracker, "t1")
    assert run.data.metrics == {"val/loss": 1 / 3}


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_a_run_that_the_driver_before_closed_is_opened_again_where_its_trial_goes_on(
    uri, tracker, request, tmp_path, status
):
    study_and_trial(tracker)
    tracker.finish("t1", status, 4000)
    again = Tracker(uri, request.node.name, tmp_path)
    study_and_trial(again)
    assert run_of(uri, again, "t1").info.status == "RUNNING"
    again.finish("t1", status, 5000)
    again.reopen("t1")
    again.finish("t1", "FINISHED", 6000)
    info = run_of(uri, again, "t1").info
    assert (info.status, info.end_time) == ("FINISHED", 6000)


def test_an_experiment_that_somebody_deleted_is_told_and_one_made_meanwhile_is_taken(uri, tmp_path, monkeypatch):
    client = MlflowClient(uri)
    client.delete_experiment(client.create_experiment("deleted"))
    with pytest.raises(TrackingError, match="experiment 'deleted' is deleted in MLflow; restore it or name another"):
        Tracker(uri, "deleted", tmp_path)
    create = MlflowClient.create_experiment

    def overtaken(self, name, **settings):
        create(self, name, **settings)
        return create(self, name, **settings)

    monkeypatch.setattr(MlflowClient, "create_experiment", overtaken)
    tracker = Tracker(uri, "made twice", tmp_path)
    tracker.open(RunDescription("s", "s", 1))
    found = client.get_experiment_by_name("made twice")
    assert run_of(uri, tracker, "s").info.experiment_id == found.experiment_id
    assert found.tags["mlflow.experimentKind"] == "custom_model_development"  # else the UI hides its runs


def test_runs_beyond_a_page_are_known(uri, tracker, request, tmp_path, monkeypatch):
    identities = [f"t{number}" for number in range(5)]
    for number, identity in enumerate(identities):
        tracker.open(RunDescription(identity, identity, number))
    search = MlflowClient.search_runs
    monkeypatch.setattr(MlflowClient, "search_runs", lambda *words, **more: search(*words, **more | {"max_results": 2}))
    again = Tracker(uri, request.node.name, tmp_path)
    assert {identity: again.run_id(identity) for identity in identities} == {
        identity: tracker.run_id(identity) for identity in identities
    }


def test_a_server_that_lets_nobody_delete_artifacts_keeps_the_earlier_ones(uri, tracker, tmp_path, monkeypatch):
    study_and_trial(tracker)
    for name in ("cost.svg", "report.html"):
        (tmp_path / "report" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "report" / name).write_text("told")
    tracker.replace_artifacts("study", tmp_path / "report", "report")

    def refuse(*_):
        raise MlflowException("forbidden", PERMISSION_DENIED)

    monkeypatch.setattr(LocalArtifactRepository, "delete_artifacts", refuse)
    (tmp_path / "report" / "cost.svg").unlink()
    tracker.replace_artifacts("study", tmp_path / "report", "report")
    kept = MlflowClient(uri).list_artifacts(tracker.run_id("study"), "report")
    assert [file.path for file in kept] == ["report/cost.svg", "report/report.html"]


def test_artifacts_that_are_replaced_leave_nothing_of_the_earlier_ones(uri, tracker, tmp_path):
    study_and_trial(tracker)
    folder = tmp_path / "report"
    (folder / "figures").mkdir(parents=True)
    for name in ("report.html", "cost.svg", "figures/heat-map.png"):
        (folder / name).write_text("first")
    (folder / ".report.html.0a1b2c3d").write_text("ha")  # whoever wrote it was killed
    tracker.replace_artifacts("study", folder, "report")
    for name in ("cost.svg", "figures/heat-map.png"):
        (folder / name).unlink()
    (folder / "report.html").write_text("second")
    tracker.replace_artifacts("study", folder, "report")
    client, run_id = MlflowClient(uri), tracker.run_id("study")
    assert [file.path for file in client.list_artifacts(run_id, "report") if not file.is_dir] == ["report/report.html"]
    assert Path(client.download_artifacts(run_id, "report/report.html", str(tmp_path))).read_text() == "second"


def test_a_reopened_run_is_running_again(uri, tracker):
    study_and_trial(tracker)
    tracker.finish("t1", "KILLED", 4000)
    tracker.open(RunDescription("t1", "cell lr", 2000), parent="study")
    assert run_of(uri, tracker, "t1").info.status == "RUNNING"


@pytest.mark.timeout(120)
def test_a_server_that_does_not_answer_is_told_plainly(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match=r"MLflow at http://127.0.0.1:9 cannot be used: .*mlflow_server start"):
        Tracker("http://127.0.0.1:9", "e")


class Closed(BaseHTTPRequestHandler):
    """Answers strangers as a server with users does."""

    def do_GET(self):
        self.send_error(401)

    def log_message(self, *_):
        pass


def test_a_server_that_does_not_know_who_asks_is_told_how_to_log_in():
    with HTTPServer(("127.0.0.1", 0), Closed) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(TrackingError, match=r"error code 401.*Log in: .*MLFLOW_TRACKING_USERNAME") as told:
            Tracker(f"http://127.0.0.1:{server.server_port}", "e")
        server.shutdown()
    assert "mlflow_server start" not in str(told.value)


@pytest.mark.parametrize("name", ["/Users/anna/chest", "../../outside", "chest #2", "50 %", "..", "Röntgen"])
def test_whatever_an_experiment_is_called_its_artifacts_lie_in_one_folder_of_the_storage(store_uri, tmp_path, name):
    artifacts = tmp_path / "mlartifacts"
    tracker = Tracker(store_uri, name, artifacts)
    tracker.open(RunDescription("s", "s", 1))
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").write_text("told")
    tracker.log_artifacts("s", tmp_path / "report", "report")
    (found,) = artifacts.glob("*/*/artifacts/report/report.html")
    assert found.read_text() == "told"
    uri = MlflowClient(store_uri).get_run(tracker.run_id("s")).info.artifact_uri
    assert place_of(uri, artifacts.as_uri()) == found.parents[1].as_uri()
