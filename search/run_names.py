"""What a run is called: MLflow's tables cut names after 22 letters, so that all of it has to tell runs apart."""

from collections import defaultdict

from search import grid
from search.study_state import StudyState, TrialProgress

SEED = ""
"""Stands for the seed among the axes, which all have names."""


def run_names(state: StudyState) -> dict[str, str]:
    """Name every trial by the axes and the seed of which the study, or any trial it ever had, has several values.

    What a study no longer asks for counts, too: its runs stay in the same tables. A study that grows therefore makes
    names longer, and none that shrinks makes them shorter.
    """
    telling = _telling(state)
    return {trial: _name(progress, telling) for trial, progress in state.trials.items()}


def _telling(state: StudyState) -> frozenset[str]:
    values: dict[str, set[str]] = defaultdict(set)
    for axis, listed in state.study.get("axes", {}).items():
        values[axis] |= {grid.readable(value) for value in listed}
    values[SEED] |= {str(seed) for seed in state.study.get("seeds", [])}
    for progress in state.trials.values():
        for axis, value in progress.axes.items():
            values[axis].add(grid.readable(value))
        values[SEED].add(str(progress.seed))
    return frozenset(axis for axis, of_axis in values.items() if len(of_axis) > 1)


def _name(progress: TrialProgress, telling: frozenset[str]) -> str:
    parts = [grid.readable(value) for axis, value in progress.axes.items() if axis in telling] or [progress.cell]
    parts += [f"{name}={grid.readable(value)}" for name, value in progress.searched.items()]
    return " ".join([*parts, *([f"seed={progress.seed}"] if SEED in telling else [])])
