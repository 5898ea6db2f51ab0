"""A race inside a small group: its trials meet at rungs, and those that cannot catch up stop.

At a rung every trial of the group has trained the same number of epochs. A trial's *reach* is its value plus a
credit for its slope over the epochs that remain, so that low learning rates, which learn late, are not judged
by where they stand. A trial stops when even its reach lies below the leader's value by more than a margin,
which grows with the noise of the curves between epochs.

Decisions depend on the curves up to the rung alone, never on the order in which trials ran: a search that was
killed and started again decides the same.
"""

import math
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState


@dataclass(frozen=True, slots=True)
class Standing:
    """What the race knows of one trial at a rung; larger is better."""

    value: float
    slope: float
    noise: float


class CellRacePruner(optuna.pruners.BasePruner):
    """Stop a trial whose reach at a rung lies a margin below the leader.

    Args:
        epochs: of a full trial.
        rungs: shares of `epochs` at which the group meets, each in (0, 1).
        margin: smallest difference worth stopping for, in units of the metric.
        noise_factor: how many standard deviations of the epoch-to-epoch noise are added to the margin.
        slope_credit: share of the remaining epochs over which the present slope is believed to go on.
    """

    def __init__(
        self,
        epochs: int,
        *,
        rungs: tuple[float, ...] = (0.25, 0.5),
        margin: float = 0.01,
        noise_factor: float = 1.0,
        slope_credit: float = 0.5,
    ):
        if any(not 0 < share < 1 for share in rungs):
            raise ValueError(f"rungs are shares of the epochs between 0 and 1, found {rungs}")
        if min(margin, noise_factor, slope_credit) < 0:
            raise ValueError("margin, noise_factor and slope_credit must not be negative")
        self._epochs = epochs
        self.rungs = tuple(sorted({max(1, math.ceil(share * epochs)) for share in rungs} - {epochs}))
        self._margin = margin
        self._noise_factor = noise_factor
        self._slope_credit = slope_credit

    def prune(self, study: optuna.study.Study, trial: FrozenTrial) -> bool:
        """Say whether `trial` stops at the rung it has reached."""
        return self.explain(study, trial)[0]

    def explain(self, study: optuna.study.Study, trial: FrozenTrial) -> tuple[bool, str]:
        """Decide, and say in one line what was compared."""
        rung = trial.last_step
        if rung not in self.rungs:
            return False, "not at a rung"
        group = [other for other in study.get_trials(deepcopy=False) if rung in other.intermediate_values]
        live = [other for other in group if other.state in (TrialState.RUNNING, TrialState.COMPLETE)]
        standings = {other.number: standing(other, rung, study.direction) for other in live}
        own = standings[trial.number]
        leader = max(standings, key=lambda number: (standings[number].value, -number))
        if leader == trial.number:
            return False, f"leads {len(live)} trials at epoch {rung} with {own.value:.4f}"
        margin = self._margin + self._noise_factor * float(np.median([s.noise for s in standings.values()]))
        credit = self._slope_credit * max(own.slope, 0.0) * (self._epochs - rung)
        gap = standings[leader].value - (own.value + credit)
        verdict = "stops" if gap > margin else "goes on"
        return gap > margin, (
            f"{verdict} at epoch {rung}: reach {own.value:.4f} + {credit:.4f} (slope) against the leader's "
            f"{standings[leader].value:.4f} among {len(live)}; gap {gap:.4f}, margin {margin:.4f}"
        )


def standing(trial: FrozenTrial, rung: int, direction: StudyDirection) -> Standing:
    """Read value, slope per epoch and epoch-to-epoch noise of a curve up to a rung."""
    sign = -1.0 if direction == StudyDirection.MINIMIZE else 1.0
    steps = np.array(sorted(step for step in trial.intermediate_values if step <= rung), dtype=float)
    values = sign * np.array([trial.intermediate_values[int(step)] for step in steps])
    if len(steps) < 2:
        return Standing(float(values[-1]), 0.0, 0.0)
    recent = slice(-min(3, len(steps)), None)
    slope, offset = np.polyfit(steps[recent], values[recent], 1)
    residual = values[recent] - (slope * steps[recent] + offset)
    noise = float(residual.std(ddof=2)) if len(residual) > 2 else 0.0
    return Standing(float(values[-1]), float(slope), noise)


PRUNER = CellRacePruner
