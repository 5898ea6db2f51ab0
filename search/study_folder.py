"""Where a study keeps what, and who may write there."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from mlflow_server.database_path import embedded
from search.errors import StudyError

RESERVED = frozenset(
    {"cache", "case.key", "generated", "mirrors", "mlartifacts", "mlpromotions"}
    | {"mlflow.db", "mlflow.db-shm", "mlflow.db-wal"}
)
"""What a storage folder holds beside the studies; no study can have such a name."""


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """Paths of one study below the storage root; the root may lie on a path that all nodes share."""

    storage: Path
    study: str

    @property
    def path(self) -> Path:
        """The study's own folder."""
        return self.storage / self.study

    @property
    def ledger(self) -> Path:
        """The durable log of events."""
        return self.path / "ledger.jsonl"

    @property
    def optuna(self) -> Path:
        """SQLite file that optuna-dashboard opens."""
        return self.path / "optuna.db"

    @property
    def delivery(self) -> Path:
        """How far the ledger has been told to MLflow."""
        return self.path / "delivered.json"

    @property
    def report(self) -> Path:
        """Folder of the report's files."""
        return self.path / "report"

    @property
    def promotions(self) -> Path:
        """Append-only history of promotion decisions."""
        return self.path / "promotions.jsonl"

    @property
    def cache(self) -> Path:
        """Decoded images, shared by all studies of this storage."""
        return self.storage / "cache"

    @property
    def tracking_uri(self) -> str:
        """The embedded MLflow store, shared by all studies of this storage."""
        return embedded(self.storage)

    @property
    def artifacts(self) -> Path:
        """Artifacts of the embedded MLflow store."""
        return self.storage / "mlartifacts"

    def trial(self, trial: str) -> Path:
        """Folder of one trial's checkpoints."""
        return self.path / "trials" / trial

    def winner(self, trial: str) -> Path:
        """Folder of a cell winner's test evaluation."""
        return self.path / "winners" / trial


@contextmanager
def lock(folder: StudyFolder) -> Iterator[None]:
    """Hold the study as its only driver; the kernel lets go of it when the process dies.

    Raises:
        StudyError: another driver holds it, named with its host and process.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    holder = folder.path / "driver"
    guard = FileLock(folder.path / "driver.lock", timeout=0)
    try:
        guard.acquire()
    except Timeout:
        who = holder.read_text().strip() if holder.exists() else "an unknown process"
        raise StudyError(
            f"study {folder.study}: another driver is running it: {who}. "
            "Watch it with `python -m search status`, or stop it first"
        ) from None
    try:
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        yield
    finally:
        holder.unlink(missing_ok=True)  # or `status` on another host would take this driver for alive
        guard.release()


def is_driven(folder: StudyFolder) -> bool:
    """Say whether the study's last driver lives; one on another host is taken to."""
    try:
        words = (folder.path / "driver").read_text().split()
        if words[-1] == socket.gethostname():
            os.kill(int(words[1]), 0)
    except PermissionError:  # somebody else's process
        return True
    except (OSError, ValueError, IndexError):
        return False
    return True
