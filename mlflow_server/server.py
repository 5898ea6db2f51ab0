"""Starts MLflow's server over a storage folder: loopback, two processes, no job execution."""

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from packaging.version import Version

from mlflow_server.errors import TrackingError

FIRST_SAFE_VERSION = "3.17.2"
"""Earlier ones have open holes (CVE-2026-0545, CVE-2026-2652, CVE-2026-2635) or retry storms."""
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The embedded server: SQLite and a folder for artifacts.

    Attributes:
        storage: folder of all studies, with `mlflow.db` and `mlartifacts`.
        host: loopback only; beyond it a server needs authentication.
        port: TCP port.
    """

    storage: Path
    host: str = "127.0.0.1"
    port: int = 5000

    @property
    def uri(self) -> str:
        """Where the UI is."""
        return f"http://{self.host}:{self.port}"


def command(settings: ServerSettings) -> list[str]:
    """Return the command that starts the server.

    Raises:
        TrackingError: it would listen beyond this machine, or MLflow is a version with known holes.
    """
    if settings.host not in LOOPBACK:
        raise TrackingError(
            f"--host {settings.host}: the embedded server has no authentication and listens on this machine only; "
            "reach it through `ssh -L 5000:127.0.0.1:5000 HOST`"
        )
    installed = version("mlflow")
    if Version(installed) < Version(FIRST_SAFE_VERSION):
        raise TrackingError(f"mlflow {installed} has known holes; install {FIRST_SAFE_VERSION} or later")
    storage = settings.storage.resolve()
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--backend-store-uri", f"sqlite:///{storage / 'mlflow.db'}"),
        *("--artifacts-destination", (storage / "mlartifacts").as_uri()),
        *("--host", settings.host, "--port", str(settings.port), "--workers", "1"),
        *("--allowed-hosts", f"{settings.host}:{settings.port},localhost:{settings.port}"),
    ]


def environment() -> dict[str, str]:
    """Return the server's environment: no job execution, which would be 13 more processes and an open job API."""
    return {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


def start(settings: ServerSettings) -> int:
    """Run the server until it is stopped; returns its exit code."""
    settings.storage.mkdir(parents=True, exist_ok=True)
    try:
        return subprocess.run(command(settings), env=environment(), check=False).returncode
    except KeyboardInterrupt:
        return 0
