"""How curves end, learned from other groups: a ridge regression from where a trial stands to where it finishes.

What carries over between groups of the same study, or between data sets, is which hyperparameters do well in the
end and how far early differences shrink or grow. It is learned in units of each group's own spread, because one
group's AUROCs lie between 0.6 and 0.9 and another's between 0.98 and 0.99.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Values = Mapping[float, float]
"""A curve: value (larger is better) by the share of the epochs that were trained."""

SMALLEST_SPREAD = 1e-3
"""Below this, differences between trials are noise, in units of the metric."""
PENALTY_OF_SHAPE = 0.1
PENALTY_OF_KEY = 1.0
"""A key seen in few groups is believed less: with penalty 1 its mean counts as one more group that saw nothing."""
FEWEST_GROUPS = 3


@dataclass(frozen=True, slots=True)
class Past:
    """A group that is over; a curve that stops before share 1 was pruned there.

    Attributes:
        curves: (key, curve) of each trial; the key names hyperparameters that recur in other groups, and several
            trials (seeds) may have the same.
    """

    curves: Sequence[tuple[str, Values]]


@dataclass(frozen=True, slots=True)
class Endings:
    """A fitted regression for one rung.

    Attributes:
        keys: hyperparameters that were seen before.
        weights: of the features, then of the keys, then the constant.
    """

    keys: tuple[str, ...]
    weights: np.ndarray

    def knows(self, keys: Sequence[str]) -> bool:
        """Say whether at least half of the keys were seen before; else there is little to carry over."""
        return 2 * sum(key in self.keys for key in keys) >= len(keys)

    def expected(self, curves: Sequence[tuple[str, Values]], rung: float) -> list[float]:
        """Return each trial's expected distance to the group's best end, larger is better.

        Args:
            curves: (key, curve) of the live trials, at least up to the rung.
            rung: share of the epochs that they have trained.
        """
        matrix, spread, standing = _features(curves, rung, self.keys)
        moved = spread * (np.column_stack([matrix, np.ones(len(matrix))]) @ self.weights)
        return [float(end) for end in standing + moved]


def learn(past: Sequence[Past], rung: float) -> Endings | None:
    """Fit the regression for a rung; None if too few groups have finished.

    Args:
        past: groups of finished trials.
        rung: share of the epochs.
    """
    if len(past) < FEWEST_GROUPS:
        return None
    counts: dict[str, int] = {}
    for group in past:
        for key in {key for key, _ in group.curves}:
            counts[key] = counts.get(key, 0) + 1
    keys = tuple(sorted(key for key, count in counts.items() if count > 1))
    rows, ends = [], []
    for group in past:
        reached = [(key, curve) for key, curve in group.curves if max(curve) >= rung - 1e-9]
        if not reached:
            continue
        matrix, spread, standing = _features(reached, rung, keys)
        rows.append(matrix)
        ends.append((_behind_at_the_end([curve for _, curve in reached]) - standing) / spread)
    if not rows:
        return None
    design = np.vstack(rows)
    design = np.column_stack([design, np.ones(len(design))])
    shape = design.shape[1] - 1 - len(keys)
    penalty = np.diag([PENALTY_OF_SHAPE] * shape + [PENALTY_OF_KEY] * len(keys) + [1e-9])
    weights = np.linalg.solve(design.T @ design + penalty, design.T @ np.concatenate(ends))
    return Endings(keys, weights)


def _behind_at_the_end(curves: Sequence[Values]) -> np.ndarray:
    """Return how far behind the leader each curve was at its own end, which for a pruned one is where it stopped."""
    return np.array([_at(curve, max(curve)) - max(_at(other, max(curve)) for other in curves) for curve in curves])


def _features(
    curves: Sequence[tuple[str, Values]], rung: float, keys: Sequence[str]
) -> tuple[np.ndarray, float, np.ndarray]:
    """Return the features (trials, features), the group's spread, and each trial's distance to the leader."""
    now = np.array([_at(curve, rung) for _, curve in curves])
    before = np.array([_at(curve, rung / 2) for _, curve in curves])
    standing = now - now.max()
    spread = max(float(now.max() - np.median(now)), SMALLEST_SPREAD)
    gap = standing / spread
    rise = (now - before - np.median(now - before)) / spread
    seen = np.array([[key == known for known in keys] for key, _ in curves], dtype=float).reshape(
        len(curves), len(keys)
    )
    return np.column_stack([gap, np.minimum(gap + 1, 0), rise, seen]), spread, standing


def _at(curve: Values, share: float) -> float:
    """Return the last value at or before a share of the epochs, the first one if there is none."""
    reached = [known for known in curve if known <= share + 1e-9]
    return curve[max(reached, default=min(curve))]
