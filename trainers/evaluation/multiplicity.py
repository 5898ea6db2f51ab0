"""p-values of a family of tests, adjusted for being many."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

Correction = Literal["benjamini_hochberg", "holm", "none"]


def adjust(p_values: Sequence[float | None], method: Correction = "benjamini_hochberg") -> list[float | None]:
    """Return adjusted p-values in the given order.

    Args:
        p_values: of the family actually tested; None (not testable) stays None and is not counted.
        method: "benjamini_hochberg" bounds the false discovery rate (J. R. Stat. Soc. B 57:289, 1995), "holm" the
            family-wise error (Scand. J. Stat. 6:65, 1979).

    Raises:
        ValueError: a value outside [0, 1].
    """
    tested = [index for index, p in enumerate(p_values) if p is not None]
    values = np.array([p_values[index] for index in tested], dtype=np.float64)
    if ((values < 0) | (values > 1)).any() or np.isnan(values).any():
        raise ValueError("p-values must lie between 0 and 1")
    adjusted: list[float | None] = [None] * len(p_values)
    for index, value in zip(tested, _adjusted(values, method), strict=True):
        adjusted[index] = float(value)
    return adjusted


def _adjusted(values: np.ndarray, method: Correction) -> np.ndarray:
    count = len(values)
    if method == "none" or count == 0:
        return values
    order = np.argsort(values, kind="stable")
    ranks = np.arange(1, count + 1)
    if method == "holm":
        stepped = np.maximum.accumulate(values[order] * (count - ranks + 1))
    else:
        stepped = np.minimum.accumulate((values[order] * count / ranks)[::-1])[::-1]
    result = np.empty(count)
    result[order] = np.minimum(stepped, 1)
    return result
