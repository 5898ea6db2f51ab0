"""Keeps a study's checkpoints within a number of bytes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from trainers import checkpoint_files


@dataclass(frozen=True, slots=True)
class Ended:
    """A trial that will not go on.

    Attributes:
        folder: of the trial.
        needed: whether its best weights are still wanted (a cell's winner so far).
    """

    folder: Path
    needed: bool


def enforce(ended: Sequence[Ended], *, study_folder: Path, limit: int) -> int:
    """Free bytes until the study holds no more than `limit`, least needed first.

    First what only serves to go on training, of trials that ended; then, oldest first, the best weights of ended
    trials that nobody needs. Running trials and winners are never touched. The history of a trial that trained to its
    end stays.

    Args:
        ended: trials that ended (pruned, failed, complete).
        study_folder: whose bytes are counted.
        limit: bytes.

    Returns:
        The bytes that are left; above `limit` if nothing more may go.
    """
    left = checkpoint_files.folder_bytes(study_folder)  # of thousands of files, so it is not counted for each that goes
    for trial in ended:
        if left <= limit:
            return left
        left -= _freed(trial.folder, partial(checkpoint_files.drop_resume_state, trial.folder))
    spare = [best for trial in ended if not trial.needed for best in trial.folder.glob("best-*")]
    for best in sorted(spare, key=lambda path: path.stat().st_mtime):
        if left <= limit:
            return left
        left -= _freed(best.parent, partial(checkpoint_files.remove, best))
    return left


def _freed(folder: Path, remove: Callable[[], None]) -> int:
    """Remove something of a trial's folder and return the bytes that went; of a file with two names both must go."""
    before = checkpoint_files.folder_bytes(folder)
    remove()
    return before - checkpoint_files.folder_bytes(folder)
