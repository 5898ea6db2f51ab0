"""Starts MLflow's server, embedded over a storage folder or as its own YAML file says; no job execution."""

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from packaging.version import Version

from mlflow_server import backup_database, credentials, restoring, schema
from mlflow_server.database_path import embedded
from mlflow_server.errors import TrackingError
from mlflow_server.reach import without_password
from mlflow_server.server_config import LOOPBACK, ServerConfig

FIRST_SAFE_VERSION = "3.17.2"
"""Earlier ones have open holes (CVE-2026-0545, CVE-2026-2652, CVE-2026-2635) or retry storms."""
LOGIN_SECONDS = 60
"""How long a worker remembers that a password was right; a user taken away elsewhere stays that long at most."""
REPOSITORY = Path(__file__).resolve().parents[1]


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

    @property
    def database(self) -> str:
        """Where runs are kept."""
        return embedded(self.storage)


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
    refuse_old_versions()
    storage = settings.storage.resolve()
    return [
        *(sys.executable, "-m", "mlflow_server.launch", "server", "--app-name", "embedded"),
        *("--backend-store-uri", settings.database),
        *("--artifacts-destination", (storage / "mlartifacts").as_uri()),
        *("--host", settings.host, "--port", str(settings.port), "--workers", "1"),
        *("--allowed-hosts", f"{settings.host}:{settings.port},localhost:{settings.port}"),
    ]


def refuse_old_versions() -> None:
    """Refuse an MLflow with known holes.

    Raises:
        TrackingError: says which one to install.
    """
    installed = version("mlflow")
    if Version(installed) < Version(FIRST_SAFE_VERSION):
        raise TrackingError(f"mlflow {installed} has known holes; install {FIRST_SAFE_VERSION} or later")


def refuse_taken(host: str, port: int) -> None:
    """Refuse a port on which something else listens: MLflow would end with exit code 0.

    Raises:
        TrackingError: it is taken, or the address is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as problem:
            raise TrackingError(f"{host}:{port}: {problem.strerror}; choose another port") from None


def configured_command(config: ServerConfig) -> list[str]:
    """Return the command that starts a server from its file; no secret is in it."""
    refuse_old_versions()
    return [
        *(sys.executable, "-m", "mlflow_server.launch", "server"),
        *("--app-name", "basic-auth" if config.authentication else "embedded"),
        *("--backend-store-uri", config.backend),
        *("--artifacts-destination", config.destination, "--serve-artifacts"),
        *("--host", config.host, "--port", str(config.port), "--workers", str(config.workers)),
        *("--allowed-hosts", config.hosts),
        # A browser names the page's origin with everything that changes something, and MLflow refuses all it does not
        # know, those of its own pages behind a proxy included.
        *(("--cors-allowed-origins", config.origins) if config.origins else ()),
    ]


def configured_environment(config: ServerConfig) -> dict[str, str]:
    """Return the environment of a server from its file, secrets included; makes them at the first start.

    Raises:
        TrackingError: others may read the secrets, or one of them is lost.
    """
    config.folder.mkdir(parents=True, exist_ok=True)
    found = environment()
    if not config.authentication:
        return found
    secret = credentials.obtain(config.credentials)
    settings = config.credentials / "basic_auth.ini"
    settings.touch(mode=0o600)
    users = str(config.credentials / credentials.USERS).replace("%", "%%")  # in an ini a single one names another value
    settings.write_text(
        "[mlflow]\ndefault_permission = READ\n"
        f"database_uri = sqlite:///{users}\n"
        # A password is hashed anew with every request otherwise, and a driver sends thousands.
        f"auth_cache_ttl_seconds = {LOGIN_SECONDS}\n"
    )
    return {
        **found,
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_AUTH_ADMIN_USERNAME": credentials.ADMIN,
        "MLFLOW_AUTH_ADMIN_PASSWORD": secret.password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secret.session_key,
        # By default MLflow encrypts secrets in its database with a passphrase that everybody can read in its code.
        "MLFLOW_CRYPTO_KEK_PASSPHRASE": secret.passphrase,
        # A route that MLflow has no rule for is refused; by default it would be open to every user.
        "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
    }


def start_configured(config: ServerConfig, announce: Callable[[], None] = lambda: None) -> int:
    """Run a server from its file until it is stopped; returns its exit code.

    Args:
        config: of the server.
        announce: called when nothing speaks against starting it.

    Raises:
        TrackingError: it would be unsafe, its port is taken, its database or bucket cannot be used, the database has
            a schema of another MLflow, or it is half restored.
    """
    restoring.refuse_half_restored(config.folder)
    refuse_taken(config.host, config.port)
    if not config.sqlite:
        backup_database.refuse_if_away(config)
    _refuse_schema(config.backend, schema.MIGRATE)
    if config.destination.startswith("s3://"):
        from mlflow_server.object_store import ensure_bucket

        ensure_bucket(config.destination)
    words, surroundings = configured_command(config), configured_environment(config)
    announce()
    return _run(words, surroundings, umask=credentials.OTHERS)


def upgrade(config: ServerConfig) -> int:
    """Bring a server's database to the schema of the installed MLflow; returns the exit code.

    Raises:
        TrackingError: MLflow has known holes, or the database is not there, damaged or half restored.
    """
    refuse_old_versions()
    restoring.refuse_half_restored(config.folder)
    backup_database.refuse_if_away(config)
    if config.sqlite:
        backup_database.refuse_damaged(config.sqlite)
    words = [sys.executable, "-m", "mlflow", "db", "upgrade", config.backend]
    return subprocess.run(words, env=environment(), check=False).returncode


def environment() -> dict[str, str]:
    """Return the server's environment: no job execution, which would be 13 more processes and an open job API."""
    return {
        **os.environ,
        # The server imports `mlflow_server.confined`, wherever it was started.
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def start(settings: ServerSettings, announce: Callable[[], None] = lambda: None) -> int:
    """Run the server until it is stopped; returns its exit code.

    Args:
        settings: of the server.
        announce: called when nothing speaks against starting it.

    Raises:
        TrackingError: it would be unsafe, its port is taken, there is no such storage folder, or half a one, or its
            database has a schema of another MLflow.
    """
    restoring.refuse_half_restored(settings.storage)
    words = command(settings)
    refuse_taken(settings.host, settings.port)
    if not settings.storage.is_dir():
        raise TrackingError(
            f"{settings.storage.resolve()}: no such storage folder; run a study first, or name its --storage "
            "(to begin with an empty one, make the folder)"
        )
    uri = settings.database
    _refuse_schema(uri, shlex.join(["python", "-m", "mlflow", "db", "upgrade", uri]))
    announce()
    return _run(words, environment())


def _refuse_schema(uri: str, upgrade: str) -> None:
    try:
        schema.refuse_other(uri, upgrade=upgrade)
    except TrackingError as problem:
        raise TrackingError(f"the schema of {without_password(uri)}: {problem}") from problem


def _run(words: Sequence[str], surroundings: Mapping[str, str], *, umask: int = -1) -> int:
    """Run a server until it ends, or Ctrl-C, SIGTERM or SIGHUP ends all of its processes; returns its exit code.

    Args:
        words: the command.
        surroundings: its environment.
        umask: rights that its files do not give, so that nobody gets past its users by way of them; -1: as usual.
    """
    server = subprocess.Popen(words, env=surroundings, start_new_session=True, umask=umask)

    def stop(*_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)

    # A terminal that is closed hangs up, but for what was started under `nohup`.
    heeded = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) is not signal.SIG_IGN]
    before = {one: signal.signal(one, stop) for one in heeded}
    try:
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        stop()
        server.wait()
        for one, handler in before.items():
            signal.signal(one, handler)
