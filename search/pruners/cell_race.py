"""A race inside a group: its trials meet at rungs, and only those that may still win go on.

At a rung every trial of the group has trained the same number of epochs. Trials are ranked by where they are
expected to end: by a regression that other groups taught where there are some (`curve_endings.py`), else by their
value and a credit for their slope, so that low learning rates, which learn late, are not judged by where they stand.
Of n trials the best ⌈n^a⌉ go on, a falling from rung to rung; and of those only the ones whose expectation lies
within a margin of the leader, which grows with the noise of the curves.

Decisions depend on the curves up to the rung alone, never on the order in which trials ran: a search that was
killed and started again decides the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search import pruners
from search.curve_endings import Endings, Past, learn

RUNGS = (0.125, 0.25, 0.5)
EXPONENTS = (0.7, 0.5, 0.3)
NOISE_FACTOR = 2.0
"""Standard deviations of the curves' noise that are added to the margin."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the race knows of one trial at a rung; larger is better.

    Attributes:
        value: at the rung.
        slope: rise per epoch that the last epochs show beyond one standard error; 0 where there is one epoch only.
        noise: standard deviation of the last epochs around their line.
    """

    value: float
    slope: float
    noise: float


class CellRacePruner(optuna.pruners.BasePruner):
    """Keep the trials that may still win, at rungs.

    Args:
        epochs: of a full trial.
        rungs: shares of `epochs` at which the group meets, ascending, each in (0, 1).
        exponents: one per rung; of n trials at most ⌈n^exponent⌉ go on.
        margin: distance to the leader's expected end that is always kept, in units of the metric; None: no trial
            stops for its distance alone.
        slope_credit: share of the remaining epochs over which the present slope is believed to go on.
        past: groups that finished, for what carries over from them.
    """

    def __init__(
        self,
        epochs: int,
        *,
        rungs: Sequence[float] = RUNGS,
        exponents: Sequence[float] = EXPONENTS,
        margin: float | None = 0.06,
        slope_credit: float = 0.3,
        past: Sequence[Past] = (),
    ):
        if any(not 0 < share < 1 for share in rungs) or list(rungs) != sorted(rungs):
            raise ValueError(f"rungs are ascending shares of the epochs between 0 and 1, found {list(rungs)}")
        if len(exponents) < len(rungs) or any(not 0 <= exponent <= 1 for exponent in exponents):
            raise ValueError(f"exponents are one per rung, between 0 and 1, found {list(exponents)}")
        if min(margin or 0.0, slope_credit) < 0:
            raise ValueError("margin and slope_credit must not be negative")
        # A short training has fewer epochs than rungs: the later, stricter rung counts where two fall together.
        exponent_at = {max(1, math.ceil(share * epochs)): e for share, e in zip(rungs, exponents, strict=False)}
        self._exponent_at = {rung: exponent for rung, exponent in exponent_at.items() if rung < epochs}
        self.rungs = tuple(self._exponent_at)
        self._epochs = epochs
        self._margin = margin
        self._slope_credit = slope_credit
        self.learn_from(past)

    def learn_from(self, past: Sequence[Past]) -> None:
        """Take over what finished groups teach, instead of what was known before."""
        self._endings: dict[int, Endings | None] = {rung: learn(past, rung / self._epochs) for rung in self.rungs}

    def prune(self, study: optuna.study.Study, trial: FrozenTrial) -> bool:
        """Say whether `trial` stops at the rung it has reached."""
        return self.explain(study, trial)[0]

    def explain(self, study: optuna.study.Study, trial: FrozenTrial) -> tuple[bool, str]:
        """Decide, and say in one line what was compared."""
        rung = trial.last_step
        if rung not in self._exponent_at:
            return False, "not at a rung"
        reached = [other for other in study.get_trials(deepcopy=False) if rung in other.intermediate_values]
        group = [t for t in reached if t.state in (TrialState.RUNNING, TrialState.COMPLETE)]
        standings = {other.number: standing(other, rung, study.direction) for other in group}
        expected, leader, evidence = self._expected(group, standings, rung, study.direction)
        ranked = sorted(expected, key=lambda number: (-expected[number], -standings[number].value, number))
        place = ranked.index(trial.number)
        # n counts the trials that began, so that a rung's quota does not depend on which were stopped before.
        quota = max(1, math.ceil(len(reached) ** self._exponent_at[rung] - 1e-9))
        gap = leader - expected[trial.number]
        margin = self._margin_of(standings, rung)
        stops = place >= quota or gap > margin
        return stops, (
            f"{'stops' if stops else 'goes on'} at epoch {rung}: value {standings[trial.number].value:.4f}, place "
            f"{place + 1} of {len(group)} ({quota} go on), {gap:.4f} behind by {evidence}, margin {margin:.4f}"
        )

    def _expected(
        self, group: Sequence[FrozenTrial], standings: dict[int, Standing], rung: int, direction: StudyDirection
    ) -> tuple[dict[int, float], float, str]:
        """Return where each trial is expected to end, what a trial must come close to, and by which reckoning."""
        endings = self._endings[rung]
        if endings is None or not endings.knows([key_of(trial) for trial in group]):
            credit = self._slope_credit * (self._epochs - rung)
            leader = max(s.value for s in standings.values())
            # A slope brings a trial up to the leader, never past it: curves flatten, and one noisy rise would
            # otherwise stop all others.
            reach = {n: min(s.value + credit * s.slope, leader) for n, s in standings.items()}
            return reach, leader, "value and slope"
        curves = [(key_of(trial), self._curve(trial, rung, direction)) for trial in group]
        expected = endings.expected(curves, rung / self._epochs)
        by_number = {trial.number: end for trial, end in zip(group, expected, strict=True)}
        return by_number, max(by_number.values()), "what other groups taught"

    def _curve(self, trial: FrozenTrial, rung: int, direction: StudyDirection) -> dict[float, float]:
        sign = -1.0 if direction == StudyDirection.MINIMIZE else 1.0
        return {step / self._epochs: sign * value for step, value in trial.intermediate_values.items() if step <= rung}

    def _margin_of(self, standings: dict[int, Standing], rung: int) -> float:
        if self._margin is None or (rung == 1 and self._endings[rung] is None):
            return math.inf  # after one epoch nobody's slope is known, and low learning rates learn late
        return self._margin + NOISE_FACTOR * float(np.median([s.noise for s in standings.values()]))


def key_of(trial: FrozenTrial) -> str:
    """Name the hyperparameters of a trial, the same in every group."""
    return pruners.key_of(trial.params) or str(trial.number)


def standing(trial: FrozenTrial, rung: int, direction: StudyDirection) -> Standing:
    """Read value, slope per epoch and epoch-to-epoch noise of a curve up to a rung."""
    sign = -1.0 if direction == StudyDirection.MINIMIZE else 1.0
    steps = np.array(sorted(step for step in trial.intermediate_values if step <= rung), dtype=float)
    values = sign * np.array([trial.intermediate_values[int(step)] for step in steps])
    if len(steps) < 2:
        return Standing(float(values[-1]), 0.0, 0.0)
    recent = slice(-min(4, len(steps)), None)
    slope, offset = np.polyfit(steps[recent], values[recent], 1)
    residual = values[recent] - (slope * steps[recent] + offset)
    noise = float(np.sqrt(np.sum(residual**2) / (len(residual) - 2))) if len(residual) > 2 else 0.0
    doubt = noise / float(np.sqrt(np.sum((steps[recent] - steps[recent].mean()) ** 2)))
    return Standing(float(values[-1]), max(float(slope) - doubt, 0.0), noise)


PRUNER = CellRacePruner
