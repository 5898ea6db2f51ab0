"""Processes that can be started, killed without warning, and started again: PostgreSQL, MLflow, a model, Ray nodes."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

SECONDS_TO_START = 120.0


@dataclass(slots=True)
class Service:
    """One long-running command.

    Attributes:
        name: for people.
        words: the command.
        ready: whether it answers.
        environment: of the command; None: ours.
        options: further ones for `subprocess.Popen`.
        log: file of what it says.
    """

    name: str
    words: Sequence[str]
    ready: Callable[[], bool]
    log: Path
    environment: Mapping[str, str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start it and wait until it answers; again if it gives up, as PostgreSQL does while its old self still dies.

        Raises:
            RuntimeError: it does not answer, with the end of what it said.
        """
        deadline = time.monotonic() + SECONDS_TO_START
        while True:
            if self.process is None or self.process.poll() is not None:
                with self.log.open("ab") as log:
                    self.process = subprocess.Popen(
                        self.words, env=self.environment, stdout=log, stderr=log, start_new_session=True, **self.options
                    )
            if self.ready():
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not answer: {self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.2)

    def kill(self) -> None:
        """Kill it and all that it started, without warning."""
        if self.process is not None:
            kill_tree(self.process.pid)
            self.process.wait()


def kill_tree(pid: int) -> None:
    """SIGKILL a process and all below it."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Say whether something listens on a port of loopback."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class NoPostgresError(RuntimeError):
    """PostgreSQL is not installed, or does not run as this user."""


@contextlib.contextmanager
def postgresql() -> Iterator[tuple[Service, str]]:
    """Run a PostgreSQL of one's own on loopback for as long as the block runs.

    Yields:
        The service, started, and the URI of an empty database.

    Raises:
        NoPostgresError: says what is missing.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    as_root = os.getuid() == 0
    if not found[-1].is_file():
        raise NoPostgresError("PostgreSQL is not installed")
    if as_root and "postgres" not in {entry.pw_name for entry in pwd.getpwall()}:
        raise NoPostgresError("PostgreSQL does not run as root, and there is no user postgres")
    binaries = found[-1].parent
    folder = Path(tempfile.mkdtemp(prefix="radsweep-postgresql-"))
    user: dict[str, Any] = {}
    if as_root:  # it refuses to run as root
        user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        shutil.chown(folder, "postgres")
    port = free_port()
    words = [str(binaries / "initdb"), "-D", str(folder / "data"), "-U", "mlflow", "--auth=trust"]
    subprocess.run(words, check=True, capture_output=True, cwd=folder, **user)
    words = [str(binaries / "postgres"), "-D", str(folder / "data"), "-p", str(port), "-k", str(folder)]
    asks = [str(binaries / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]

    def ready() -> bool:
        return subprocess.run(asks, capture_output=True, check=False).returncode == 0

    log = folder / "log"
    service = Service("PostgreSQL", [*words, "-h", "127.0.0.1"], ready, log, options={**user, "cwd": folder})
    try:
        service.start()
        yield service, f"postgresql://mlflow@127.0.0.1:{port}/postgres"
    finally:
        service.kill()
        shutil.rmtree(folder, ignore_errors=True)


def mlflow(folder: Path, database: str | None) -> tuple[Service, dict[str, str]]:
    """Prepare an MLflow server with authentication, as `python -m mlflow_server start` runs it.

    Returns:
        The service, and the environment in which a client reaches it.
    """
    from mlflow_server import server
    from mlflow_server.server_config import ServerConfig

    folder.mkdir(parents=True)
    config = ServerConfig(folder=folder, database=database, port=free_port())
    environment = server.configured_environment(config)
    service = Service(
        "MLflow server",
        server.configured_command(config),
        lambda: listens(config.port),
        folder / "log",
        environment,
    )
    password = (folder / "credentials" / "admin-password").read_text().strip()
    known = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": password}
    return service, {"MLFLOW_TRACKING_URI": config.uri, **known}


def served_model(uri: str, log: Path, environment: Mapping[str, str]) -> tuple[Service, str]:
    """Prepare `mlflow models serve` on loopback.

    Returns:
        The service, and the address it answers at.
    """
    port = free_port()
    words = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", uri, "--env-manager", "local"]
    # MLflow starts uvicorn by its name alone.
    path = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    service = Service(
        "served model",
        [*words, "--host", "127.0.0.1", "--port", str(port)],
        lambda: listens(port),
        log,
        {**environment, "PATH": path},
    )
    return service, f"http://127.0.0.1:{port}"


def ray_nodes(folder: Path) -> tuple[Service, Service, str, dict[str, str]]:
    """Prepare two real Ray nodes of one CPU each on this machine, the head and another, closed by a token.

    Returns:
        Head, other node, the head's address, and the environment in which a driver reaches it.
    """
    token = folder / "ray-token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    known = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    environment = {**os.environ, **known}
    port = free_port()
    address = f"127.0.0.1:{port}"
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", "--disable-usage-stats"]
    head = Service(
        "Ray head",
        [*ray, "--head", "--include-dashboard=false", f"--port={port}", "--node-ip-address=127.0.0.1"],
        lambda: listens(port),
        folder / "head.log",
        environment,
    )
    said = folder / "node.log"
    node = Service("Ray node", [*ray, f"--address={address}"], lambda: _has_raylet(node), said, environment)
    return head, node, address, known


def _has_raylet(service: Service) -> bool:
    if service.process is None:
        return False
    try:
        return any(child.name() == "raylet" for child in psutil.Process(service.process.pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return False


def working(node: Service) -> list[psutil.Process]:
    """Return the processes of a Ray node that train a trial."""
    if node.process is None:
        return []
    try:
        below = psutil.Process(node.process.pid).children(recursive=True)
        return [child for child in below if " ".join(child.cmdline()).startswith("ray::ImplicitFunc")]
    except psutil.NoSuchProcess:
        return []
