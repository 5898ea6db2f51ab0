"""Where the trials of a group stand at the rungs of a race, and where those of a group that is over ended."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import linear_regression

import numpy as np

Values = Mapping[float, float]
"""A curve: value (larger is better) by the share of the epochs that were trained."""
Keys = frozenset[str]

SMALLEST_SPREAD = 1e-3
"""Below this, differences between trials are noise, in units of the metric."""
RISES = 2.0
"""Those who are left stand close together; their spread counts as at least so many of their mean recent rises."""
RECENT = 0.6
"""Share of the epochs up to a rung whose line says where a curve stands there, instead of one noisy epoch."""


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """A group that is over; a curve that stops before share 1 was pruned there.

    Attributes:
        curves: (key, curve) of each trial; see `ended` for one that was over before its last epoch. The key names
            hyperparameters that recur in other groups, and several trials (seeds) may have the same.
        by_best: whether trials are chosen by their best epoch, not by their last.
    """

    curves: Sequence[tuple[str, Values]]
    by_best: bool = False


def ended(curve: Values) -> Values:
    """Return the curve of a trial that came to its own end, however early: from there on it stays as it is.

    One that was pruned is known until then only, and is compared with others as they stood there.
    """
    return {**curve, 1.0: curve[max(curve)]}


@dataclass(frozen=True, slots=True, eq=False)
class Standings:
    """Trials at the rungs of a race.

    Attributes:
        keys: of each trial.
        rungs: shares of the epochs.
        values: float64 (trials, rungs), NaN where a trial had stopped before.
        ends: float64 (trials,), how far behind the leader each ended; NaN in a group that is not over.
    """

    keys: tuple[str, ...]
    rungs: tuple[float, ...]
    values: np.ndarray
    ends: np.ndarray

    def of(self, rows: Sequence[int]) -> "Standings":
        """Take some of the trials."""
        return Standings(tuple(self.keys[row] for row in rows), self.rungs, self.values[rows], self.ends[rows])

    def by_key(self) -> "Standings":
        """Take the trials of a key, which differ in their seed alone, for one: their mean."""
        rows: dict[str, list[int]] = defaultdict(list)
        for row, key in enumerate(self.keys):
            rows[key].append(row)
        if len(rows) == len(self.keys):
            return self
        values, ends = (
            np.array([_mean_of_known(of_trial[own]) for own in rows.values()]) for of_trial in (self.values, self.ends)
        )
        return Standings(tuple(rows), self.rungs, values, ends)

    def only(self, keys: Keys, rung: int) -> "Standings":
        """Take the trials with one of these keys that reached a rung."""
        reached = ~np.isnan(self.values[:, rung])
        return self.of([row for row, key in enumerate(self.keys) if reached[row] and key in keys])

    def spread(self, rung: int) -> float:
        """Return the distance from the median to the leader at a rung."""
        values = self.values[:, rung][~np.isnan(self.values[:, rung])]
        return max(float(values.max() - np.median(values)), SMALLEST_SPREAD)

    def at_half(self, rung: int) -> int:
        """Return the last rung at half of a rung's share, or the first: a shorter rise is mostly noise."""
        return max((r for r, share in enumerate(self.rungs) if share <= self.rungs[rung] / 2 + 1e-9), default=0)

    def unit(self, rung: int) -> float:
        """Return what differences at a rung are measured in: the spread, or the rise since half of its share."""
        rises = np.abs(self.values[:, rung] - self.values[:, self.at_half(rung)])
        return max(self.spread(rung), RISES * float(rises.mean()))

    def behind(self, rung: int) -> np.ndarray:
        """Return each trial's distance to the leader at a rung, 0 or less."""
        behind: np.ndarray = self.values[:, rung] - np.nanmax(self.values[:, rung])
        return behind


@lru_cache(maxsize=4096)  # a replay asks the same groups once for every other group
def of_past(past: Past, rungs: tuple[float, ...]) -> Standings:
    """Read a group that is over at the rungs of a race."""
    ends = _behind_at_the_end([curve for _, curve in past.curves], _best_until if past.by_best else _last_until)
    return standings_of(past.curves, rungs, ends)


@lru_cache(maxsize=4096)
def points_of_past(past: Past, rungs: tuple[float, ...]) -> Standings:
    """Read the same with the seeds of a point as one."""
    return of_past(past, rungs).by_key()


def standings_of(curves: Sequence[tuple[str, Values]], rungs: tuple[float, ...], ends: np.ndarray) -> Standings:
    """Read curves at the rungs of a race.

    Args:
        curves: (key, curve) of each trial.
        rungs: shares of the epochs.
        ends: see `Standings`.
    """
    values = np.array([[_at(curve, share) for share in rungs] for _, curve in curves])
    return Standings(tuple(key for key, _ in curves), rungs, values, ends)


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Return the mean over the first axis of what is not NaN; NaN where nothing is known."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    mean: np.ndarray = np.where(count, np.where(known, values, 0).sum(axis=0) / np.maximum(count, 1), np.nan)
    return mean


def _behind_at_the_end(curves: Sequence[Values], worth: Callable[[Values, float], float]) -> np.ndarray:
    """Return how far behind the leader each curve was at its own end, which for a pruned one is where it stopped.

    Args:
        curves: of the trials of a group.
        worth: what a curve is chosen by, trained up to a share.
    """
    lasts = [max(curve) for curve in curves]
    best = {last: max(worth(curve, last) for curve in curves) for last in set(lasts)}
    return np.array([worth(curve, last) - best[last] for curve, last in zip(curves, lasts, strict=True)])


def _at(curve: Values, share: float) -> float:
    """Return where a curve stands at a share of the epochs; NaN if it had stopped before.

    That is the end of a line through its recent epochs, the mean of two, or the last one until then.
    """
    if max(curve) < share - 1e-9:
        return np.nan
    recent = [known for known in sorted(curve) if (1 - RECENT) * share - 1e-9 <= known <= share + 1e-9]
    if not recent:
        return _last_until(curve, share)
    values = [curve[known] for known in recent]
    if len(recent) < 3:
        return sum(values) / len(values)
    slope, offset = linear_regression(recent, values)
    return offset + slope * recent[-1]


def _last_until(curve: Values, share: float) -> float:
    reached = [known for known in curve if known <= share + 1e-9]
    return curve[max(reached, default=min(curve))]


def _best_until(curve: Values, share: float) -> float:
    reached = [value for known, value in curve.items() if known <= share + 1e-9]
    return max(reached, default=curve[min(curve)])  # of one that was undefined so far the first value stands for it
