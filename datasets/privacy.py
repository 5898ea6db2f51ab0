"""Cases and patients under a number of their own: a hash that only this data folder's key can reproduce."""

import hashlib
import os
import secrets
from pathlib import Path

from datasets.errors import DatasetError

KEY_FILE = "case.key"
KEY_BYTES = 32


def case_key(folder: Path) -> bytes:
    """Return the key kept in `folder`, made at random by whoever asks first.

    Without it a hash of a patient number is undone by trying all numbers. The file is readable by its
    owner only (mode 0600); two processes that ask at once get the same key.

    Args:
        folder: created if it is missing.

    Raises:
        DatasetError: the file is there but is no key.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / KEY_FILE
    if not path.exists():
        aside = folder / f".{KEY_FILE}.{secrets.token_hex(8)}"
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(aside, path)  # unlike a rename, a link never replaces the key another process just made
        except FileExistsError:
            pass
        finally:
            aside.unlink()
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise DatasetError(
            f"the key that cases are numbered by holds {len(key)} bytes",
            str(path),
            f"{KEY_BYTES}",
            "bring it back from a backup, or remove it: cases are numbered anew, which older scores do not know",
        )
    return key


def keyed_hash(key: bytes, identifier: str) -> str:
    """Return 16 hex digits (blake2b, keyed) that stand for `identifier` outside the data folder."""
    return hashlib.blake2b(identifier.encode(), key=key, digest_size=8).hexdigest()
