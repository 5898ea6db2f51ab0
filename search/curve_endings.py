"""How curves end, learned from other groups: where a trial stands now, and what became of its like elsewhere.

What carries over between groups of the same study, or between data sets, is which hyperparameters do well in the
end and how far early differences shrink or grow. Groups differ in that, so the past is weighted: a group whose
trials stood as these do counts most. From the weighted past a ridge regression takes each trial from where it stands
to where it finishes. Every past group is also foreseen from the others alone: what that gets right is the share of a
foreseen move that is believed, and what it misses by is the doubt. Few groups, or groups unlike each other, therefore
teach little, and do not teach certainty. Where none stood at all as these do, nothing is foreseen.

Trials that differ in their seed alone count as one, their mean: where a group behaves otherwise, all of them do. All of
it is in units of each group's own spread or rise, because one group's AUROCs lie between 0.6 and 0.9 and another's
between 0.98 and 0.99, and because curves that have flattened do not overtake each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from search.agreement import telling_keys
from search.keyed_ridge import KeyedRidge, Rows
from search.standings import Keys, Past, Standings, Values, points_of_past, standings_of

LIKENESS = 0.5
"""Spreads by which the trials of two groups may stand apart before one teaches the other much less."""
FARTHEST = 4.0
"""Spreads behind the leader from where on it makes no difference to the likeness how far."""
MOST_BEHIND = 6.0
"""Units behind the leader from where on it makes no difference to the regression how far: in least squares one trial
that exploded in some other group would decide all else, or make its equations singular."""
NEIGHBOURHOOD, CLOSE = 0.5, 0.25
"""Doubt is read from trials that stood about as far behind: within half that distance and a little more."""
FEWEST_GROUPS = 3
LEAST_ALIKE = 0.3
"""Sum of the groups' likenesses, 1 for one that stood the same, from which on they teach."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Where live trials are expected to end, in units of the metric.

    Attributes:
        behind: float64 (trials,), distance to the best expected end, about 0 or less.
        doubts: float64 (trials,), standard deviation of each.
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
        self._past = [points_of_past(group, self._rungs) for group in past if group.curves]
        self._telling = telling_keys(past)

    def knows(self, keys: Sequence[str]) -> bool:
        """Say whether enough groups are over and had at least half of the keys, with much the same outcome."""
        return len(self._past) >= FEWEST_GROUPS and 2 * sum(key in self._telling for key in keys) >= len(keys)

    def expected(self, curves: Sequence[tuple[str, Values]], live: Sequence[bool], rung: int) -> Ends | None:
        """Return how far behind the best each live trial is expected to end, and how sure; None: no group was alike.

        Seeds have their mean in common.

        Args:
            curves: (key, curve) of all trials of the group, the stopped ones included.
            live: which of them are still in the race; their curves reach the rung.
            rung: which of the race's rungs it is.
        """
        begun = standings_of(curves, self._rungs, np.full(len(curves), np.nan))
        racing = begun.of([row for row, goes_on in enumerate(live) if goes_on])
        now, begun = racing.by_key(), begun.by_key()
        unit = now.unit(rung)
        keys = frozenset(now.keys)
        known = tuple(sorted(keys & self._telling))
        found = [(group, _lesson(group, keys, known, rung)) for group in self._past]
        lessons = [(group, lesson) for group, lesson in found if lesson is not None]
        if not lessons:
            return None
        then = np.array([lesson.gaps for _, lesson in lessons])
        apart = _apart(_gaps(now, keys, rung, unit), then)
        every = frozenset(begun.keys)
        at_first = np.array([_first_gaps(group, every) for group, _ in lessons])
        apart = (apart + _apart(_gaps(begun, every, 0, begun.spread(0)), at_first)) / 2
        alike = np.exp(-apart / (2 * LIKENESS**2))
        if alike.sum() < LEAST_ALIKE:
            return None
        groups = np.repeat(np.arange(len(lessons)), [len(lesson.moves) for _, lesson in lessons])
        weights = (alike + 1e-6)[groups]
        rows = Rows(*(np.concatenate([getattr(lesson.rows, of) for _, lesson in lessons]) for of in Rows.__slots__))
        moves = np.concatenate([lesson.moves for _, lesson in lessons])
        ridge = KeyedRidge(rows, groups, moves, weights, keys=len(known))
        foreseen = ridge.foresee_each_from_the_others()
        trust = _trust(foreseen, moves, weights)
        asked = _rows(now, rung, unit, known)
        doubts = _doubts((moves - trust * foreseen) ** 2, rows, weights, asked, keys=len(known))
        behind = _placed(now.behind(rung), unit) + trust * ridge.foresee(asked)
        place = {key: number for number, key in enumerate(now.keys)}
        of_trial = [place[key] for key in racing.keys]
        return Ends(unit * behind[of_trial], unit * doubts[of_trial])


@dataclass(frozen=True, slots=True, eq=False)
class _Lesson:
    """What a group that is over shows at a rung.

    Attributes:
        rows: of its trials, as the regression takes them.
        moves: float64 (trials,), how much nearer to the leader each ended, in units.
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
    moves = _placed(then.ends - then.ends.max(), unit) - _placed(then.behind(rung), unit)
    return _Lesson(_rows(then, rung, unit, known), moves, _gaps(then, keys, rung, unit))


def _rows(standings: Standings, rung: int, unit: float, known: Sequence[str]) -> Rows:
    """Return as features distance, distance beyond one unit, rise since about half the epochs, and a constant."""
    gap = _placed(standings.behind(rung), unit)
    rise = gap - _placed(standings.behind(standings.at_half(rung)), unit)
    rise -= np.median(rise)
    place = {key: number for number, key in enumerate(known)}
    keys = np.array([place.get(key, -1) for key in standings.keys])
    return Rows(np.column_stack([gap, np.minimum(gap + 1, 0), rise, np.ones(len(gap))]), keys)


def _placed(behind: np.ndarray, unit: float) -> np.ndarray:
    """Return how many units behind the leader trials stand, as far as that makes a difference."""
    placed: np.ndarray = np.maximum(behind / unit, -MOST_BEHIND)
    return placed


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
    nearby = np.empty(len(mine))
    for place, own in enumerate(mine.tolist()):  # one at a time: thousands of trials by their teachers fill a memory
        near = weights * np.exp(-(((own - theirs) / (NEIGHBOURHOOD * (CLOSE - own))) ** 2) / 2) + 1e-9
        nearby[place] = near @ squares / near.sum()
    doubts: np.ndarray = np.sqrt(nearby * of_keys[asked.keys] / max(of_keys[-1], 1e-12))
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
