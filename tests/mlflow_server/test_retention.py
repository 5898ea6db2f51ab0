import time

from mlflow.tracking import MlflowClient

from mlflow_server import retention
from mlflow_server.registry import Registry
from mlflow_server.retention import DAY_MS, judge
from tests.mlflow_server.conftest import deleted_at


def test_only_deleted_old_runs_that_nothing_rests_on_may_go(tmp_path, store_uri):
    client, registry = MlflowClient(store_uri), Registry(store_uri)
    experiment = client.create_experiment("e")
    now = time.time_ns() // 1_000_000
    ends = {"study": 40, "old": 40, "lately": 40, "young": 2, "winner": 40, "champion": 40, "cited": 40, "alive": 40}
    runs = {}
    for name, days in ends.items():
        tags = {"radsweep.winner": "true"} if name == "winner" else {}
        tags |= {"mlflow.parentRunId": runs["study"]} if name == "champion" else {}
        runs[name] = client.create_run(experiment, start_time=now - days * DAY_MS, tags=tags).info.run_id
        client.set_terminated(runs[name], end_time=now - days * DAY_MS)
    version = registry.register("m", source=str(tmp_path), run_id=runs["champion"], tags={})
    registry.crown(version, instead_of=None)
    told = {"action": "promoted", "who": "x", "version": version.version}
    registry.remember(version, {"time_ms": 1, "run_id": runs["cited"], **told, "reasons": ["long"] * 20_000})
    for number, odd in enumerate(("not json", "5", "[]", '{"run_id": 3}')):  # whoever may write a tag may write these
        registry.tag(version, {f"radsweep.promotion.{number + 2}": odd})
    for name in ends.keys() - {"alive"}:
        client.delete_run(runs[name])
        if name != "lately":
            deleted_at(tmp_path / "mlflow.db", runs[name], now - ends[name] * DAY_MS)
    found = judge(store_uri, days=30)
    assert found.removable == (runs["old"],)
    assert found.kept == {
        runs["winner"]: "winner of its cell",
        runs["champion"]: "version 1 of m",
        runs["cited"]: "cited by a promotion of m",
        runs["study"]: "study of version 1 of m",
    }
    assert set(judge(store_uri, days=1).removable) == {runs["old"], runs["young"]}


def test_a_version_without_a_run_keeps_the_runs_that_its_files_lie_in(tmp_path, store_uri):
    client = MlflowClient(store_uri)
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri())
    runs = [client.create_run(experiment).info for _ in range(4)]
    model = client.create_logged_model(experiment, name="network", source_run_id=runs[1].run_id)
    client.create_registered_model("m")
    for source in (
        f"{runs[0].artifact_uri}/network",
        model.artifact_location,
        f"runs:/{runs[2].run_id}/network",
        "/elsewhere",
    ):
        client.create_model_version("m", source=source)
    for run in runs:
        client.set_terminated(run.run_id, end_time=1)
        client.delete_run(run.run_id)
    found = judge(store_uri, days=0)
    assert found.removable == (runs[3].run_id,)
    assert found.kept == {run.run_id: f"version {n} of m" for n, run in enumerate(runs[:3], 1)}


def test_no_number_of_experiments_hides_a_deleted_run(tmp_path, store_uri, monkeypatch):
    """MLflow lists experiments by the page."""
    monkeypatch.setattr(retention, "PAGE", 2)
    client = MlflowClient(store_uri)
    run = client.create_run(client.create_experiment("study")).info.run_id
    client.set_terminated(run, end_time=1)
    client.delete_run(run)
    for number in range(5):
        client.delete_experiment(client.create_experiment(f"other-{number}"))
    assert judge(store_uri, days=0).removable == (run,)
