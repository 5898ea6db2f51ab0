"""What a run is called: MLflow's tables cut names after 22 letters, so that all of it has to tell runs apart."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from search import grid
from search.study_state import StudyState, TrialProgress


class RunNames:
    """Names trials by the axes and the seed of which the study, or any trial it ever had, has several values.

    What a study no longer asks for counts, too: its runs stay in the same tables. A study that grows therefore makes
    names longer, and none that shrinks makes them shorter.

    Args:
        state: of the study so far.
    """

    def __init__(self, state: StudyState):
        self._axes: dict[str, set[str]] = defaultdict(set)
        self._seeds: set[int] = set()
        self.learn_study(state.study)
        for progress in state.trials.values():
            self.learn_trial(progress)

    def learn_study(self, study: Mapping[str, Any]) -> None:
        """Take in what a study asks for."""
        for axis, values in study.get("axes", {}).items():
            self._axes[axis] |= {grid.readable(value) for value in values}
        self._seeds |= set(study.get("seeds", []))

    def learn_trial(self, progress: TrialProgress) -> None:
        """Take in a trial."""
        for axis, value in progress.axes.items():
            self._axes[axis].add(grid.readable(value))
        self._seeds.add(progress.seed)

    def of(self, progress: TrialProgress) -> str:
        """Return the name of a trial's run."""
        telling = [grid.readable(value) for axis, value in progress.axes.items() if len(self._axes[axis]) > 1]
        parts = [*(telling or [progress.cell]), *(f"{k}={grid.readable(v)}" for k, v in progress.searched.items())]
        return " ".join([*parts, *([f"seed={progress.seed}"] if len(self._seeds) > 1 else [])])
