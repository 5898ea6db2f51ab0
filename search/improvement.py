"""What a trial is expected to add to others, where each one's end is a normal variable."""

import math
from collections.abc import Sequence
from statistics import NormalDist


def expected_improvement(ahead: float, doubt: float) -> float:
    """Return the expected value of what lies above 0 of a normal variable (Jones et al. 1998, eq. 15).

    Args:
        ahead: its mean.
        doubt: its standard deviation; infinite where nothing is known, and then so is the improvement.
    """
    if not 0 < doubt < math.inf:
        return max(ahead, 0.0) if doubt == 0 else math.inf
    normal = NormalDist()
    return doubt * normal.pdf(ahead / doubt) + ahead * normal.cdf(ahead / doubt)


def improvements(ends: Sequence[tuple[float, float]], quota: int, least: float) -> list[float]:
    """Return what each of a group is expected to improve on the best of those ahead of it that go on.

    Args:
        ends: mean and standard deviation of each one's end, the leader first, whose improvement is infinite.
        quota: how many may go on.
        least: improvement below which one does not.
    """
    (best, deviation), *others = ends
    found = [math.inf]
    for place, (mean, doubt) in enumerate(others, 2):
        found.append(expected_improvement(mean - best, math.hypot(deviation, doubt)))
        if place <= quota and least <= found[-1] < math.inf:
            best, deviation = larger(best, deviation, mean, doubt)
    return found


def larger(first: float, its_deviation: float, second: float, other_deviation: float) -> tuple[float, float]:
    """Return mean and standard deviation of the larger of two independent normal variables (Clark 1961, eq. 2, 3)."""
    apart = math.hypot(its_deviation, other_deviation)
    if apart == 0:
        return max(first, second), 0.0
    alpha, normal = (first - second) / apart, NormalDist()
    chance, otherwise, density = normal.cdf(alpha), normal.cdf(-alpha), apart * normal.pdf(alpha)
    mean = first * chance + second * otherwise + density
    squares = (first**2 + its_deviation**2) * chance + (second**2 + other_deviation**2) * otherwise
    return mean, math.sqrt(max(squares + (first + second) * density - mean**2, 0.0))
