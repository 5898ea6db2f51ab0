"""Cost and regret of policies over recorded groups, with bootstrap intervals over the groups."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from search.replay.curves import Group, point_of
from search.replay.policies import Policy, full_grid

CLOSE = 0.005
ROUNDING = 1e-9
"""0.905 - 0.900 is more than 0.005 in floating point."""
REDRAWS = 1000


@dataclass(frozen=True, slots=True)
class Score:
    """How one policy did.

    Attributes:
        costs: float64 (groups,), share of the full grid's cost, mean over seeds.
        regrets: float64 (groups, seeds): what the full grid would have chosen minus what was chosen, each by its
            outcome (`Curve.worth`). Where that is another set than the one that chooses, it may be negative.
        epochs: rows trained in all, mean over seeds.
        unfinished: groups that were left without a finished run, mean over seeds.
    """

    pruner: str
    costs: np.ndarray
    regrets: np.ndarray
    epochs: float
    unfinished: float

    def as_json(self) -> dict[str, Any]:
        """Return the figures under their fixed names."""
        flat = self.regrets.ravel()
        low, high = self._interval()
        return {
            "pruner": self.pruner,
            "cost": float(self.costs.mean()),
            "epochs": self.epochs,
            "regret_mean": float(flat.mean()),
            "regret_mean_low": low,
            "regret_mean_high": high,
            # One of the values themselves: it must not depend on how often a policy without chance was repeated.
            "regret_p90": float(np.quantile(flat, 0.9, method="inverted_cdf")),
            "regret_worst": float(flat.max()),
            "within_0_005": float((flat <= CLOSE + ROUNDING).mean()),
            "unfinished_groups": self.unfinished,
        }

    def _interval(self) -> tuple[float, float]:
        means = self.regrets.mean(axis=1)
        drawn = np.random.default_rng(0).integers(len(means), size=(REDRAWS, len(means)))
        low, high = np.quantile(means[drawn].mean(axis=1), (0.025, 0.975))
        return float(low), float(high)


def score(name: str, policies: Mapping[str, Policy], groups: Mapping[str, Group], *, seeds: int) -> Score:
    """Replay every group under several orders of its trials.

    Args:
        name: of the row.
        policies: by group; a policy that learns from other groups must not have seen its own.
        groups: recorded curves.
        seeds: number of orders.
    """
    costs, regrets, epochs, unfinished = [], [], 0, 0
    for number, (group_name, group) in enumerate(groups.items()):
        whole = full_grid(group, np.random.default_rng(0)).cost
        paid, missed = [], []
        for seed in range(seeds):
            replayed = policies[group_name](group, np.random.default_rng([seed, number]))
            finished = replayed.finished(group)
            unfinished += not finished
            # Without a finished run one has to take the best of what was seen, at the value it would have ended with.
            chosen = _best(group, finished) if finished else _best_seen(group, replayed.rows)
            missed.append(_worth(group, _best(group, group)) - _worth(group, chosen))
            paid.append(replayed.cost / whole)
            epochs += sum(replayed.rows.values())
        costs.append(float(np.mean(paid)))
        regrets.append(missed)
    return Score(name, np.array(costs), np.array(regrets), epochs / seeds, unfinished / seeds)


def _best(group: Group, trials: Iterable[str]) -> str:
    """Choose a point as a study does: by the mean over its seeds, among those of which the most seeds finished."""
    seeds: dict[str, list[float]] = defaultdict(list)
    for trial in sorted(trials):
        seeds[point_of(group, trial)].append(group[trial].final)
    most = max(map(len, seeds.values()))
    return max((point for point, found in seeds.items() if len(found) == most), key=lambda point: fmean(seeds[point]))


def _best_seen(group: Group, rows: Mapping[str, int]) -> str:
    best = max(rows, key=lambda trial: group[trial].values[rows[trial] - 1])
    return point_of(group, best)


def _worth(group: Group, point: str) -> float:
    """Return what a choice of a point is judged by, the mean over all its seeds."""
    return fmean(curve.worth for trial, curve in group.items() if point_of(group, trial) == point)
