"""Artifacts in a real S3-compatible store, through the server's proxy, from `start --config` to `gc`."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from mlflow_server.backup import back_up, restore
from mlflow_server.check import check, logged_in
from mlflow_server.errors import TrackingError
from mlflow_server.garbage import collect
from mlflow_server.object_store import ensure_bucket
from mlflow_server.server_config import ServerConfig
from scripts.services import free_port, listens
from tests.mlflow_server.conftest import answers, deleted_at

boto3 = pytest.importorskip("boto3", reason="boto3 is not installed: pip install '.[server]'")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Environment of an S3 server on loopback."""
    pytest.importorskip("moto", reason="moto is not installed: pip install '.[dev]'")
    port = free_port()
    running = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path_factory.mktemp("s3"),
    )
    deadline = time.monotonic() + 60
    while not listens(port):
        assert running.poll() is None and time.monotonic() < deadline, "the S3 server does not start"
        time.sleep(0.1)
    surroundings = {
        "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "user",
        "AWS_SECRET_ACCESS_KEY": "s3cret-of-the-store",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    yield surroundings
    running.terminate()
    running.wait()


@pytest.fixture
def in_store(store, monkeypatch):
    for name, value in store.items():
        monkeypatch.setenv(name, value)
    return boto3.client("s3", endpoint_url=store["MLFLOW_S3_ENDPOINT_URL"])


@pytest.fixture(scope="module")
def proxied(store, tmp_path_factory):
    """A server started from its file whose artifacts are in the store."""
    folder = tmp_path_factory.mktemp("server")
    config = ServerConfig(folder=folder, artifacts="s3://mlflow/artifacts", port=free_port())
    (folder / "server.yaml").write_text(config.model_dump_json())
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "mlflow_server", "start", "--config", folder / "server.yaml"],
            cwd=ROOT,
            env={**os.environ, **store},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + 120
    while not (config.folder / "credentials" / "admin-password").exists() or not answers(config):
        assert running.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
        time.sleep(0.2)
    yield config
    os.killpg(running.pid, signal.SIGTERM)
    running.wait()


def keys(client):
    return [found["Key"] for found in client.list_objects_v2(Bucket="mlflow").get("Contents", [])]


@pytest.mark.slow
def test_artifacts_go_to_the_store_and_back_through_the_server(proxied, in_store, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_S3_ENDPOINT_URL"):
        monkeypatch.delenv(name)  # a client needs no key of the store
    assert all(finding.holds for finding in check(proxied)), check(proxied)
    with logged_in(proxied):
        client = MlflowClient(proxied.uri)
        run = client.create_run("0").info.run_id
        client.log_text(run, "content", "evidence/a.txt")
        assert Path(client.download_artifacts(run, "evidence/a.txt", str(tmp_path))).read_text() == "content"
    assert f"artifacts/0/{run}/artifacts/evidence/a.txt" in keys(in_store)
    assert "s3cret-of-the-store" not in (proxied.folder / "log").read_text()


@pytest.mark.slow
def test_what_is_collected_is_gone_from_the_store_and_nothing_else(proxied, in_store):
    with logged_in(proxied):
        client = MlflowClient(proxied.uri)
        gone, stays = (client.create_run("0", start_time=1).info.run_id for _ in range(2))
        for run in (gone, stays):
            client.log_text(run, "content", "a.txt")
            client.set_terminated(run, end_time=2)
        client.delete_run(gone)
    deleted_at(proxied.sqlite, gone, 3)
    assert collect(proxied, days=30).collected == (gone,)
    assert not [key for key in keys(in_store) if gone in key]
    assert [key for key in keys(in_store) if stays in key] == [f"artifacts/0/{stays}/artifacts/a.txt"]


@pytest.mark.slow
def test_a_bucket_is_backed_up_and_restored(proxied, in_store, tmp_path):
    with logged_in(proxied):
        client = MlflowClient(proxied.uri)
        client.log_text(client.create_run("0").info.run_id, "content", "deep/below/a.txt")
    before = keys(in_store)
    back_up(proxied, tmp_path / "copy")
    after = ServerConfig(folder=tmp_path / "after", artifacts="s3://restored/elsewhere/below")
    restore(after, tmp_path / "copy")
    found = in_store.list_objects_v2(Bucket="restored")["Contents"]
    assert [item["Key"] for item in found] == [key.replace("artifacts/", "elsewhere/below/", 1) for key in before]
    again = ServerConfig(folder=tmp_path / "again", artifacts="s3://restored/elsewhere/below")
    with pytest.raises(TrackingError, match="elsewhere/below exists; a backup is restored into an empty place"):
        restore(again, tmp_path / "copy")


@pytest.mark.slow
def test_a_bucket_is_made_once(in_store):
    for _ in range(2):
        ensure_bucket("s3://another/prefix")
    assert "another" in {found["Name"] for found in in_store.list_buckets()["Buckets"]}


def test_a_store_that_does_not_answer_is_told(monkeypatch):
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    with pytest.raises(TrackingError, match=r"s3://b/p at http://127\.0\.0\.1:9: Could not connect") as told:
        ensure_bucket("s3://b/p")
    assert "s3cret" not in str(told.value)
