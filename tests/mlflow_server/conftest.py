"""Real databases and real servers, each started once."""

import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest

from mlflow_server.check import request
from mlflow_server.errors import TrackingError
from mlflow_server.server_config import ServerConfig
from scripts import services


@pytest.fixture(scope="session")
def postgresql():
    """URI of a database of a PostgreSQL that listens on loopback."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install '.[server]'")
    try:
        with services.postgresql() as (_, uri):
            yield uri
    except services.NoPostgresError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def served(request, tmp_path_factory):
    """A server with authentication, once on each kind of database."""
    database = request.getfixturevalue("postgresql") if request.param == "postgresql" else None
    pytest.importorskip("flask_wtf", reason="Flask-WTF is not installed: pip install '.[server]'")
    config = ServerConfig(
        folder=tmp_path_factory.mktemp("server"),
        database=database,
        port=services.free_port(),
        allowed_hosts=("mlflow.example.org",),
    )
    log = (config.folder / "log").open("wb")
    (config.folder / "server.yaml").write_text(config.model_dump_json())
    words = [sys.executable, "-m", "mlflow_server", "start", "--config", str(config.folder / "server.yaml")]
    running = subprocess.Popen(words, stdout=log, stderr=log)
    deadline = time.monotonic() + 120
    while not answers(config):
        assert running.poll() is None, (config.folder / "log").read_text()[-2000:]
        assert time.monotonic() < deadline, "the server does not answer"
        time.sleep(0.2)
    yield config
    running.terminate()
    running.wait()


def answers(config: ServerConfig) -> bool:
    try:
        return request(config, "/health", known=True)[0] == 200
    except (OSError, TrackingError):  # it makes its secrets first
        return False


def deleted_at(database, run_id, time_ms):
    """Say in an SQLite file when a run was deleted."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE runs SET deleted_time = ? WHERE run_uuid = ?", (int(time_ms), run_id))
