"""How curves end, learned from other groups: where a trial stands now, and what became of its like elsewhere.

What carries over between groups of the same study, or between data sets, is which hyperparameters do well in the
end and how far early differences shrink or grow. Groups differ in that, so the past is weighted: a group whose
trials stood as these do counts most. From the weighted past a ridge regression takes each trial from where it stands
to where it finishes. Every past group is also foreseen from the others alone: what that gets right is the share of a
foreseen move that is believed, and what it misses by is the doubt. Few groups, or groups unlike each other, therefore
teach little, and do not teach certainty.

All of it is in units of each group's own spread or rise, because one group's AUROCs lie between 0.6 and 0.9 and
another's between 0.98 and 0.99, and because curves that have flattened do not overtake each other.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import linear_regression

import numpy as np

from search.keyed_ridge import KeyedRidge, Rows

Values = Mapping[float, float]
"""A curve: value (larger is better) by the share of the epochs that were trained."""
Keys = frozenset[str]


def ended(curve: Values) -> Values:
    """Return the curve of a trial that came to its own end, however early: from there on it stays as it is.

    One that was pruned is known until then only, and is compared with others as they stood there.
    """
    return {**curve, 1.0: curve[max(curve)]}


SMALLEST_SPREAD = 1e-3
"""Below this, differences between trials are noise, in units of the metric."""
RISES = 2.0
"""Those who are left stand close together; their spread counts as at least so many of their mean recent rises."""
LIKENESS = 0.5
"""Spreads by which the trials of two groups may stand apart before one teaches the other much less."""
FARTHEST = 4.0
"""Spreads behind the leader from where on it makes no difference to the likeness how far."""
NEIGHBOURHOOD, CLOSE = 0.5, 0.25
"""Doubt is read from trials that stood about as far behind: within half that distance and a little more."""
FEWEST_GROUPS = 3
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
        begun = _standings(curves, self._rungs, np.full(len(curves), np.nan))
        now = begun.of([row for row, goes_on in enumerate(live) if goes_on])
        unit = now.unit(rung)
        keys = frozenset(now.keys)
        known = tuple(sorted(keys & self._recurring))
        found = [(group, _lesson(group, keys, known, rung)) for group in self._past]
        lessons = [(group, lesson) for group, lesson in found if lesson is not None]
        if not lessons:
            return Ends(now.behind(rung), np.full(len(now.keys), np.inf))
        then = np.array([lesson.gaps for _, lesson in lessons])
        apart = _apart(_gaps(now, keys, rung, unit), then)
        every = frozenset(begun.keys)
        at_first = np.array([_first_gaps(group, every) for group, _ in lessons])
        apart = (apart + _apart(_gaps(begun, every, 0, begun.spread(0)), at_first)) / 2
        groups = np.repeat(np.arange(len(lessons)), [len(lesson.moves) for _, lesson in lessons])
        weights = (np.exp(-apart / (2 * LIKENESS**2)) + 1e-6)[groups]
        rows = Rows(*(np.concatenate([getattr(lesson.rows, of) for _, lesson in lessons]) for of in Rows.__slots__))
        moves = np.concatenate([lesson.moves for _, lesson in lessons])
        ridge = KeyedRidge(rows, groups, moves, weights, keys=len(known))
        foreseen = ridge.foresee_each_from_the_others()
        trust = _trust(foreseen, moves, weights)
        asked = _rows(now, rung, unit, known)
        doubts = _doubts((moves - trust * foreseen) ** 2, rows, weights, asked, keys=len(known))
        return Ends(now.behind(rung) + unit * trust * ridge.foresee(asked), unit * doubts)


@dataclass(frozen=True, slots=True, eq=False)
class _Lesson:
    """What a group that is over shows at a rung.

    Attributes:
        rows: of its trials, as the regression takes them.
        moves: float64 (trials,), how much nearer to the leader each ended, in units of the group's spread.
        gaps: see `_gaps`.
    """

    rows: Rows
    moves: np.ndarray
    gaps: np.ndarray


@lru_cache(maxsize=8192)  # a replay asks the same groups about the same keys again and again
def _lesson(group: Standings, keys: Keys, known: tuple[str, ...], rung: int) -> _Lesson | None:
    """Read what the trials with some keys did from a rung on; None where there are too few.

    Args:
        group: that is over.
        keys: of the trials that are asked about.
        known: those of them that have an effect of their own in the regression.
        rung: at which they are asked about.
    """
    then = group.only(keys, rung)
    if len(then.keys) < 2:
        return None
    unit = then.unit(rung)
    moves = (then.ends - then.ends.max() - then.behind(rung)) / unit
    return _Lesson(_rows(then, rung, unit, known), moves, _gaps(then, keys, rung, unit))


def recurring_keys(past: Sequence[Past]) -> frozenset[str]:
    """Return the keys that more than one group had."""
    counts = Counter(key for group in past for key in {key for key, _ in group.curves})
    return frozenset(key for key, count in counts.items() if count > 1)


@lru_cache(maxsize=4096)  # a replay asks the same groups once for every other group
def _of_past(past: Past, rungs: tuple[float, ...]) -> Standings:
    ends = _behind_at_the_end([curve for _, curve in past.curves], _best_until if past.by_best else _last_until)
    return _standings(past.curves, rungs, ends)


def _standings(curves: Sequence[tuple[str, Values]], rungs: tuple[float, ...], ends: np.ndarray) -> Standings:
    values = np.array([[_at(curve, share) for share in rungs] for _, curve in curves])
    return Standings(tuple(key for key, _ in curves), rungs, values, ends)


def _behind_at_the_end(curves: Sequence[Values], worth: Callable[[Values, float], float]) -> np.ndarray:
    """Return how far behind the leader each curve was at its own end, which for a pruned one is where it stopped.

    Args:
        curves: of the trials of a group.
        worth: what a curve is chosen by, trained up to a share.
    """
    lasts = [max(curve) for curve in curves]
    best = {last: max(worth(curve, last) for curve in curves) for last in set(lasts)}
    return np.array([worth(curve, last) - best[last] for curve, last in zip(curves, lasts, strict=True)])


def _rows(standings: Standings, rung: int, unit: float, known: Sequence[str]) -> Rows:
    """Return as features distance, distance beyond one unit, rise since about half the epochs, and a constant."""
    gap = standings.behind(rung) / unit
    rise = gap - standings.behind(standings.at_half(rung)) / unit
    rise -= np.median(rise)
    place = {key: number for number, key in enumerate(known)}
    keys = np.array([place.get(key, -1) for key in standings.keys])
    return Rows(np.column_stack([gap, np.minimum(gap + 1, 0), rise, np.ones(len(gap))]), keys)


def _apart(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return the mean square of how differently the common keys of two groups stand, for each of several, (groups,).

    Args:
        mine: gaps (keys,).
        theirs: gaps (groups, keys).
    """
    squares = (mine - theirs) ** 2
    common = ~np.isnan(squares)
    count = common.sum(axis=1)
    apart: np.ndarray = np.where(count, np.where(common, squares, 0).sum(axis=1) / np.maximum(count, 1), FARTHEST**2)
    return apart


def _gaps(standings: Standings, keys: Keys, rung: int, unit: float) -> np.ndarray:
    """Return how far behind each key stands at a rung, in units, float64 (keys,) in alphabetical order; NaN: absent."""
    gaps = np.maximum(standings.behind(rung) / unit, -FARTHEST)
    by_key = {key: gap for key, gap in zip(standings.keys, gaps.tolist(), strict=True) if not np.isnan(gap)}
    return np.array([by_key.get(key, np.nan) for key in sorted(keys)])


@lru_cache(maxsize=4096)
def _first_gaps(group: Standings, keys: Keys) -> np.ndarray:
    return _gaps(group, keys, 0, group.spread(0))


def _trust(foreseen: np.ndarray, moved: np.ndarray, weights: np.ndarray) -> float:
    """Return the share of a foreseen move to believe in, 0 to 1: least squares of what came over what was foreseen.

    Far moves count as `FARTHEST`: one trial that collapsed would otherwise decide.
    """
    told, came = (np.clip(moves, -FARTHEST, FARTHEST) for moves in (foreseen, moved))
    return float(np.clip((weights * told) @ came / max((weights * told) @ told, 1e-12), 0, 1))


def _doubts(squares: np.ndarray, rows: Rows, weights: np.ndarray, asked: Rows, *, keys: int) -> np.ndarray:
    """Return the standard deviation of what is missed of each foreseen move, (asked,), in units.

    It is that of the trials that stood about as far behind, times what those of its key missed by against all others.

    Args:
        squares: of what was missed of the moves that came, (rows,).
        rows: the trials that moved.
        weights: of them.
        asked: the trials whose moves are foreseen.
        keys: how many there are.
    """
    of_keys = _of_keys(squares, rows.keys, weights, keys)
    mine, theirs = (np.maximum(of.features[:, 0], -FARTHEST) for of in (asked, rows))
    apart = (mine[:, None] - theirs) / (NEIGHBOURHOOD * (CLOSE - mine[:, None]))
    near = weights * np.exp(-(apart**2) / 2) + 1e-9
    doubts: np.ndarray = np.sqrt(near @ squares / near.sum(axis=1) * of_keys[asked.keys] / max(of_keys[-1], 1e-12))
    return doubts


def _of_keys(squares: np.ndarray, which: np.ndarray, weights: np.ndarray, keys: int) -> np.ndarray:
    """Return the mean square of what was missed for each key, drawn towards that of all by one more group.

    The last of (keys + 1,) is for what has no key.
    """
    whole = float(np.average(squares, weights=weights))
    group = float(weights.sum()) / max(keys, 1)
    place = which % (keys + 1)
    sums, counts = (np.bincount(place, of_row, keys + 1) for of_row in (weights * squares, weights))
    return np.append(((sums + group * whole) / (counts + group))[:keys], whole)


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
    return max(value for known, value in curve.items() if known <= share + 1e-9)
