"""The case scores that winners' evaluations stored, held against what the ledger has of them."""

import hashlib

from search.errors import StudyError
from search.ledger import Event
from search.study_folder import StudyFolder

SCORES = "scores.parquet"
"""Validation and test cases of a winner's own data set."""


def of_other(dataset: str) -> str:
    """Name the file of the scores on another data set."""
    return f"scores_{dataset}.parquet"


def read(folder: StudyFolder, evaluation: Event, name: str = SCORES) -> bytes:
    """Return a table of case scores, parquet, as it was measured.

    Args:
        folder: of the study.
        evaluation: the event of the winner's evaluation.
        name: of the file.

    Raises:
        StudyError: it is missing, or is not what the evaluation stored.
    """
    path = folder.winner(evaluation["trial"]) / name
    if not path.is_file():
        raise StudyError(
            f"{evaluation['cell']}: {path} is missing; `python -m search run` writes it when it measures a winner"
        )
    content = path.read_bytes()
    if (problem := changed(evaluation, name, content)) is not None:
        raise StudyError(
            f"{evaluation['cell']}: {problem}; restore {path} from a backup, or from the artifacts of the trial's run "
            f"in MLflow (evaluation/{name})"
        )
    return content


def are_whole(folder: StudyFolder, evaluation: Event) -> bool:
    """Whether the table of a winner's own data set is there as it was measured."""
    path = folder.winner(evaluation["trial"]) / SCORES
    return path.is_file() and changed(evaluation, SCORES, path.read_bytes()) is None


def changed(evaluation: Event, name: str, content: bytes) -> str | None:
    """Say that a table is not the one that was measured, or None; what earlier versions measured is not known."""
    known = evaluation.get("sha256", {}).get(name)
    if known is None or hashlib.sha256(content).hexdigest() == known:
        return None
    return f"{name} of trial {evaluation['trial']} was changed since it was measured"
