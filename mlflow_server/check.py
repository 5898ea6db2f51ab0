"""Whether a running server is whole and closed, asked from outside as a client would, and its schema."""

import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import requests

from mlflow_server import backup_database, credentials, restoring, schema
from mlflow_server.errors import TrackingError
from mlflow_server.server_config import LOOPBACK, ServerConfig

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SECONDS = 20
LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
SEARCH = "/api/2.0/mlflow/experiments/search"
EXPERIMENTS = f"{SEARCH}?max_results=1"
OWN_EXPERIMENT = "radsweep-check-"
"""Beginning of the names of the experiments that checks make and delete; `gc` takes them away for good."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    holds: bool
    evidence: str


def check(config: ServerConfig) -> list[Finding]:
    """Look at a server.

    Returns:
        reachable, schema, authentication, hosts and artifacts; the first two if no server answers.

    Raises:
        TrackingError: it is half restored, whatever answers.
    """
    restoring.refuse_half_restored(config.folder)
    reachable = _found("reachable", lambda: _version(config))
    of_database = _found("schema", lambda: _schema(config))
    if not reachable.holds:
        return [reachable, of_database]
    return [
        reachable,
        of_database,
        _found("authentication", lambda: _closed_to_strangers(config)),
        _found("hosts", lambda: _closed_to_other_hosts(config)),
        _found("database and artifacts", lambda: _round_trip(config)),
    ]


def login(config: ServerConfig) -> tuple[str, str] | None:
    """Return user and password of a server, from the environment or its own file; None if it asks for none."""
    if not config.authentication:
        return None
    name, password = (os.environ.get(key) for key in LOGIN)
    if name and password:
        return name, password
    return credentials.ADMIN, credentials.read_secret(config.credentials / credentials.PASSWORD)


@contextmanager
def logged_in(config: ServerConfig) -> Iterator[None]:
    """Let MLflow's own client know who asks, and that no proxy lies between: it reads the environment alone."""
    pair = login(config)
    told = {"no_proxy": ",".join({*LOOPBACK, config.host}), **(dict(zip(LOGIN, pair, strict=True)) if pair else {})}
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def request(
    config: ServerConfig, path: str, *, known: bool, host: str | None = None, origin: str | None = None
) -> tuple[int, bytes]:
    """Ask a server for a path; returns status and body, whatever the status.

    Args:
        config: of the server.
        path: with its query.
        known: whether to say who asks.
        host: value of the Host header; None: the true one.
        origin: of a page that posts, as a browser would say; None: it is asked without any.

    Raises:
        TrackingError: nothing listens there, or it does not speak HTTP.
        OSError: it stopped answering.
    """
    headers = {name: value for name, value in (("Host", host), ("Origin", origin)) if value is not None}
    page = None if origin is None else {"max_results": 1}
    with requests.Session() as session:
        # The server is on this machine: a proxy of the environment would be told the password and could not reach it.
        session.trust_env = False
        ask = session.get if page is None else session.post
        try:
            pair = login(config) if known else None
            answer = ask(f"{config.uri}{path}", json=page, headers=headers, auth=pair, timeout=SECONDS)
        except requests.ConnectionError as problem:
            raise TrackingError(f"no HTTP server answers at {config.uri}: {_root(problem)!r}") from problem
    return answer.status_code, answer.content


def _root(problem: BaseException) -> BaseException:
    """Return what a problem began with: urllib3 tells it in the middle of three others."""
    return problem if problem.__context__ is None else _root(problem.__context__)


def _found(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, look())
    except (TrackingError, OSError) as problem:
        return Finding(name, False, str(problem))


def _version(config: ServerConfig) -> str:
    status, body = request(config, "/health", known=False)  # the password is for no other who may listen there
    if (status, body) != (200, b"OK"):
        raise TrackingError(
            f"what listens at {config.uri} is no MLflow: it answers {status} {body[:40]!r} to /health instead of OK; "
            "see what it is, or choose another port"
        )
    status, body = request(config, "/version", known=True)
    told = body.decode(errors="replace")[:40]
    if status == 401:
        raise TrackingError(
            f"{config.uri} does not let {(login(config) or ('a stranger',))[0]} in; user and password are those of "
            f"{' and '.join(LOGIN)}, or {credentials.ADMIN} and what {config.credentials / credentials.PASSWORD} says"
        )
    if status != 200 or told != version("mlflow"):
        raise TrackingError(f"{config.uri} answers {status} {told!r}; the client here has mlflow {version('mlflow')}")
    return f"{config.uri}, mlflow {told}"


def _schema(config: ServerConfig) -> str:
    backup_database.refuse_if_away(config)
    found = schema.refuse_other(config.backend, upgrade=schema.MIGRATE)
    return f"{found}, that of mlflow {version('mlflow')}" if found else "the database is empty; a first start fills it"


def _closed_to_strangers(config: ServerConfig) -> str:
    if not config.authentication:
        return "off; this machine alone reaches the server"
    stranger, _ = request(config, EXPERIMENTS, known=False)
    user, _ = request(config, EXPERIMENTS, known=True)
    if (stranger, user) != (401, 200):
        raise TrackingError(f"a stranger is answered {stranger} instead of 401, a user {user} instead of 200")
    return "a stranger is answered 401"


def _closed_to_other_hosts(config: ServerConfig) -> str:
    status, _ = request(config, EXPERIMENTS, known=True, host="attacker.example")
    if status != 403:
        raise TrackingError(f"a request for another host is answered {status} instead of 403")
    stranger, _ = request(config, SEARCH, known=True, origin="https://attacker.example")
    if stranger != 403:
        raise TrackingError(f"a page of another origin may post: it is answered {stranger} instead of 403")
    for origin in filter(None, config.origins.split(",")):
        own, _ = request(config, SEARCH, known=True, host=origin.partition("://")[2], origin=origin)
        if own != 200:
            raise TrackingError(f"the UI at {origin} cannot search: it is answered {own} instead of 200")
    return "a request for another host is answered 403, and so is a page of another origin"


def _round_trip(config: ServerConfig) -> str:
    """Write a run with a file through the server, read both, and take them away again."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    content, user = {"content": secrets.token_hex(16)}, (login(config) or ("nobody", ""))[0]
    with logged_in(config), tempfile.TemporaryDirectory(prefix="radsweep-") as folder:
        client = MlflowClient(config.uri)
        try:
            with _own_run(client, user) as run:
                client.log_metric(run, "check", 1.0)
                client.log_dict(run, content, "check.json")
                read = json.loads(Path(client.download_artifacts(run, "check.json", folder)).read_text())
                whole = read == content and client.get_run(run).data.metrics == {"check": 1.0}
        except MlflowException as problem:
            raise TrackingError(str(problem).splitlines()[0]) from problem
    if not whole:
        raise TrackingError("what was written is not what was read")
    return "a run and a file were written and read back"


@contextmanager
def _own_run(client: "MlflowClient", user: str) -> Iterator[str]:
    """Make a run in an experiment of its own, which no other check uses and its user may write to, and delete both."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    place = client.create_experiment(f"{OWN_EXPERIMENT}{user}-{secrets.token_hex(4)}")
    try:
        run = client.create_run(place).info
        try:
            yield run.run_id
        finally:
            files = get_artifact_repository(run.artifact_uri, tracking_uri=client.tracking_uri)
            with suppress(MlflowException):  # a server may keep its users from deleting
                files.delete_artifacts("check.json")
            client.delete_run(run.run_id)
    finally:
        client.delete_experiment(place)
