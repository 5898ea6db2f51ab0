"""The mark of a restore that has not come to its end: as long as it is there, what lies beside it is half a server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow_server.errors import TrackingError

MARK = ".restoring"


def refuse_half_restored(folder: Path) -> None:
    """Refuse the folder of a server that a restore was cut off in.

    Args:
        folder: of the server's own files.

    Raises:
        TrackingError: it bears the mark.
    """
    if (folder / MARK).exists():
        raise TrackingError(
            f"{folder} is half restored: a restore was cut off there, or is at work; give the same `restore` again, "
            "it says what to remove first"
        )


@contextmanager
def marked(folder: Path) -> Iterator[None]:
    """Mark a folder while a block is at work; where the block does not come to its end, the mark stays.

    Args:
        folder: of the server's own files; made for its owner alone where it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / MARK).touch(exist_ok=False)
    yield
    (folder / MARK).unlink()
