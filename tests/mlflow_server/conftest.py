"""Real databases and real servers, each started once."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from mlflow_server import server
from mlflow_server.check import request
from mlflow_server.server_config import ServerConfig


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def postgresql():
    """URI of a database of a PostgreSQL that listens on loopback."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install '.[server]'")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    if not found[-1].is_file():
        pytest.skip("PostgreSQL is not installed")
    binaries, user = found[-1].parent, {}
    # Not below pytest's own folder, which belongs to root alone.
    folder = Path(tempfile.mkdtemp(prefix="radsweep-postgresql-"))
    if os.getuid() == 0:
        if "postgres" not in {entry.pw_name for entry in pwd.getpwall()}:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        shutil.chown(folder, "postgres")
    port = free_port()
    words = [binaries / "initdb", "-D", folder / "data", "-U", "mlflow", "--auth=trust", "--no-sync"]
    subprocess.run(words, check=True, capture_output=True, cwd=folder, **user)
    words = [binaries / "postgres", "-D", folder / "data", "-p", str(port), "-k", folder, "-h", "127.0.0.1", "-F"]
    running = subprocess.Popen(words, cwd=folder, stderr=subprocess.DEVNULL, **user)
    ready = [binaries / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
    deadline = time.monotonic() + 30
    while subprocess.run(ready, capture_output=True, check=False).returncode:
        assert running.poll() is None and time.monotonic() < deadline, "PostgreSQL does not start"
        time.sleep(0.1)
    yield f"postgresql://mlflow@127.0.0.1:{port}/postgres"
    running.send_signal(signal.SIGINT)  # a fast shutdown; SIGTERM would wait for every client to leave
    running.wait()
    shutil.rmtree(folder)


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
