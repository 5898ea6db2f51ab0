"""What pruning has cost this study, as far as the trials tell that were spared to find out."""

from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from search.study_state import StudyState, TrialProgress
from trainers.trial import TrialState


def live_regret(state: StudyState, cells: Mapping[str, str]) -> dict[str, Any]:
    """Hold each spared trial's end against the best that its cell would have had without it.

    A spared trial is a fair draw of those that the pruner wanted to stop (`pruning.spared`), so the mean over them
    estimates what a pruned trial would have added to its cell.

    Args:
        state: of the study.
        cells: cell by trial, those that are asked for; a new axis gives cells other names than the ledger has.

    Returns:
        Counts of pruned, spared and finished spared trials; how many would have won their cell; the mean and the
        largest gain of the primary metric (0 for a trial that would not have won), None where nothing is known.
    """
    by_cell: dict[str, list[TrialProgress]] = defaultdict(list)
    for trial, cell in cells.items():
        by_cell[cell].append(state.trials[trial])
    pruned = sum(_decided(state.trials[trial], "prune") for trial in cells)
    spared = [(state.trials[trial], cell) for trial, cell in cells.items() if _decided(state.trials[trial], "spare")]
    gains = [gain for trial, cell in spared if (gain := _gain(trial, by_cell[cell], state)) is not None]
    return {
        "pruned": pruned,
        "spared": len(spared),
        "finished": len(gains),
        "would_have_won": sum(gain > 0 for gain in gains),
        "mean_regret": fmean(gains) if gains else None,
        "worst_regret": max(gains, default=None),
    }


def _gain(spared: TrialProgress, of_cell: list[TrialProgress], state: StudyState) -> float | None:
    """Return by how much a spared trial ended above all others of its cell that were not spared; at least 0."""
    others = [trial for trial in of_cell if not _decided(trial, "spare")]
    best = [value for trial in others if (value := _end(trial, state)) is not None]
    own = _end(spared, state)
    return max(0.0, own - max(best)) if best and own is not None else None


def _end(trial: TrialProgress, state: StudyState) -> float | None:
    """Return a finished trial's best value, larger is better."""
    if trial.state is not TrialState.COMPLETE or trial.result is None or trial.result.best_value is None:
        return None
    return state.declaration.sign * trial.result.best_value


def _decided(trial: TrialProgress, action: str) -> bool:
    return any(event["action"] == action for event in trial.decisions)
