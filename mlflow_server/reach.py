"""Whether a server listens at all, and its address without what is secret in it."""

import os
import re
import socket
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from mlflow_server.errors import TrackingError

SECONDS = 10.0
"""MLflow itself tries again for minutes, a server as well as a database, without a word."""
PORTS = {"http": 80, "https": 443, "postgresql": 5432}


def reach(uri: str) -> None:
    """Fail within seconds where nothing listens.

    Args:
        uri: MLflow tracking URI, of a server or of a PostgreSQL database; another database is not asked.

    Raises:
        TrackingError: nothing listens there.
    """
    problem: Exception | None = None
    for host, port in _listeners(uri):
        try:
            _connect(host, port)
            return
        except OSError as found:
            problem = found
    if problem is not None:
        raise TrackingError(f"MLflow at {without_password(uri)} cannot be reached: {problem}") from None


def _listeners(uri: str) -> list[tuple[str, int]]:
    """Return host and port of what may answer at an address; of a database that can be several."""
    scheme = uri.partition(":")[0].lower()
    try:
        if scheme in {"http", "https"}:
            place = urlsplit(uri)
            return [(place.hostname, place.port or PORTS[scheme])] if place.hostname else []
        if scheme.partition("+")[0] == "postgresql":
            return list(_of_database(uri))
    except (ValueError, ArgumentError):  # its words may hold a password that was taken for a port
        raise TrackingError(f"MLflow at {without_password(uri)} cannot be reached: its port is no number") from None
    return []


def _of_database(uri: str) -> Iterator[tuple[str, int]]:
    """Return what PostgreSQL's client tries in turn; one without a host is on this machine, and known to it alone."""
    url = make_url(uri)
    hosts = _listed(url.query.get("host") or url.host or os.environ.get("PGHOST", ""))
    ports = _listed(url.query.get("port") or str(url.port or os.environ.get("PGPORT", PORTS["postgresql"])))
    for number, host in enumerate(hosts):
        name, _, own = (host, "", "") if host.startswith("/") or host.count(":") > 1 else host.partition(":")
        yield name, int(own or ports[min(number, len(ports) - 1)])


def _listed(words: str | tuple[str, ...]) -> list[str]:
    joined = words if isinstance(words, str) else ",".join(words)
    return [word for word in joined.split(",") if word]


def _connect(host: str, port: int) -> None:
    if not host.startswith("/"):
        socket.create_connection((host, port), timeout=SECONDS).close()
        return
    with socket.socket(socket.AF_UNIX) as tried:  # a folder of sockets, as PostgreSQL names them
        tried.settimeout(SECONDS)
        tried.connect(f"{host}/.s.PGSQL.{port}")


def has_password(uri: str) -> bool:
    """Say whether an address holds a password, before its host or as a parameter."""
    return bool(re.search(r"//[^@]*:[^@]*@", uri)) or "password=" in unquote(uri).lower()


def without_password(text: str) -> str:
    """Return a text whose addresses have lost their users and passwords, with whatever letters they were written."""
    text = re.sub(r"(://)(?:[^/@\s'\"]*|[^/:@\s'\"]*:[^\s'\"]*)@", r"\1", text)
    return re.sub(r"(?i)([?&][\w%]*(?:password|%70assword)=)[^&\s'\"]*", r"\1…", text)
