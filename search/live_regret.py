"""What pruning has cost this study, as far as the trials tell that were spared to find out."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean
from typing import Any

from search.study_state import StudyState, TrialProgress
from trainers.trial import TrialState

Seeds = Sequence[TrialProgress]
"""Trials that differ in their seed alone."""


def live_regret(state: StudyState, cells: Mapping[str, str]) -> dict[str, Any]:
    """Hold the end of each spared point against the best that its cell would have had without it.

    A spared point is a fair draw of those that the pruner wanted to stop (`pruning.spared`), so the mean over them
    estimates what a pruned one would have added to its cell. As in `selection`, seeds are judged by their mean, and
    only where as many of them finished as of the others.

    Args:
        state: of the study.
        cells: cell by trial, those that are asked for; a new axis gives cells other names than the ledger has.

    Returns:
        The number of pruned trials; of spared points, seeds counted as one, and of those among them that finished;
        how many would have won their cell; the mean and the largest gain of the primary metric (0 for one that would
        not have won), None where nothing is known.
    """
    by_cell: dict[str, dict[str, list[TrialProgress]]] = defaultdict(lambda: defaultdict(list))
    for trial, cell in cells.items():
        by_cell[cell][state.trials[trial].point].append(state.trials[trial])
    spared = [(seeds, points) for points in by_cell.values() for seeds in points.values() if _spared(seeds)]
    gains = [gain for seeds, points in spared if (gain := _gain(seeds, points.values(), state)) is not None]
    return {
        "pruned": sum(_decided(state.trials[trial], "prune") for trial in cells),
        "spared": len(spared),
        "finished": len(gains),
        "would_have_won": sum(gain > 0 for gain in gains),
        "mean_regret": fmean(gains) if gains else None,
        "worst_regret": max(gains, default=None),
    }


def _gain(spared: Seeds, of_cell: Collection[Seeds], state: StudyState) -> float | None:
    """Return by how much a spared point ended above all others of its cell that were not spared; at least 0."""
    others = [ends for seeds in of_cell if not _spared(seeds) and (ends := _ends(seeds, state))]
    most = max(map(len, others), default=0)
    own = _ends(spared, state)
    if not most or len(own) < most:
        return None
    return max(0.0, fmean(own) - max(fmean(ends) for ends in others if len(ends) == most))


def _ends(seeds: Seeds, state: StudyState) -> list[float]:
    """Return the best values of finished trials, larger is better."""
    finished = [trial.result for trial in seeds if trial.state is TrialState.COMPLETE and trial.result]
    sign = state.declaration.sign
    return [sign * result.best_value for result in finished if result.best_value is not None]


def _spared(seeds: Seeds) -> bool:
    return any(_decided(trial, "spare") for trial in seeds)


def _decided(trial: TrialProgress, action: str) -> bool:
    return any(event["action"] == action for event in trial.decisions)
