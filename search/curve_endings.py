"""How curves end, learned from other groups: where a trial stands now, and what became of its like elsewhere.

What carries over between groups of the same study, or between data sets, is which hyperparameters do well in the
end and how far early differences shrink or grow. Groups differ in that, so the past is weighted: a group whose
trials stood as these do counts most. From the weighted past a ridge regression takes each trial from where it stands
to where it finishes. Every past group is also foreseen from the others alone: what that gets right is the share of a
foreseen move that is believed, and what it misses by is the doubt. Few groups, or groups unlike each other, therefore
teach little, and do not teach certainty.

All of it is in units of each group's own spread, because one group's AUROCs lie between 0.6 and 0.9 and another's
between 0.98 and 0.99.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

Values = Mapping[float, float]
"""A curve: value (larger is better) by the share of the epochs that were trained."""

SMALLEST_SPREAD = 1e-3
"""Below this, differences between trials are noise, in units of the metric."""
SURVIVORS_SPREAD = 0.25
"""Those who are left stand close together; their spread counts as at least this share of what it was at first."""
PENALTY_OF_SHAPE = 0.1
PENALTY_OF_KEY = 1.0
"""A key seen in few groups is believed less: with penalty 1 its mean counts as one more group that saw nothing."""
LIKENESS = 0.5
"""Spreads by which the trials of two groups may stand apart before one teaches the other much less."""
FARTHEST = 4.0
"""Spreads behind the leader from where on it makes no difference to the likeness how far."""
FEWEST_GROUPS = 3
RECENT = 0.6
"""Share of the epochs up to a rung whose line says where a curve stands there, instead of one noisy epoch."""


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """A group that is over; a curve that stops before share 1 was pruned there.

    Attributes:
        curves: (key, curve) of each trial; the key names hyperparameters that recur in other groups, and several
            trials (seeds) may have the same.
    """

    curves: Sequence[tuple[str, Values]]


@dataclass(frozen=True, slots=True)
class Standings:
    """Trials at the rungs of a race.

    Attributes:
        keys: of each trial.
        values: float64 (trials, rungs), NaN where a trial had stopped before.
        ends: float64 (trials,), how far behind the leader each ended; NaN in a group that is not over.
    """

    keys: tuple[str, ...]
    values: np.ndarray
    ends: np.ndarray

    def only(self, keys: Sequence[str], rung: int) -> "Standings":
        """Take the trials with one of these keys that reached a rung."""
        rows = [i for i, key in enumerate(self.keys) if key in keys and not np.isnan(self.values[i, rung])]
        return Standings(tuple(self.keys[i] for i in rows), self.values[rows], self.ends[rows])

    def spread(self, rung: int) -> float:
        """Return the distance from the median to the leader at a rung."""
        values = self.values[:, rung][~np.isnan(self.values[:, rung])]
        return max(float(values.max() - np.median(values)), SMALLEST_SPREAD)

    def behind(self, rung: int) -> np.ndarray:
        """Return each trial's distance to the leader at a rung, 0 or less."""
        behind: np.ndarray = self.values[:, rung] - np.nanmax(self.values[:, rung])
        return behind


@dataclass(frozen=True, slots=True)
class Ends:
    """Where live trials are expected to end, in units of the metric.

    Attributes:
        behind: float64 (trials,), distance to the best expected end, about 0 or less.
        doubts: float64 (trials,), standard deviation of each; infinite where nothing was there to learn from.
    """

    behind: np.ndarray
    doubts: np.ndarray


class Endings:
    """What groups that are over teach a race.

    Args:
        past: groups that are over.
        rungs: shares of the epochs at which the race meets, ascending.
    """

    def __init__(self, past: Sequence[Past], rungs: Sequence[float]):
        self._rungs = tuple(rungs)
        self._past = [_of_past(group, self._rungs) for group in past if group.curves]
        self._recurring = recurring_keys(past)

    def knows(self, keys: Sequence[str]) -> bool:
        """Say whether enough groups are over and had at least half of the keys; else there is little to carry over."""
        return len(self._past) >= FEWEST_GROUPS and 2 * sum(key in self._recurring for key in keys) >= len(keys)

    def expected(self, curves: Sequence[tuple[str, Values]], live: Sequence[bool], rung: int) -> Ends:
        """Return how far behind the best each live trial is expected to end, and how sure that is.

        Args:
            curves: (key, curve) of all trials of the group, the stopped ones included.
            live: which of them are still in the race; their curves reach the rung.
            rung: which of the race's rungs it is.
        """
        begun = _standings(curves, self._rungs, over=False)
        rows = np.flatnonzero(live)
        now = Standings(tuple(begun.keys[i] for i in rows), begun.values[rows], begun.ends[rows])
        unit = _unit(now, begun, rung)
        design, moves, weights = [], [], []
        keys = tuple(sorted(set(now.keys) & self._recurring))
        for group in self._past:
            then = group.only(now.keys, rung)
            if len(then.keys) < 2:
                continue
            its_unit = _unit(then, group, rung)
            design.append(_features(then, rung, its_unit, keys))
            moves.append((then.ends - then.ends.max() - then.behind(rung)) / its_unit)
            apart = (_apart(now, then, rung, (unit, its_unit)) + _apart(begun, group, 0, None)) / 2
            weights.append(np.full(len(then.keys), np.exp(-apart / (2 * LIKENESS**2)) + 1e-6))
        if not design:
            return Ends(now.behind(rung), np.full(len(rows), np.inf))
        ridge = _Ridge(design, moves, weights, len(keys))
        seen, moved, weight = np.vstack(design), np.concatenate(moves), np.concatenate(weights)
        foreseen = np.concatenate([features @ ridge.without(left) for left, features in enumerate(design)])
        trust = _trust(foreseen, moved, weight)
        features = _features(now, rung, unit, keys)
        doubts = np.sqrt(_of_keys((moved - trust * foreseen) ** 2, seen, features, weight, len(keys)))
        return Ends(now.behind(rung) + unit * trust * (features @ ridge.whole()), unit * doubts)


def recurring_keys(past: Sequence[Past]) -> frozenset[str]:
    """Return the keys that more than one group had."""
    counts = Counter(key for group in past for key in {key for key, _ in group.curves})
    return frozenset(key for key, count in counts.items() if count > 1)


@lru_cache(maxsize=4096)  # a replay asks the same groups once for every other group
def _of_past(past: Past, rungs: tuple[float, ...]) -> Standings:
    return _standings(past.curves, rungs, over=True)


def _standings(curves: Sequence[tuple[str, Values]], rungs: Sequence[float], *, over: bool) -> Standings:
    values = np.array([[_at(curve, share) for share in rungs] for _, curve in curves])
    ends = _behind_at_the_end([curve for _, curve in curves]) if over else np.full(len(curves), np.nan)
    return Standings(tuple(key for key, _ in curves), values, ends)


def _behind_at_the_end(curves: Sequence[Values]) -> np.ndarray:
    """Return how far behind the leader each curve was at its own end, which for a pruned one is where it stopped."""
    lasts = [max(curve) for curve in curves]
    best = {last: max(_last_until(curve, last) for curve in curves) for last in set(lasts)}
    return np.array([curve[last] - best[last] for curve, last in zip(curves, lasts, strict=True)])


def _unit(standings: Standings, begun: Standings, rung: int) -> float:
    return max(standings.spread(rung), SURVIVORS_SPREAD * begun.spread(0))


def _features(standings: Standings, rung: int, unit: float, keys: Sequence[str]) -> np.ndarray:
    """Return (trials, features): distance, distance beyond one unit, rise since the last rung, keys, constant."""
    gap = standings.behind(rung) / unit
    rise = gap - standings.behind(rung - 1) / unit if rung else np.zeros(len(gap))
    rise -= np.median(rise)
    which = [[key == known for known in keys] for key in standings.keys]
    seen = np.array(which, dtype=float).reshape(len(gap), len(keys))
    return np.column_stack([gap, np.minimum(gap + 1, 0), rise, seen, np.ones(len(gap))])


def _apart(one: Standings, other: Standings, rung: int, units: tuple[float, float] | None) -> float:
    """Return the mean square of how differently the common keys of two groups stand at a rung."""
    units = units or (one.spread(rung), other.spread(rung))
    mine, theirs = (_by_key(group, rung, unit) for group, unit in zip((one, other), units, strict=True))
    common = mine.keys() & theirs.keys()
    return sum((mine[key] - theirs[key]) ** 2 for key in common) / len(common) if common else FARTHEST**2


def _by_key(standings: Standings, rung: int, unit: float) -> dict[str, float]:
    gaps = np.maximum(standings.behind(rung) / unit, -FARTHEST)
    return {key: float(gap) for key, gap in zip(standings.keys, gaps, strict=True) if not np.isnan(gap)}


class _Ridge:
    """A weighted ridge regression over groups, as a whole and without any one of them.

    Args:
        design: float64 (trials, features) of each group.
        moves: float64 (trials,) of each group, what is to be foreseen.
        weights: float64 (trials,) of each group.
        keys: how many of the features, ahead of the last, name keys.
    """

    def __init__(
        self, design: Sequence[np.ndarray], moves: Sequence[np.ndarray], weights: Sequence[np.ndarray], keys: int
    ):
        mean = np.concatenate(weights).mean()
        weighted = [features * (weight / mean)[:, None] for features, weight in zip(design, weights, strict=True)]
        self._squares = np.array([w.T @ features for w, features in zip(weighted, design, strict=True)])
        self._products = np.array([w.T @ moved for w, moved in zip(weighted, moves, strict=True)])
        shape = design[0].shape[1] - 1 - keys
        penalty = np.diag([PENALTY_OF_SHAPE] * shape + [PENALTY_OF_KEY] * keys + [1e-9])
        self._square, self._product = self._squares.sum(axis=0) + penalty, self._products.sum(axis=0)

    def whole(self) -> np.ndarray:
        """Return the coefficients from all groups, (features,)."""
        found: np.ndarray = np.linalg.solve(self._square, self._product)
        return found

    def without(self, group: int) -> np.ndarray:
        """Return the coefficients from all groups but one, (features,)."""
        found: np.ndarray = np.linalg.solve(self._square - self._squares[group], self._product - self._products[group])
        return found


def _trust(foreseen: np.ndarray, moved: np.ndarray, weights: np.ndarray) -> float:
    """Return the share of a foreseen move to believe in, 0 to 1: least squares of what came over what was foreseen.

    Far moves count as `FARTHEST`: one trial that collapsed would otherwise decide.
    """
    told, came = (np.clip(moves, -FARTHEST, FARTHEST) for moves in (foreseen, moved))
    return float(np.clip((weights * told) @ came / max((weights * told) @ told, 1e-12), 0, 1))


def _of_keys(squares: np.ndarray, seen: np.ndarray, asked: np.ndarray, weights: np.ndarray, keys: int) -> np.ndarray:
    """Return the mean square of what was missed for each trial's key, drawn towards that of all by one more group."""
    of_key = slice(-1 - keys, -1)
    whole = float(np.average(squares, weights=weights))
    group = float(weights.sum()) / max(keys, 1)
    sums, counts = (weights * squares) @ seen[:, of_key], weights @ seen[:, of_key]
    by_key = (sums + group * whole) / (counts + group)
    known = asked[:, of_key]
    found: np.ndarray = known @ by_key + (1 - known.sum(axis=1)) * whole
    return found


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
        return float(np.mean(values))
    slope, offset = np.polyfit(recent, values, 1)
    return float(offset + slope * recent[-1])


def _last_until(curve: Values, share: float) -> float:
    reached = [known for known in curve if known <= share + 1e-9]
    return curve[max(reached, default=min(curve))]
