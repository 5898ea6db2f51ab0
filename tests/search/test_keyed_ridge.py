"""The regression behind `curve_endings`, against the same one written out with one-hot columns."""

import numpy as np
import pytest

from search.keyed_ridge import PENALTY_OF_CONSTANT, PENALTY_OF_FEATURE, PENALTY_OF_KEY, KeyedRidge, Rows


def _made_up(seed: int, *, keys: int, groups: int) -> tuple[Rows, np.ndarray, np.ndarray, np.ndarray]:
    """Draw rows of which some have no key, and keys of which some come twice in a group or never."""
    rng = np.random.default_rng(seed)
    of_group = np.repeat(np.arange(groups), rng.integers(2, 6, groups))
    features = np.column_stack([rng.normal(size=(len(of_group), 3)), np.ones(len(of_group))])
    rows = Rows(features, rng.integers(-1, keys, len(of_group)))
    return rows, of_group, rng.normal(size=len(of_group)), rng.uniform(0.1, 2, len(of_group))


def _written_out(rows: Rows, targets: np.ndarray, weights: np.ndarray, keys: int, asked: Rows) -> np.ndarray:
    def columns(of: Rows) -> np.ndarray:
        return np.column_stack([of.features, of.keys[:, None] == np.arange(keys)])

    seen, count = columns(rows), rows.features.shape[1]
    penalty = [PENALTY_OF_FEATURE] * (count - 1) + [PENALTY_OF_CONSTANT] + [PENALTY_OF_KEY] * keys
    squares = (seen * weights[:, None]).T @ seen + np.diag(penalty)
    found: np.ndarray = columns(asked) @ np.linalg.solve(squares, (seen * weights[:, None]).T @ targets)
    return found


@pytest.mark.parametrize(("seed", "keys", "groups"), [(0, 5, 4), (1, 1, 3), (2, 0, 5), (3, 40, 6)])
def test_it_foresees_as_the_regression_written_out(seed: int, keys: int, groups: int) -> None:
    rows, of_group, targets, weights = _made_up(seed, keys=keys, groups=groups)
    asked = _made_up(seed + 100, keys=keys, groups=2)[0]
    ridge = KeyedRidge(rows, of_group, targets, weights, keys=keys)
    weights = weights / weights.mean()
    np.testing.assert_allclose(ridge.foresee(asked), _written_out(rows, targets, weights, keys, asked), rtol=1e-7)
    found = ridge.foresee_each_from_the_others()
    for group in range(groups):
        own = of_group == group
        others = Rows(rows.features[~own], rows.keys[~own])
        left_out = Rows(rows.features[own], rows.keys[own])
        expected = _written_out(others, targets[~own], weights[~own], keys, left_out)
        np.testing.assert_allclose(found[own], expected, rtol=1e-7)
