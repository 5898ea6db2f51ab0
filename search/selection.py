"""One winner per cell, from validation alone: the test partition has no say."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
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
    dropped: Counter[tuple[str, str]] = Counter()
    for trial, cell in cells.items():
        progress = state.trials.get(trial)  # None: the study was widened and has not run since
        if progress is None:
            continue
        dropped[cell, progress.point] += progress.dropped
        if progress.state is TrialState.COMPLETE and progress.result and progress.result.best_value is not None:
            by_cell[cell].append(progress)
    if not by_cell:
        return []
    sign = state.declaration.sign
    return [_winner(cell, finished, dropped, sign) for cell, finished in by_cell.items()]


def _winner(cell: str, finished: list[TrialProgress], dropped: Counter[tuple[str, str]], sign: float) -> Winner:
    by_point: dict[str, list[TrialProgress]] = defaultdict(list)
    for progress in finished:
        by_point[progress.point].append(progress)
    # A point that finished with fewer seeds has a noisier mean: it wins only where no point has more, but for the
    # seeds that the budget had no room for, which are not the point's fault.
    most = max(len(seeds) for seeds in by_point.values())
    full = [seeds for point, seeds in by_point.items() if len(seeds) + dropped[cell, point] >= most]
    point = max(full, key=lambda seeds: fmean(sign * best_value(progress) for progress in seeds))
    best = max(point, key=lambda progress: sign * best_value(progress))
    return Winner(cell, best.trial, best_value(best), str(best.result.checkpoint if best.result else ""))


def to_bring_back(state: StudyState, trials: Sequence[str]) -> str | None:
    """Return the pruned trial of a cell that must go on, since no other one finished or will; None: none must.

    Args:
        state: of the study.
        trials: of the cell, as the study asks for them now.
    """
    known = [state.trials[trial] for trial in trials if trial in state.trials]
    pruned = [progress for progress in known if progress.state is TrialState.PRUNED]
    if len(known) < len(trials) or not pruned or any(p.state in (None, TrialState.COMPLETE) for p in known):
        return None
    sign = state.declaration.sign
    judged = {progress.trial: progress.judged(sign) for progress in pruned}
    return max(judged, key=lambda trial: float("-inf") if (value := judged[trial]) is None else sign * value)


def best_value(progress: TrialProgress) -> float:
    """Return the primary metric of a finished trial at its best epoch."""
    if progress.result is None or progress.result.best_value is None:
        raise ValueError(f"trial {progress.trial} has no best value")
    return progress.result.best_value
