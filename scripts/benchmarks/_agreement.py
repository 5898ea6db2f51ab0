"""Whether both sides gave the same result. Asked outside the clock; a benchmark whose sides differ has no row."""

import numpy as np
from numpy.typing import ArrayLike

GREY_LEVELS = 1.0
"""Largest mean absolute difference of two squares, of 255 levels.

Our rounding alone makes 0.25; reduced wavelets or an average taken in another order make 0.5. The same film one pixel
lower makes 1.5, another film of the same kind 5 and more, a black one 130.
"""


def check_equal(what: str, ours: ArrayLike, peer: ArrayLike) -> None:
    """Refuse what is not equal to the bit.

    Raises:
        RuntimeError: it differs.
    """
    if not np.array_equal(ours, peer):
        raise RuntimeError(f"{what}: ours is not the peer's")


def check_grey_levels(what: str, ours: ArrayLike, peer: ArrayLike) -> None:
    """Refuse squares (R, R) of grey levels 0–255 that differ by more than `GREY_LEVELS`.

    Raises:
        RuntimeError: they do, or their shapes do.
    """
    if np.shape(ours) != np.shape(peer):
        raise RuntimeError(f"{what}: ours has the shape {np.shape(ours)}, the peer's {np.shape(peer)}")
    difference = float(np.abs(np.asarray(ours, np.float64) - np.asarray(peer, np.float64)).mean())
    if not difference <= GREY_LEVELS:  # also if it is not a number
        raise RuntimeError(f"{what}: {difference:.2f} grey levels of 255 apart, at most {GREY_LEVELS} are allowed")


def stretched(image: np.ndarray) -> np.ndarray:
    """Return an image of any scale as our preprocessing "standard" shows it: 0.5th to 99.5th percentile as 0–255."""
    low, high = np.percentile(image, (0.5, 99.5))
    return np.asarray(np.clip((image - low) * (255.0 / (high - low)), 0, 255))
