"""A race inside a group: its trials meet at rungs, and only those that may still win go on.

At a rung every trial of the group has trained the same number of epochs. Trials that differ in their seed alone race as
one, by their mean, and go on or stop together. Trials are ranked by where they are expected to end: by what became of
their like in other groups, where there are some (`curve_endings.py`), else by their value and a credit for their slope,
so that low learning rates, which learn late, are not judged by where they stand.

Of n trials the best ⌈n^a⌉ go on, a falling from rung to rung. A group that knows nothing of others lets also those go
on that the noise of its curves does not tell from the leader, and stops those that are farther behind than noise and
the group's own rise can explain. Where other groups tell how sure an expectation is, a trial also stops when too little
is expected to be missed without it, for what its remaining epochs cost. So a clear group ends early, and a doubtful one
keeps its trials.

Decisions depend on the curves up to the rung alone, never on the order in which trials ran: a search that was
killed and started again decides the same.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.agreement import telling_keys
from search.curve_endings import Endings
from search.improvement import improvements
from search.race_curves import Standing, key_of, point_of, seen, sign_of, standing
from search.race_field import TAUGHT, UNTAUGHT, Field
from search.standings import Past

LADDER = {1 / 8: 0.85, 1 / 4: 0.63, 3 / 8: 0.6, 1 / 2: 0.43, 3 / 4: 0.4}
"""Exponent by rung, a share of the epochs: of five trials 4, 3, 3, 2 and 2 go on, of twelve 9, 5, 5, 3 and 3. Where the
exponent hardly falls, a trial only stops for what it is expected to be worth, which costs nothing where trainings go
on."""
MANY_TRIALS = 16
LADDER_OF_MANY_TRIALS = {0.08: 0.85, 0.16: 0.75, 0.32: 0.65, 0.64: 0.5}
"""An early look drops the hopeless; the best of many stand close together, and their curves cross late."""
EARLY_LADDER = {1 / 64: 0.6, 1 / 32: 0.5, 1 / 16: 0.45, 1 / 8: 0.45, 1 / 4: 0.3, 1 / 2: 0.2, 3 / 4: 0.2}
"""Where many groups tell how curves end, a first look says which few can win: of five trials 3, of twenty 7."""
LADDER_OF_RESTARTS = {0.125: 0.7, 0.25: 0.4, 0.5: 0.2}
EARLY_LADDER_OF_RESTARTS = {1 / 48: 0.6, 1 / 24: 0.5, 1 / 12: 0.3, 1 / 6: 0.2}
"""Where every look is a training of its own, late ones cost more than they save."""
MANY_GROUPS = 20
"""From so many on the rungs are early. Fewer, as in a search's own cheaper cells, only correct the usual ones."""
TOLERANCE, TOLERANCE_OF_MANY_TRIALS = 0.0006, 0.0012
"""Of many trials others stand as close, so that missing one costs less than it was expected to improve."""
STILL_ONE_BY_ONE = 40
"""What so many stopped trials are each expected to improve does not add up yet; of more trials they share it."""
HOPELESS_RISE, HOPELESS_NOISE = 0.25, 8.0
"""Who is behind by more than this share of the group's rise and this many standard deviations of noise stops."""
FEWEST_EPOCHS = 3
"""From so many on the noise of a curve is known."""


class CellRacePruner(optuna.pruners.BasePruner):
    """Keep the trials that may still win, at rungs.

    Args:
        epochs: of a full trial.
        rungs: shares of `epochs` at which the group meets, ascending, each in (0, 1); None: of the early ladder
            where `past` has many groups with the same hyperparameters, else of the usual one.
        exponents: one per rung; of n trials the best ⌈n^exponent⌉ go on; None: the ladder's at these shares.
        margin: standard deviations of the curves' noise within which the others go on, too; asked only where no
            other groups tell how sure an expectation is.
        slope_credit: share of the remaining epochs over which the present slope is believed to go on.
        tolerance: what a whole training must be expected to improve on the best of those ahead of it, in units of the
            metric, and the remaining part of one in proportion, or else it stops; asked only where other groups tell
            how sure that is. None: by the number of trials.
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
        margin: float = 1.0,
        slope_credit: float = 0.3,
        tolerance: float | None = None,
        past: Sequence[Past] = (),
        restarts: bool = False,
        trials: int = 0,
    ):
        ladder = _ladder(past, restarts=restarts, trials=trials)
        if rungs is None and exponents is not None:
            raise ValueError("exponents are one per rung: give `rungs`, too")
        rungs = tuple(ladder) if rungs is None else rungs
        if not rungs or any(not 0 < share < 1 for share in rungs) or list(rungs) != sorted(rungs):
            raise ValueError(f"rungs are ascending shares of the epochs between 0 and 1, found {list(rungs)}")
        if exponents is None:
            exponents = np.interp(rungs, list(ladder), list(ladder.values())).tolist()
        if len(exponents) != len(rungs) or any(not 0 <= exponent <= 1 for exponent in exponents):
            raise ValueError(f"exponents are one per rung, between 0 and 1, found {list(exponents)}")
        if tolerance is None:
            tolerance = _tolerance(trials)
        if not all(0 <= setting < math.inf for setting in (margin, slope_credit, tolerance)):
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
        everyone = study.get_trials(deepcopy=False)
        asked = (study.study_name, rung, [(other.state, len(other.intermediate_values)) for other in everyone])
        if self._last_asked != asked:  # every trial of a group asks at a rung
            # One that has gone on past the rung may not have been defined until then: here it stands nowhere.
            begun = [other for other in everyone if min(other.intermediate_values, default=math.inf) <= rung]
            self._last_asked, self._field = asked, self._assess(begun, rung, study.direction)
        return self._field.verdict(trial.number, rung)

    def _assess(self, begun: Sequence[FrozenTrial], rung: int, direction: StudyDirection) -> Field:
        """Say where the trials stand that are still in the race."""
        running = (TrialState.RUNNING, TrialState.COMPLETE)
        live = [trial for trial in begun if rung in trial.intermediate_values and trial.state in running]
        standings = {trial.number: standing(trial, rung, direction) for trial in live}
        points = {trial.number: point_of(trial) for trial in begun}
        of_point: dict[str, list[int]] = defaultdict(list)
        for number in standings:
            of_point[points[number]].append(number)
        seeds = {number: of_point[points[number]] for number in standings}
        if taught := self._taught(begun, live, rung, direction):
            way, margin, hopeless = TAUGHT, 0.0, math.inf
            ends, doubts = taught
        else:
            ends, doubts = self._untaught(standings, rung), dict.fromkeys(standings, math.inf)
            noise = _noise(standings, ends, seeds)
            way, margin, hopeless = UNTAUGHT, self._margin * noise, _hopeless(begun, rung, direction, noise)
        ends = {number: fmean(ends[n] for n in same) for number, same in seeds.items()}
        values = {number: fmean(standings[n].value for n in same) for number, same in seeds.items()}
        ranked = sorted(ends, key=lambda number: (-ends[number], -values[number], min(seeds[number]), number))
        of_place = {points[number]: (ends[number], doubts[number]) for number in ranked}  # seeds share theirs
        place = {point: number for number, point in enumerate(of_place, 1)}
        # It counts those that began, so that a rung's quota does not depend on which were stopped before.
        quota = max(1, math.ceil(len(set(points.values())) ** self._exponent_at[rung] - 1e-9))
        least = self._tolerance * (1 - rung / self._epochs)
        return Field(
            values={number: sign_of(direction) * standings[number].value for number in ranked},
            places={number: place[points[number]] for number in ranked},
            ends=ends,
            improvements=improvements(list(of_place.values()), quota, least),
            way=way,
            quota=quota,
            margin=margin,
            hopeless=hopeless,
            least=least,
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
    ) -> tuple[dict[int, float], dict[int, float]] | None:
        """Return where each trial is expected to end by what became of its like in other groups, and the doubt.

        None: there are no such groups.
        """
        if not self._endings.knows([key_of(trial) for trial in begun]):
            return None
        live = {trial.number for trial in group}
        curves = [
            (key_of(trial), {step / self._epochs: value for step, value in seen(trial, rung, direction).items()})
            for trial in begun
        ]
        ends = self._endings.expected(curves, [t.number in live for t in begun], self.rungs.index(rung))
        if ends is None:
            return None
        numbers = [trial.number for trial in group]
        return (
            dict(zip(numbers, ends.behind.tolist(), strict=True)),
            dict(zip(numbers, ends.doubts.tolist(), strict=True)),
        )


def _noise(standings: Mapping[int, Standing], ends: Mapping[int, float], seeds: Mapping[int, Sequence[int]]) -> float:
    """Return the standard deviation of what trials are ranked by: of epochs, and of seeds where there are several."""
    epochs = float(np.median([standing.noise for standing in standings.values()]))
    several = [
        [ends[number] for number in same] for number, same in seeds.items() if len(same) > 1 and number == same[0]
    ]
    if not several:
        return epochs
    freedom = sum(len(values) - 1 for values in several)
    between = sum(float(np.sum((np.array(values) - fmean(values)) ** 2)) for values in several) / freedom
    return math.sqrt((epochs**2 + between) / float(np.median([len(same) for same in seeds.values()])))


def _hopeless(begun: Sequence[FrozenTrial], rung: int, direction: StudyDirection, noise: float) -> float:
    """Return the distance to the leader that neither noise nor what the group has risen by since it began explains."""
    curves = [list(seen(trial, rung, direction).values()) for trial in begun]
    if max(len(values) for values in curves) < FEWEST_EPOCHS:
        return math.inf
    rise = max(max(values) for values in curves) - float(np.median([values[0] for values in curves]))
    return max(HOPELESS_RISE * rise, HOPELESS_NOISE * noise)


def _ladder(past: Sequence[Past], *, restarts: bool, trials: int) -> Mapping[float, float]:
    """Return the exponents by rung."""
    if len(past) >= MANY_GROUPS and telling_keys(past):
        return EARLY_LADDER_OF_RESTARTS if restarts else EARLY_LADDER
    if restarts:
        return LADDER_OF_RESTARTS
    return LADDER if trials < MANY_TRIALS else LADDER_OF_MANY_TRIALS


def _tolerance(trials: int) -> float:
    """Return what one trial of a group may be expected to improve and stop nevertheless."""
    if trials < MANY_TRIALS:
        return TOLERANCE
    return TOLERANCE_OF_MANY_TRIALS * min(1.0, STILL_ONE_BY_ONE / trials)


def _by_epoch(rungs: Sequence[float], exponents: Sequence[float], epochs: int) -> dict[int, float]:
    """Return the exponent by epoch; in a short training rungs fall together, and the later, stricter one counts."""
    # 7 % of 100 epochs are 7, though floating point has it a little above.
    exponent_at = {max(1, math.ceil(share * epochs - 1e-9)): e for share, e in zip(rungs, exponents, strict=True)}
    return {rung: exponent for rung, exponent in exponent_at.items() if rung < epochs}


PRUNER = CellRacePruner
