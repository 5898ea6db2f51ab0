"""Which hyperparameters groups share, and whether they rank them alike: names that recur need not mean the same.

Trials that are numbered in each group share their names, and so do learning rates of different optimizers. What is
learned by name is of no use there.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache
from statistics import fmean, pstdev

import numpy as np
from scipy.stats import rankdata

from search.standings import Past, of_past

LEAST = 0.2
"""Mean rank correlation between groups from which on they teach by name. Where names mean something it was 0.32 to 0.98
in the tables at hand, with the names shuffled inside the groups -0.04 to 0.12."""


def telling_keys(past: Sequence[Past]) -> frozenset[str]:
    """Return the keys that more than one group had; none where the groups do not rank them alike."""
    if agreement(past) < LEAST:
        return frozenset()
    counts = Counter(key for group in past for key in {key for key, _ in group.curves})
    return frozenset(key for key, count in counts.items() if count > 1)


def agreement(past: Sequence[Past]) -> float:
    """Return the mean of Spearman's correlation over pairs of groups; 0 where none share a key.

    Each pair counts by the number of keys that it shares, whose ranks are those of the whole groups. With the same keys
    in all of m groups it is (m W - 1) / (m - 1), W being Kendall's coefficient of concordance (1948).
    """
    sums, squares, counts = (defaultdict[str, float](float) for _ in range(3))
    for group in past:
        for key, place in _places(group).items():
            sums[key] += place
            squares[key] += place**2
            counts[key] += 1
    together = sum(sums[key] ** 2 - squares[key] for key in counts)
    pairs = sum(count * (count - 1) for count in counts.values())
    return together / pairs if pairs else 0.0


@lru_cache(maxsize=4096)  # a replay asks the same groups once for every other group
def _places(group: Past) -> dict[str, float]:
    """Return each key's rank in a group, with mean 0 and variance 1 over the keys; a key of several trials its mean.

    Who went on longer ranks higher, and of those that went as far who was less behind there.
    """
    if not group.curves:
        return {}
    reached = [max(curve) for _, curve in group.curves]
    order = np.unique(np.column_stack([reached, of_past(group, (1.0,)).ends]), axis=0, return_inverse=True)[1]
    of_key: dict[str, list[float]] = defaultdict(list)
    for (key, _), rank in zip(group.curves, rankdata(order).tolist(), strict=True):
        of_key[key].append(rank)
    means = {key: fmean(ranks) for key, ranks in of_key.items()}
    middle, deviation = fmean(means.values()), pstdev(means.values())
    return {key: (mean - middle) / deviation if deviation else 0.0 for key, mean in means.items()}
