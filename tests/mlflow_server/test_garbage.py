import sys
import time

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mlflow_server import __main__ as commands
from mlflow_server import retention
from mlflow_server.check import OWN_EXPERIMENT
from mlflow_server.errors import TrackingError
from mlflow_server.garbage import collect, place_of
from mlflow_server.history import History
from mlflow_server.registry import Registry
from mlflow_server.retention import DAY_MS
from mlflow_server.server_config import ServerConfig
from mlflow_server.tracking import RunDescription, Tracker
from tests.mlflow_server.conftest import deleted_at

MONTH = 40 * DAY_MS


@pytest.fixture
def stored(tmp_path, store_uri):
    """A server's store with deleted runs of every kind, each with an artifact."""
    config = ServerConfig(folder=tmp_path)
    assert config.backend == store_uri
    client, registry = MlflowClient(store_uri), Registry(store_uri)
    experiment = client.create_experiment("e", artifact_location="mlflow-artifacts:/e")
    elsewhere = client.create_experiment("elsewhere", artifact_location=(tmp_path / "home").as_uri())
    ended = time.time_ns() // 1_000_000 - MONTH
    runs = {}
    for name in ("old", "winner", "champion", "cited", "recorded", "alive", "elsewhere"):
        tags = {"radsweep.winner": "true"} if name == "winner" else {}
        place = elsewhere if name == "elsewhere" else experiment
        runs[name] = client.create_run(place, start_time=ended, tags=tags).info.run_id
        client.log_metric(runs[name], "loss", 1.0)
        client.set_terminated(runs[name], end_time=ended)
        folder = tmp_path / "home" if name == "elsewhere" else tmp_path / "mlartifacts" / "e"
        (folder / runs[name] / "artifacts").mkdir(parents=True)
        (folder / runs[name] / "artifacts" / "a.txt").write_text(name)
    History(tmp_path, "m").append("promoted", {"run_id": runs["recorded"], "version": "0"})
    version = registry.register("m", source=str(tmp_path), run_id=runs["champion"], tags={})
    registry.crown(version, instead_of=None)
    told = {"action": "promoted", "who": "x", "version": version.version}
    registry.remember(version, {"time_ms": 1, "run_id": runs["cited"], **told})
    for name in runs.keys() - {"alive"}:
        client.delete_run(runs[name])
        deleted_at(config.sqlite, runs[name], ended)
    forgotten = client.create_experiment("forgotten")
    client.delete_experiment(forgotten)
    return config, client, runs, forgotten


def artifacts(config):
    return {path.read_text() for path in config.folder.rglob("a.txt")}


EVERYTHING = {"old", "winner", "champion", "cited", "recorded", "alive", "elsewhere"}


@pytest.mark.parametrize("days", [float("inf"), 1e300, -1])
def test_days_that_are_none_are_refused(stored, days):
    with pytest.raises(TrackingError, match="days: expected 0 or more"):
        collect(stored[0], days=days)


def test_a_dry_run_changes_nothing(stored):
    config, client, runs, _ = stored
    found = collect(config, days=30, dry_run=True)
    assert found.collected == (runs["old"],)
    assert client.get_run(runs["old"]).data.metrics == {"loss": 1.0}
    assert artifacts(config) == EVERYTHING


def test_what_may_go_is_gone_with_its_artifacts_and_all_else_stays(stored):
    config, client, runs, forgotten = stored
    found = collect(config, days=30)
    assert found.collected == (runs["old"],)
    assert found.kept == {
        runs["winner"]: "winner of its cell",
        runs["champion"]: "version 1 of m",
        runs["cited"]: "cited by a promotion of m",
        runs["recorded"]: "cited by a promotion of m",
        runs["elsewhere"]: "its artifacts are not below this server's folder; nothing of it was deleted",
    }
    with pytest.raises(MlflowException, match="not found"):
        client.get_run(runs["old"])
    assert artifacts(config) == EVERYTHING - {"old"}
    for name in EVERYTHING - {"old"}:
        assert client.get_run(runs[name]).data.metrics == {"loss": 1.0}
    assert client.get_experiment(forgotten).lifecycle_stage == "deleted"  # `mlflow gc --run-ids` would purge it
    assert collect(config, days=30).collected == ()


def test_a_model_that_was_never_registered_goes_with_its_run(stored, tmp_path):
    config, client, runs, _ = stored
    client.restore_run(runs["old"])
    experiment = client.get_run(runs["old"]).info.experiment_id
    model = client.create_logged_model(experiment, name="network", source_run_id=runs["old"])
    place = tmp_path / "mlartifacts" / "e" / "models" / model.model_id / "artifacts"
    place.mkdir(parents=True)
    (place / "a.txt").write_text("model")
    client.delete_run(runs["old"])
    deleted_at(config.sqlite, runs["old"], 1)
    assert collect(config, days=30).collected == (runs["old"],)
    assert "model" not in artifacts(config)
    with pytest.raises(MlflowException):
        client.get_logged_model(model.model_id)


def test_the_experiment_of_a_check_goes_once_its_run_is_gone(stored):
    config, client, _, forgotten = stored
    place = client.create_experiment(f"{OWN_EXPERIMENT}anna-0", artifact_location="mlflow-artifacts:/check")
    run = client.create_run(place).info.run_id
    client.delete_run(run)
    client.delete_experiment(place)
    collect(config, days=30)
    assert client.get_experiment(place).lifecycle_stage == "deleted"
    deleted_at(config.sqlite, run, 1)
    assert run in collect(config, days=0).collected
    with pytest.raises(MlflowException, match="No Experiment"):
        client.get_experiment(place)
    assert client.get_experiment(forgotten).lifecycle_stage == "deleted"


def test_of_the_experiments_of_checks_those_at_work_stay(stored):
    config, client, _, _ = stored
    gone, at_work = (client.create_experiment(f"{OWN_EXPERIMENT}anna-{number}") for number in (0, 1))
    client.delete_experiment(gone)
    collect(config, days=30, dry_run=True)
    assert client.get_experiment(gone).lifecycle_stage == "deleted"
    collect(config, days=30)
    with pytest.raises(MlflowException, match="No Experiment"):
        client.get_experiment(gone)
    assert client.get_experiment(at_work).lifecycle_stage == "active"


def test_a_run_that_somebody_restores_meanwhile_stays(stored, monkeypatch):
    config, client, runs, _ = stored
    judge = retention.judge

    def judge_and_restore(*words, **more):
        found = judge(*words, **more)
        client.restore_run(runs["old"])
        return found

    monkeypatch.setattr(retention, "judge", judge_and_restore)
    assert collect(config, days=30).collected == ()
    assert artifacts(config) == EVERYTHING


def test_an_interrupted_collection_goes_on(stored, monkeypatch):
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    config, _, runs, _ = stored
    with monkeypatch.context() as broken:
        broken.setattr(SqlAlchemyStore, "_hard_delete_run", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            collect(config, days=30)
    assert artifacts(config) == EVERYTHING - {"old"}
    assert collect(config, days=30).collected == (runs["old"],)


@pytest.mark.parametrize(
    ("uri", "destination", "place"),
    [
        ("mlflow-artifacts:/e/r/artifacts", "file:///srv/a", "file:///srv/a/e/r/artifacts"),
        ("mlflow-artifacts:/e/r/artifacts", "s3://bucket/prefix", "s3://bucket/prefix/e/r/artifacts"),
        ("s3://bucket/prefix/e/r", "s3://bucket/prefix", "s3://bucket/prefix/e/r"),
        ("file:///srv/a/e/r", "file:///srv/a", "file:///srv/a/e/r"),
        ("mlflow-artifacts:e/r", "file:///srv/a", "file:///srv/a/e/r"),
        ("mlflow-artifacts:/e/r", "file:///srv/team%231", "file:///srv/team%231/e/r"),
        ("file:///srv/a/chest%232/r", "file:///srv/a", "file:///srv/a/chest%232/r"),
        ("file:///srv/a/50%2525/r", "file:///srv/a", "file:///srv/a/50%2525/r"),
        ("mlflow-artifacts:/e#2/r", "file:///srv/a", None),
        ("file:///srv/a/e?x/r", "file:///srv/a", None),
        ("mlflow-artifacts:/../r", "file:///srv/a", None),
        ("mlflow-artifacts:/%2e%2e/r", "file:///srv/a", None),
        ("mlflow-artifacts:/", "file:///srv/a", None),
        ("file:///srv/a", "file:///srv/a", None),
        ("file:///srv/ab/r", "file:///srv/a", None),
        ("file:///home/somebody", "file:///srv/a", None),
        ("s3://other/prefix/e/r", "s3://bucket/prefix", None),
        ("s3://bucket/e/r", "file:///e", None),
        ("file://elsewhere/srv/a/e/r", "file:///srv/a", None),
    ],
)
def test_nothing_outside_the_servers_own_place_is_deleted(uri, destination, place):
    if place is None:
        with pytest.raises(TrackingError, match="not below this server's folder"):
            place_of(uri, destination)
    else:
        assert place_of(uri, destination) == place


@pytest.mark.parametrize("letters", ["#", "%", "%23", "%2523", "?", " "])
def test_whatever_letters_a_folder_has_only_the_artifacts_of_the_run_go(tmp_path, letters):
    """MLflow cuts addresses at some of them and reads others twice."""
    config = ServerConfig(folder=tmp_path)
    names = ("chest", f"chest{letters}2")
    files = tmp_path / "files"
    files.mkdir()
    (files / "weights").write_text("weights")
    for name in names:
        MlflowClient(config.backend).create_experiment(name, (tmp_path / "mlartifacts" / name).as_uri())
        tracker = Tracker(config.backend, name)
        tracker.open(RunDescription(name, name, 1))
        tracker.log_artifacts(name, files)
        tracker.finish(name, "FINISHED", 2)
    before = sorted((tmp_path / "mlartifacts").rglob("weights"))
    run = tracker.run_id(names[1])
    MlflowClient(config.backend).delete_run(run)
    deleted_at(config.sqlite, run, 1)
    assert collect(config, days=0).collected == (run,)
    gone = set(before) - set((tmp_path / "mlartifacts").rglob("weights"))
    assert [path.parent.parent.name for path in gone] == [run]


def test_the_command_says_what_went_and_what_stays(stored, tmp_path, monkeypatch, capsys):
    config, _, runs, _ = stored
    path = tmp_path / "server.yaml"
    path.write_text(config.model_dump_json())

    def said(*words):
        monkeypatch.setattr(sys, "argv", ["mlflow_server", "gc", str(path), *words])
        with pytest.raises(SystemExit) as ended:
            commands.main()
        assert ended.value.code == 0
        return capsys.readouterr().out

    assert f"may go  {runs['old']}\n" in said("--dry-run")
    told = said("--days", "30")
    assert f"gone    {runs['old']}\n" in told
    assert f"stays   {runs['champion']}  version 1 of m\n" in told
    assert runs["old"] not in said()
