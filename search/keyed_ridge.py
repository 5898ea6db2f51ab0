"""A weighted ridge regression with an effect of each key, as a whole and without any one of its groups.

Keys are one-hot features of which a row has at most one. Their block of the normal equations is diagonal and is
eliminated first (its Schur complement is solved), so that thousands of keys cost no more than the features beside them.
"""

from dataclasses import dataclass

import numpy as np

PENALTY_OF_FEATURE = 0.1
PENALTY_OF_KEY = 1.0
"""A key seen in few groups is believed less: with penalty 1 its mean counts as one more group that saw nothing."""
PENALTY_OF_CONSTANT = 1e-9


@dataclass(frozen=True, slots=True)
class Rows:
    """What is regressed on what.

    Attributes:
        features: float64 (rows, features), the last of them constant.
        keys: int64 (rows,), number of each row's key from 0 on; -1 where it has none.
    """

    features: np.ndarray
    keys: np.ndarray


@dataclass(frozen=True, slots=True)
class _Sums:
    """Sums over rows, of which the normal equations are made; (groups, …) or of all groups together.

    Attributes:
        squares: float64 (…, features, features).
        crosses: float64 (…, keys, features).
        counts: float64 (…, keys).
        products: float64 (…, features), of features and targets.
        totals: float64 (…, keys), of targets.
    """

    squares: np.ndarray
    crosses: np.ndarray
    counts: np.ndarray
    products: np.ndarray
    totals: np.ndarray

    def solve(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the coefficients of the features (…, features) and of the keys (…, keys)."""
        by_key = self.crosses / self.counts[..., None]
        reduced = self.squares - np.swapaxes(self.crosses, -1, -2) @ by_key
        right = self.products - (self.totals[..., None, :] @ by_key)[..., 0, :]
        of_features = np.linalg.solve(reduced, right[..., None])[..., 0]
        of_keys = (self.totals - (self.crosses @ of_features[..., None])[..., 0]) / self.counts
        return of_features, of_keys


class KeyedRidge:
    """The fit.

    Args:
        rows: of all groups.
        groups: int64 (rows,), number of each row's group, every one from 0 on.
        targets: float64 (rows,).
        weights: float64 (rows,); only their ratios matter.
        keys: how many there are.
    """

    def __init__(self, rows: Rows, groups: np.ndarray, targets: np.ndarray, weights: np.ndarray, *, keys: int):
        self._rows, self._groups = rows, groups
        weights = weights / weights.mean()
        self._each = _sums(rows, groups, targets, weights, keys)
        whole = _Sums(*(getattr(self._each, name).sum(axis=0) for name in _Sums.__slots__))
        penalty = np.full(rows.features.shape[1], PENALTY_OF_FEATURE)
        penalty[-1] = PENALTY_OF_CONSTANT
        self._whole = _Sums(
            whole.squares + np.diag(penalty),
            whole.crosses,
            whole.counts + PENALTY_OF_KEY,
            whole.products,
            whole.totals,
        )

    def foresee(self, rows: Rows) -> np.ndarray:
        """Return what all groups together say of other rows, (rows,)."""
        of_features, of_keys = self._whole.solve()
        found: np.ndarray = rows.features @ of_features + np.append(of_keys, 0.0)[rows.keys]
        return found

    def foresee_each_from_the_others(self) -> np.ndarray:
        """Return what the other groups say of each row of the fit, (rows,)."""
        others = _Sums(*(getattr(self._whole, name) - getattr(self._each, name) for name in _Sums.__slots__))
        of_features, of_keys = others.solve()
        of_keys = np.column_stack([of_keys, np.zeros(len(of_keys))])
        own = np.einsum("rf,rf->r", self._rows.features, of_features[self._groups])
        found: np.ndarray = own + of_keys[self._groups, self._rows.keys]
        return found


def _sums(rows: Rows, groups: np.ndarray, targets: np.ndarray, weights: np.ndarray, keys: int) -> _Sums:
    """Add up each group's rows; the rows without a key go into a last place that is cut off."""
    count, features = int(groups.max()) + 1, rows.features
    weighted = features * weights[:, None]
    products = weighted * targets[:, None]
    squares = np.zeros((count, features.shape[1], features.shape[1]))
    np.add.at(squares, groups, weighted[:, :, None] * features[:, None, :])
    of_group = np.zeros((count, features.shape[1]))
    np.add.at(of_group, groups, products)
    crosses = np.zeros((count, keys + 1, features.shape[1]))
    np.add.at(crosses, (groups, rows.keys), weighted)
    place = (groups * (keys + 1) + rows.keys % (keys + 1), count * (keys + 1))
    counts, totals = (
        np.bincount(place[0], of_row, place[1]).reshape(count, keys + 1)[:, :keys]
        for of_row in (weights, weights * targets)
    )
    return _Sums(squares, crosses[:, :keys], counts, of_group, totals)
