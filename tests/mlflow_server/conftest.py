"""Real databases and real servers, each started once."""

import socket
import subprocess
import time

import pytest

from mlflow_server import server
from mlflow_server.check import request
from mlflow_server.server_config import ServerConfig
from scripts.benchmarks import _postgresql


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def postgresql():
    """URI of a database of a PostgreSQL that listens on loopback."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install '.[server]'")
    try:
        with _postgresql.postgresql() as uri:
            yield uri
    except _postgresql.NoPostgresError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def served(request, tmp_path_factory):
    """A server with authentication, once on each kind of database."""
    database = request.getfixturevalue("postgresql") if request.param == "postgresql" else None
    pytest.importorskip("flask_wtf", reason="Flask-WTF is not installed: pip install '.[server]'")
    config = ServerConfig(folder=tmp_path_factory.mktemp("server"), database=database, port=free_port())
    log = (config.folder / "log").open("wb")
    running = subprocess.Popen(
        server.configured_command(config), env=server.configured_environment(config), stdout=log, stderr=log
    )
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
    except OSError:
        return False
