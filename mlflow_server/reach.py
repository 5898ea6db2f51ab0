"""Whether a server listens at all, and its address without what is secret in it."""

import re
import socket
from urllib.parse import unquote, urlsplit

from mlflow_server.errors import TrackingError

SECONDS = 10.0
"""MLflow itself tries again for minutes, a server as well as a database, without a word."""


def reach(uri: str) -> None:
    """Fail within seconds where nothing listens.

    Args:
        uri: MLflow tracking URI; a database is not asked.

    Raises:
        TrackingError: nothing listens there.
    """
    place = urlsplit(uri)
    if place.scheme in {"http", "https"} and place.hostname:
        try:
            port = place.port or (443 if place.scheme == "https" else 80)
            socket.create_connection((place.hostname, port), timeout=SECONDS).close()
        except (OSError, ValueError) as problem:
            raise TrackingError(f"MLflow at {without_password(uri)} cannot be reached: {problem}") from None


def has_password(uri: str) -> bool:
    """Say whether an address holds a password, before its host or as a parameter."""
    return bool(re.search(r"//[^@]*:[^@]*@", uri)) or "password=" in unquote(uri).lower()


def without_password(text: str) -> str:
    """Return a text whose addresses have lost their users and passwords, with whatever letters they were written."""
    text = re.sub(r"(://)(?:[^/@\s'\"]*|[^/:@\s'\"]*:[^\s'\"]*)@", r"\1", text)
    return re.sub(r"(?i)([?&][\w%]*(?:password|%70assword)=)[^&\s'\"]*", r"\1…", text)
