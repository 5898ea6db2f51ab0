"""Generated secrets of a server, each in a file that only its owner can read."""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from mlflow_server.errors import TrackingError

ADMIN = "admin"
PASSWORD = "admin-password"  # noqa: S105 - the name of a file
SECRETS = (PASSWORD, "session-key", "passphrase")
"""Files, in the order of the attributes of `Credentials`."""
USERS = "users.db"
"""MLflow's own file beside them; of a password it has only the hash."""
OTHERS = 0o077


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the server is started with; never printed.

    Attributes:
        password: of the user `admin`.
        session_key: signs the forms of MLflow's user pages.
        passphrase: encrypts what MLflow keeps secret in its database.
    """

    password: str
    session_key: str
    passphrase: str

    def __repr__(self) -> str:
        return "Credentials(…)"


def obtain(folder: Path) -> Credentials:
    """Read the secrets of a server, or make them where there are none.

    Raises:
        TrackingError: others may read a file, or look into the folder, where the users are as well; or the users are
            there, and the password that their administrator was made with is gone.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (mode := folder.stat().st_mode) & OTHERS:
        raise TrackingError(f"{folder} is open to others (mode {mode & 0o777:o}); `chmod 700 {folder}`")
    password, users = folder / PASSWORD, folder / USERS
    if users.exists() and not password.exists():  # MLflow makes the administrator once: a new one would let nobody in
        raise TrackingError(
            f"{password} is gone, and {users} has only its hash; bring it back from a backup, or write the password of "
            f"`{ADMIN}` into it (mode 0600)"
        )
    return Credentials(*(_secret(folder / name) for name in SECRETS))


def read_secret(path: Path) -> str:
    """Return a file's content if nobody but its owner may read it.

    Raises:
        TrackingError: it is missing, empty, no text, or open to others.
    """
    try:
        mode, content = path.stat().st_mode, path.read_text().strip()
    except OSError as problem:
        raise TrackingError(f"{path}: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise TrackingError(f"{path} is no text in UTF-8; write the secret into it anew") from None
    if mode & OTHERS:
        raise TrackingError(f"{path} can be read by others (mode {mode & 0o777:o}); `chmod 600 {path}`")
    if not content:
        raise TrackingError(f"{path} is empty; take it away, and the next start makes a new one")
    return content


def _secret(path: Path) -> str:
    try:
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read_secret(path)
    try:
        with os.fdopen(made, "w") as stream:
            stream.write(secrets.token_urlsafe(32) + "\n")
    except OSError:
        path.unlink()  # an empty one would be taken for a secret that is there
        raise
    return read_secret(path)
