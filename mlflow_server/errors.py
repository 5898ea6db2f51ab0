"""What MLflow or a promotion cannot do, told in one message."""

import errno


class TrackingError(Exception):
    """The tracking server or its store cannot be used; the message says what to do."""


class PromotionError(Exception):
    """A promotion that could not be judged or carried out."""


def refusal(problem: Exception) -> str | None:
    """Return in one line what MLflow or the system refuses; None where the problem is neither's."""
    from mlflow.exceptions import MlflowException

    if isinstance(problem, MlflowException):
        return f"MLflow refuses: {str(problem).splitlines()[0]}"
    if isinstance(problem, OSError) and problem.strerror:  # a full disk names no file
        told = f"{problem.filename}: {problem.strerror}" if problem.filename else problem.strerror
        full = problem.errno in {errno.ENOSPC, errno.EDQUOT}
        return f"{told}; make room and run the same command again" if full else told
    return None
