"""Files that a reader, a kill or a power cut finds as they were or whole, never in between."""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ASIDE = re.compile(r"\.(.+)\.[0-9a-f]{8}")
"""What a file is called while `replacing` writes it, and after a kill; the group is its own name."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield where to write what `path` is to hold; at the end of the block it is synced and takes that name.

    Two that write the same file at once do not meet: the later one stays. If the block fails, `path` is as it was.

    Args:
        path: its folder is created if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield aside
        sync(aside)
        aside.replace(path)
        sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def reserve(path: Path, size: int) -> None:
    """Make a file of so many zero bytes, with their room on the disk.

    A disk that fills up later would end a process that writes to the file's memory map by a bus error.

    Raises:
        OSError: there is no such room; there is no file then.
    """
    with path.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError:
            path.unlink()
            raise


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
