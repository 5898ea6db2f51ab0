"""What MLflow or a promotion cannot do, told in one message."""

import errno
import sqlite3


class TrackingError(Exception):
    """The tracking server or its store cannot be used; the message says what to do."""


class PromotionError(Exception):
    """A promotion that could not be judged or carried out."""


def refusal(problem: Exception) -> str | None:
    """Return in one line what MLflow, its database or the system refuses; None where the problem is none of theirs."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    if _disk_is_full(problem):
        where = (problem.filename2 or problem.filename) if isinstance(problem, OSError) else None  # a copy names two
        return f"{f'{where}: ' if where else ''}no space left on device; make room and run the same command again"
    if isinstance(problem, MlflowException):
        login = "; it takes the user and password of MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        refused = problem.error_code == "UNAUTHENTICATED"
        return f"MLflow refuses: {str(problem).splitlines()[0]}{login if refused else ''}"
    if isinstance(problem, SQLAlchemyError | sqlite3.Error):  # SQLAlchemy adds its statement and an address, in lines
        return f"the database refuses: {str(problem).splitlines()[0]}"
    if isinstance(problem, OSError) and problem.strerror:  # a full disk names no file
        return f"{problem.filename}: {problem.strerror}" if problem.filename else problem.strerror
    return None


def _disk_is_full(problem: BaseException | None) -> bool:
    """Say whether a disk was full, also where a library raises an error of its own about it."""
    while problem is not None:
        if isinstance(problem, OSError) and problem.errno in {errno.ENOSPC, errno.EDQUOT}:
            return True
        if any(words in str(problem) for words in ("database or disk is full", f"Errno {errno.ENOSPC}]")):
            return True
        problem = problem.__cause__ or problem.__context__
    return False
