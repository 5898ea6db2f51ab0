"""A PostgreSQL of one's own on loopback, for as long as a block runs."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class NoPostgresError(RuntimeError):
    """PostgreSQL is not installed, or does not run as this user."""


@contextmanager
def postgresql() -> Iterator[str]:
    """Yield the URI of an empty database.

    Raises:
        NoPostgresError: says what is missing.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    if not found[-1].is_file():
        raise NoPostgresError("PostgreSQL is not installed")
    binaries, user = found[-1].parent, _user()
    # Not below a folder that belongs to root alone.
    folder = Path(tempfile.mkdtemp(prefix="radsweep-postgresql-"))
    if user:
        shutil.chown(folder, str(user["user"]))
    port = _free_port()
    words: list[str | Path] = [binaries / "initdb", "-D", folder / "data", "-U", "mlflow", "--auth=trust", "--no-sync"]
    subprocess.run(words, check=True, capture_output=True, cwd=folder, **user)
    words = [binaries / "postgres", "-D", folder / "data", "-p", str(port), "-k", folder, "-h", "127.0.0.1"]
    running: subprocess.Popen[bytes] = subprocess.Popen(words, cwd=folder, stderr=subprocess.DEVNULL, **user)
    try:
        _wait([binaries / "pg_isready", "-h", "127.0.0.1", "-p", str(port)], running)
        yield f"postgresql://mlflow@127.0.0.1:{port}/postgres"
    finally:
        running.send_signal(signal.SIGINT)  # a fast shutdown; SIGTERM would wait for every client to leave
        running.wait()
        shutil.rmtree(folder)


def _user() -> dict[str, Any]:
    """Return as whom to run it: it refuses root."""
    if os.getuid() != 0:
        return {}
    if "postgres" not in {entry.pw_name for entry in pwd.getpwall()}:
        raise NoPostgresError("PostgreSQL does not run as root, and there is no user postgres")
    return {"user": "postgres", "group": "postgres", "extra_groups": []}


def _wait(ready: list[str | Path], running: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 30
    while subprocess.run(ready, capture_output=True, check=False).returncode:
        if running.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("PostgreSQL does not start")
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
