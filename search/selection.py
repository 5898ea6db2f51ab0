"""One winner per cell, from validation alone: the test partition has no say."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from search.study_state import StudyState, TrialProgress
from trainers.trial import TrialState


@dataclass(frozen=True, slots=True)
class Winner:
    """The trial that stands for its cell."""

    cell: str
    trial: str
    value: float
    """Primary metric on validation, at the trial's best epoch."""
    checkpoint: str


def winners(state: StudyState, cells: Mapping[str, str]) -> list[Winner]:
    """Choose each cell's winner: the hyperparameters with the best mean over seeds, and their best seed.

    Args:
        state: of the study.
        cells: cell name by trial, in the grid's order; ties go to the trial that stands first.

    Returns:
        One winner per cell that has a finished trial with a defined primary metric, in the grid's order.
    """
    by_cell: dict[str, list[TrialProgress]] = defaultdict(list)
    for trial, cell in cells.items():
        progress = state.trials.get(trial)  # None: the study was widened and has not run since
        if progress is None or progress.state is not TrialState.COMPLETE:
            continue
        if progress.result and progress.result.best_value is not None:
            by_cell[cell].append(progress)
    if not by_cell:
        return []
    sign = state.declaration.sign
    return [_winner(cell, finished, sign) for cell, finished in by_cell.items()]


def _winner(cell: str, finished: list[TrialProgress], sign: float) -> Winner:
    by_point: dict[str, list[TrialProgress]] = defaultdict(list)
    for progress in finished:
        by_point[progress.point].append(progress)
    # A point that finished with fewer seeds has a noisier mean: it wins only where no point has more.
    most = max(len(seeds) for seeds in by_point.values())
    full = [seeds for seeds in by_point.values() if len(seeds) == most]
    point = max(full, key=lambda seeds: fmean(sign * best_value(progress) for progress in seeds))
    best = max(point, key=lambda progress: sign * best_value(progress))
    return Winner(cell, best.trial, best_value(best), str(best.result.checkpoint if best.result else ""))


def best_value(progress: TrialProgress) -> float:
    """Return the primary metric of a finished trial at its best epoch."""
    if progress.result is None or progress.result.best_value is None:
        raise ValueError(f"trial {progress.trial} has no best value")
    return progress.result.best_value
