"""Tasks: one file each, exporting `TASK`; importing one costs no torch."""

import sys
from collections.abc import Sequence

from trainers import plugins
from trainers.task import Task
from trainers.trial import TaskDeclaration


def names() -> list[str]:
    """Return the tasks that exist."""
    return plugins.listed(sys.modules[__name__])


def load(task: str) -> Task:
    """Return a task.

    Raises:
        UnknownNameError: lists the tasks that exist.
    """
    found: Task = plugins.load(sys.modules[__name__], task, kind="task").TASK
    return found


def declare(task: str, pathologies: Sequence[str]) -> TaskDeclaration:
    """Return what a task promises the rooms above: primary metric, its direction, the targets."""
    return load(task).declare(pathologies)
