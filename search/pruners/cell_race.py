"""A race inside a group: its trials meet at rungs, and only those that may still win go on.

At a rung every trial of the group has trained the same number of epochs. Trials are ranked by where they are
expected to end: by what became of their like in other groups, where there are some (`curve_endings.py`), else by their
value and a credit for their slope, so that low learning rates, which learn late, are not judged by where they stand.
Of n trials the best ⌈n^a⌉ go on, a falling from rung to rung; and of those only the ones whose expectation lies
within a margin of the leader, which grows with the noise of the curves. Where other groups tell how sure an
expectation is, a trial also stops when too little is expected to be missed without it: a clear group ends early, a
doubtful one keeps its trials.

Decisions depend on the curves up to the rung alone, never on the order in which trials ran: a search that was
killed and started again decides the same.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, linear_regression

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search import pruners
from search.curve_endings import Endings, Past, recurring_keys

LADDER = {0.125: 0.7, 0.25: 0.4, 0.5: 0.2, 0.75: 0.2}
"""Exponent by rung, a share of the epochs. Where the exponent falls no further, a trial only stops for its distance or
for what it is expected to be worth: that costs nothing where trainings go on."""
MANY_TRIALS = 16
LADDER_OF_MANY_TRIALS = {0.08: 0.85, 0.16: 0.75, 0.32: 0.65, 0.64: 0.5}
"""An early look drops the hopeless; the best of many stand close together, and their curves cross late."""
EARLY_LADDER = {1 / 48: 0.55, 1 / 12: 0.45, 1 / 5: 0.45, 1 / 3: 0.2, 1 / 2: 0.2, 3 / 4: 0.2}
"""Where many groups tell how curves end, a first look says which few can win."""
LADDER_OF_RESTARTS = {0.125: 0.7, 0.25: 0.4, 0.5: 0.2}
EARLY_LADDER_OF_RESTARTS = {1 / 48: 0.55, 1 / 12: 0.45, 1 / 3: 0.2}
"""Where every look is a training of its own, late ones cost more than they save."""
MANY_GROUPS = 20
"""From so many on the rungs are early. Fewer, as in a search's own cheaper cells, only correct the usual ones."""
UNTAUGHT = "value and slope"
TAUGHT = "what other groups taught"
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


@dataclass(frozen=True, slots=True)
class Field:
    """Where the live trials of a group stand at a rung, by trial number.

    Attributes:
        values: at the rung.
        places: 1 for the leader, by the expected end; in this order.
        ends: where each is expected to end.
        doubts: standard deviations of that; infinite where nothing says how sure it is.
        gaps: distance to the leader's expected end, by the way of reckoning that says the least.
        ways: in which the ends were reckoned; the last one counts.
        quota: how many go on at most.
        margin: distance to the leader that is always kept.
    """

    values: Mapping[int, float]
    places: Mapping[int, int]
    ends: Mapping[int, float]
    doubts: Mapping[int, float]
    gaps: Mapping[int, float]
    ways: Sequence[str]
    quota: int
    margin: float

    def verdict(self, trial: int, rung: int, tolerance: float) -> tuple[bool, str]:
        """Say whether a trial stops, and why in one line."""
        leader, place, gap = next(iter(self.places)), self.places[trial], self.gaps[trial]
        doubt = math.hypot(self.doubts[leader], self.doubts[trial])
        rise = expected_improvement(self.ends[trial] - self.ends[leader], doubt)
        stops = place > self.quota or gap > self.margin or (place > 1 and rise < tolerance)
        return stops, (
            f"{'stops' if stops else 'goes on'} at epoch {rung}: value {self.values[trial]:.4f}, place {place} of "
            f"{len(self.places)} ({self.quota} go on), {gap:.4f} behind by {' and by '.join(self.ways)}, "
            f"margin {self.margin:.4f}"
            + (f", expected to improve on the leader by {rise:.4f}" if place > 1 and TAUGHT in self.ways else "")
        )


class CellRacePruner(optuna.pruners.BasePruner):
    """Keep the trials that may still win, at rungs.

    Args:
        epochs: of a full trial.
        rungs: shares of `epochs` at which the group meets, ascending, each in (0, 1); None: of the early ladder
            where `past` has many groups with the same hyperparameters, else of the usual one.
        exponents: one per rung; of n trials at most ⌈n^exponent⌉ go on; None: those that belong to the rungs.
        margin: distance to the leader's expected end that is always kept, in units of the metric; None: no trial
            stops for its distance alone.
        slope_credit: share of the remaining epochs over which the present slope is believed to go on.
        tolerance: a trial stops if it is expected to improve on the leader by less, in units of the metric; asked
            only where other groups tell how sure that is.
        past: groups that finished, for what carries over from them.
        restarts: whether every rung takes a training of its own, on more data, say.
        trials: that the group will have; 0: not known, few.
    """

    def __init__(  # noqa: PLR0913 - they are the settings of a study file
        self,
        epochs: int,
        *,
        rungs: Sequence[float] | None = None,
        exponents: Sequence[float] | None = None,
        margin: float | None = 0.08,
        slope_credit: float = 0.3,
        tolerance: float = 0.0004,
        past: Sequence[Past] = (),
        restarts: bool = False,
        trials: int = 0,
    ):
        ladder = _ladder(past, restarts=restarts, trials=trials)
        rungs = tuple(ladder) if rungs is None else rungs
        exponents = tuple(ladder.values()) if exponents is None else exponents
        if not rungs or any(not 0 < share < 1 for share in rungs) or list(rungs) != sorted(rungs):
            raise ValueError(f"rungs are ascending shares of the epochs between 0 and 1, found {list(rungs)}")
        if len(exponents) < len(rungs) or any(not 0 <= exponent <= 1 for exponent in exponents):
            raise ValueError(f"exponents are one per rung, between 0 and 1, found {list(exponents)}")
        if not all(0 <= setting < math.inf for setting in (margin or 0.0, slope_credit, tolerance)):
            raise ValueError(
                f"margin, slope_credit and tolerance must be 0 or more, found {margin}, {slope_credit} and {tolerance}"
            )
        self._exponent_at = _by_epoch(rungs, exponents, epochs)
        self.rungs = tuple(self._exponent_at)
        self._epochs = epochs
        self._margin = margin
        self._slope_credit = slope_credit
        self._tolerance = tolerance
        self.learn_from(past)

    def learn_from(self, past: Sequence[Past]) -> None:
        """Take over what finished groups teach, instead of what was known before."""
        self._endings = Endings(past, [rung / self._epochs for rung in self.rungs])
        self._last_asked: object = None

    def prune(self, study: optuna.study.Study, trial: FrozenTrial) -> bool:
        """Say whether `trial` stops at the rung it has reached."""
        return self.explain(study, trial)[0]

    def explain(self, study: optuna.study.Study, trial: FrozenTrial) -> tuple[bool, str]:
        """Decide, and say in one line what was compared."""
        rung = trial.last_step
        if rung not in self._exponent_at:
            return False, "not at a rung"
        begun = [other for other in study.get_trials(deepcopy=False) if other.intermediate_values]
        asked = (study.study_name, rung, [(t.number, t.state, len(t.intermediate_values)) for t in begun])
        if self._last_asked != asked:  # every trial of a group asks at a rung
            self._last_asked, self._field = asked, self._assess(begun, rung, study.direction)
        return self._field.verdict(trial.number, rung, self._tolerance)

    def _assess(self, begun: Sequence[FrozenTrial], rung: int, direction: StudyDirection) -> "Field":
        """Say where the trials stand that are still in the race."""
        running = (TrialState.RUNNING, TrialState.COMPLETE)
        live = [trial for trial in begun if rung in trial.intermediate_values and trial.state in running]
        standings = {trial.number: standing(trial, rung, direction) for trial in live}
        reckonings = {UNTAUGHT: self._untaught(standings, rung)}
        doubts = dict.fromkeys(standings, math.inf)
        if self._endings.knows([key_of(trial) for trial in begun]):
            reckonings[TAUGHT], doubts = self._taught(begun, live, rung, direction)
        expected = reckonings.get(TAUGHT, reckonings[UNTAUGHT])
        ranked = sorted(expected, key=lambda number: (-expected[number], -standings[number].value, number))
        # n counts the trials that began, so that a rung's quota does not depend on which were stopped before.
        quota = max(1, math.ceil(len(begun) ** self._exponent_at[rung] - 1e-9))
        margin = self._margin_of(standings, rung, taught=TAUGHT in reckonings)
        # For its distance alone a trial only stops if it is far behind by every reckoning.
        leads = [(ends, max(ends.values())) for ends in reckonings.values()]
        return Field(
            values={number: standings[number].value for number in ranked},
            places={number: place for place, number in enumerate(ranked, 1)},
            ends=expected,
            doubts=doubts,
            gaps={number: min(lead - ends[number] for ends, lead in leads) for number in ranked},
            ways=list(reckonings),
            quota=quota,
            margin=margin,
        )

    def _untaught(self, standings: dict[int, Standing], rung: int) -> dict[int, float]:
        """Return where each trial is expected to end by its value and a credit for its slope."""
        credit = self._slope_credit * (self._epochs - rung)
        leader = max(s.value for s in standings.values())
        # A slope brings a trial up to the leader, never past it: curves flatten, and one noisy rise would
        # otherwise stop all others.
        return {number: min(s.value + credit * s.slope, leader) for number, s in standings.items()}

    def _taught(
        self, begun: Sequence[FrozenTrial], group: Sequence[FrozenTrial], rung: int, direction: StudyDirection
    ) -> tuple[dict[int, float], dict[int, float]]:
        """Return where each trial is expected to end by what became of its like in other groups, and the doubt."""
        live = {trial.number for trial in group}
        curves = [(key_of(trial), self._curve(trial, rung, direction)) for trial in begun]
        ends = self._endings.expected(curves, [t.number in live for t in begun], self.rungs.index(rung))
        numbers = [trial.number for trial in group]
        return (
            dict(zip(numbers, ends.behind.tolist(), strict=True)),
            dict(zip(numbers, ends.doubts.tolist(), strict=True)),
        )

    def _curve(self, trial: FrozenTrial, rung: int, direction: StudyDirection) -> dict[float, float]:
        sign = -1.0 if direction == StudyDirection.MINIMIZE else 1.0
        return {step / self._epochs: sign * value for step, value in trial.intermediate_values.items() if step <= rung}

    def _margin_of(self, standings: dict[int, Standing], rung: int, *, taught: bool) -> float:
        if self._margin is None or (rung == 1 and not taught):
            return math.inf  # after one epoch nobody's slope is known, and low learning rates learn late
        return self._margin + NOISE_FACTOR * float(np.median([s.noise for s in standings.values()]))


def _ladder(past: Sequence[Past], *, restarts: bool, trials: int) -> Mapping[float, float]:
    """Return the exponents by rung."""
    if len(past) >= MANY_GROUPS and recurring_keys(past):
        return EARLY_LADDER_OF_RESTARTS if restarts else EARLY_LADDER
    if restarts:
        return LADDER_OF_RESTARTS
    return LADDER if trials < MANY_TRIALS else LADDER_OF_MANY_TRIALS


def _by_epoch(rungs: Sequence[float], exponents: Sequence[float], epochs: int) -> dict[int, float]:
    """Return the exponent by epoch; in a short training rungs fall together, and the later, stricter one counts."""
    exponent_at = {max(1, math.ceil(share * epochs)): e for share, e in zip(rungs, exponents, strict=False)}
    return {rung: exponent for rung, exponent in exponent_at.items() if rung < epochs}


def key_of(trial: FrozenTrial) -> str:
    """Name the hyperparameters of a trial, the same in every group."""
    return pruners.key_of(trial.params) or str(trial.number)


def expected_improvement(ahead: float, doubt: float) -> float:
    """Return the expected value of what lies above 0 of a normal variable (Jones et al. 1998, eq. 15).

    Args:
        ahead: its mean.
        doubt: its standard deviation; infinite where nothing is known, and then so is the improvement.
    """
    if not 0 < doubt < math.inf:
        return max(ahead, 0.0) if doubt == 0 else math.inf
    normal = NormalDist()
    return doubt * normal.pdf(ahead / doubt) + ahead * normal.cdf(ahead / doubt)


def standing(trial: FrozenTrial, rung: int, direction: StudyDirection) -> Standing:
    """Read value, slope per epoch and epoch-to-epoch noise of a curve up to a rung."""
    sign = -1.0 if direction == StudyDirection.MINIMIZE else 1.0
    steps = np.array(sorted(step for step in trial.intermediate_values if step <= rung), dtype=float)
    values = sign * np.array([trial.intermediate_values[int(step)] for step in steps])
    if len(steps) < 2:
        return Standing(float(values[-1]), 0.0, 0.0)
    recent = slice(-min(4, len(steps)), None)
    slope, offset = linear_regression(steps[recent].tolist(), values[recent].tolist())
    residual = values[recent] - (slope * steps[recent] + offset)
    noise = float(np.sqrt(np.sum(residual**2) / (len(residual) - 2))) if len(residual) > 2 else 0.0
    doubt = noise / float(np.sqrt(np.sum((steps[recent] - steps[recent].mean()) ** 2)))
    return Standing(float(values[-1]), max(slope - doubt, 0.0), noise)


PRUNER = CellRacePruner
