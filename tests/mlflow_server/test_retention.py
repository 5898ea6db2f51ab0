import time

import pytest
from mlflow.tracking import MlflowClient

from mlflow_server import retention
from mlflow_server.errors import TrackingError
from mlflow_server.history import PROMOTIONS, History
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


@pytest.mark.parametrize(
    ("began", "ended", "deleted", "removable"),  # days ago
    [
        (40, 40, 40, True),
        (40, 40, 2, False),
        (40, 2, 40, False),  # a driver that lived on closed it
        (40, None, 40, True),
        (2, None, 40, False),  # it never ended, and was deleted before by a clock that goes wrong
    ],
)
def test_a_run_goes_so_long_after_its_end_and_its_deletion(tmp_path, store_uri, began, ended, deleted, removable):
    client, now = MlflowClient(store_uri), time.time_ns() // 1_000_000
    tags = {"radsweep.winner": "false"}  # another won its cell since
    run = client.create_run(client.create_experiment("e"), start_time=now - began * DAY_MS, tags=tags).info.run_id
    if ended is not None:
        client.set_terminated(run, end_time=now - ended * DAY_MS)
    client.delete_run(run)
    deleted_at(tmp_path / "mlflow.db", run, now - deleted * DAY_MS)
    assert judge(store_uri, days=30).removable == ((run,) if removable else ())


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


def test_no_number_of_things_hides_a_deleted_run(tmp_path, store_uri, monkeypatch):
    """MLflow lists experiments by the page, and runs, and versions."""
    monkeypatch.setattr(retention, "PAGE", 2)
    client, registry = MlflowClient(store_uri), Registry(store_uri)
    study, gone = client.create_experiment("study"), client.create_experiment("gone")
    runs = [client.create_run(place).info.run_id for place in (study, study, study, study, study, study, gone)]
    for run in runs[:3]:
        registry.register("m", source=str(tmp_path), run_id=run, tags={})
    for run in runs:
        client.set_terminated(run, end_time=1)
        client.delete_run(run)
    client.delete_experiment(gone)
    for number in range(5):
        client.delete_experiment(client.create_experiment(f"other-{number}"))
    found = judge(store_uri, days=0)
    assert set(found.removable) == set(runs[3:])
    assert found.kept.keys() == set(runs[:3])


@pytest.fixture
def recorded(tmp_path, store_uri):
    """A store with a deleted run, its deleted study, and a history that alone cites the run."""
    client, registry = MlflowClient(store_uri), Registry(store_uri)
    experiment = client.create_experiment("e")
    study = client.create_run(experiment, start_time=1).info.run_id
    run = client.create_run(experiment, start_time=1, tags={"mlflow.parentRunId": study}).info.run_id
    version = registry.register("m.v2", source=str(tmp_path), run_id=run, tags={})
    history = History(tmp_path, "m.v2")
    for action in ("refused", "promoted"):
        registry.remember(version, history.append(action, {"run_id": run, "version": version.version}))
    client.delete_model_version("m.v2", version.version)
    for identity in (study, run):
        client.set_terminated(identity, end_time=1)
        client.delete_run(identity)
    return run, study


def test_a_run_that_a_history_cites_stays_once_its_version_is_gone(tmp_path, store_uri, recorded):
    """The registry's mirror of the history is gone with the version."""
    run, study = recorded
    told = "cited by a promotion of m.v2"
    assert judge(store_uri, days=0, storage=tmp_path).kept == {run: told, study: f"study of {told}"}
    assert set(judge(store_uri, days=0).removable) == {run, study}


def test_a_torn_last_line_of_a_history_cites_nothing(tmp_path, store_uri, recorded):
    """It was never acknowledged, and the next entry cuts it off."""
    path = tmp_path / PROMOTIONS / "m.v2.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    assert set(judge(store_uri, days=0, storage=tmp_path).kept) == set(recorded)  # the line before it cites them, too
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0][:-1])
    assert judge(store_uri, days=0, storage=tmp_path).kept == {}


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("damage", ["changed", "unreadable", "unnamed"])
def test_no_run_goes_while_a_history_is_damaged(tmp_path, store_uri, damage):
    path = tmp_path / PROMOTIONS / "m.v2.jsonl"
    if damage == "changed":
        path.write_text(path.read_text().replace("run_id", "run-id"))
    elif damage == "unreadable":
        path.write_bytes(b"\xff\xfe\n" + path.read_bytes())
    else:
        path = path.rename(path.with_name("copy of m.jsonl"))
    with pytest.raises(TrackingError) as refused:
        judge(store_uri, days=0, storage=tmp_path)
    assert str(refused.value).startswith(f"{path} cannot be read, and a run that it cites would be lost: ")
