"""What each way of searching would have trained of a recorded group, and what it would have chosen.

The pruners are the real ones, asked through the same `ComparisonGroup` that a live search uses, and told the values as
they were recorded: some have bounds. A policy sees a curve only as far as it has paid for it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from search import pruners
from search.pruning import ComparisonGroup
from search.replay.curves import Curve, Group, by_cost, longest, point_of
from search.standings import Past
from trainers.trial import TrialState


@dataclass(frozen=True, slots=True)
class Replayed:
    """What was trained of a group.

    Attributes:
        rows: rows of each trial's curve that were seen.
        cost: of those rows.
    """

    rows: Mapping[str, int]
    cost: float

    def finished(self, group: Group) -> list[str]:
        """Return the trials that trained to their end."""
        return [trial for trial, rows in self.rows.items() if rows == len(group[trial].values)]


Policy = Callable[[Group, np.random.Generator], Replayed]
"""Carries one group out; the generator orders the trials and makes the policy's own draws."""


def full_grid(group: Group, _: np.random.Generator) -> Replayed:
    """Train everything to its end."""
    return _paid(group, {trial: len(curve.values) for trial, curve in group.items()})


def random_subset(share: float) -> Policy:
    """Train so many randomly chosen trials in full that they cost `share` of the grid."""

    def policy(group: Group, rng: np.random.Generator) -> Replayed:
        exact = max(1.0, share * len(group))
        count = int(exact) + int(rng.random() < exact - int(exact))
        chosen = set(rng.permutation(sorted(group))[: min(count, len(group))])
        return _paid(group, {trial: len(group[trial].values) for trial in chosen})

    return policy


def one_shot(share: float, *, first: float) -> Policy:
    """Train all for the `first` share of the epochs, then the top k in full, k so that all costs `share`.

    Egele et al., arXiv 2307.15422: a baseline that multi-fidelity methods often fail to beat.
    """

    def policy(group: Group, _: np.random.Generator) -> Replayed:
        epochs = longest(group)
        rows = {trial: max(1, curve.rows_until(int(np.ceil(first * epochs)))) for trial, curve in group.items()}
        first_look = dict(rows)
        budget = share * full_grid(group, _).cost
        order = sorted(group, key=lambda trial: (-group[trial].values[rows[trial] - 1], trial))
        for place, trial in enumerate(order):
            more = {**rows, trial: len(group[trial].values)}
            both = {trial: sorted({first_look[trial], seen}) for trial, seen in more.items()}
            if place > 0 and _paid(group, more, both).cost > budget:
                break
            rows = more
        return _paid(group, rows, {trial: sorted({first_look[trial], seen}) for trial, seen in rows.items()})

    return policy


def pruned(name: str, settings: Mapping[str, Any], past: Sequence[Past] = ()) -> Policy:
    """Ask a pruner of ours or Optuna's."""

    def policy(group: Group, rng: np.random.Generator) -> Replayed:
        group = by_cost(group) if pruners.learns(name) else group
        restarts = any(curve.restarts for curve in group.values())
        points = {point_of(group, trial) for trial in group}
        known = {"past": _alike(past, points), "restarts": restarts, "trials": len(points)}
        pruner = pruners.create(name, settings, epochs=longest(group), known=known)
        smaller = any(curve.sign < 0 for curve in group.values())
        compared = ComparisonGroup(pruner, "minimize" if smaller else "maximize", {})
        return _synchronous(group, compared) if compared.rungs else _one_by_one(group, compared, rng)

    return policy


def _alike(past: Sequence[Past], points: Collection[str]) -> list[Past]:
    """Take the groups that had at least half of a group's points; the others know nothing of how those end."""
    own = set(points)
    return [other for other in past if 2 * len(own & {key for key, _ in other.curves}) >= len(own)]


def asha(reduction: int = 4, grace: int = 1) -> Policy:
    """Ray's ASHA rule: at milestones, stop unless among the top 1/reduction of those that were there before."""

    def policy(group: Group, rng: np.random.Generator) -> Replayed:
        epochs = longest(group)
        milestones = []
        milestone = grace
        while milestone < epochs:
            milestones.append(milestone)
            milestone *= reduction
        seen: dict[int, list[float]] = {milestone: [] for milestone in milestones}
        looks = {}
        for trial in rng.permutation(sorted(group)):
            looks[str(trial)] = _asha_looks(group[trial], milestones, seen, reduction)
        return _paid(group, {trial: rows[-1] for trial, rows in looks.items()}, looks)

    return policy


def _asha_looks(curve: Curve, milestones: Sequence[int], seen: dict[int, list[float]], reduction: int) -> list[int]:
    """Return the rows at which a trial is looked at, the last one where it stops or ends."""
    looks: list[int] = []
    for milestone in milestones:
        rows = curve.rows_until(milestone)
        if rows in (0, len(curve.values)):
            continue
        value = float(curve.values[rows - 1])
        recorded = seen[milestone]
        cutoff = np.nanpercentile(recorded, (1 - 1 / reduction) * 100) if recorded else -np.inf
        recorded.append(value)
        if rows not in looks:
            looks.append(rows)
        if value < cutoff:
            return looks
    return [*looks, len(curve.values)]


def _one_by_one(group: Group, compared: ComparisonGroup, rng: np.random.Generator) -> Replayed:
    rows: dict[str, int] = {}
    order = list(map(str, rng.permutation(sorted(group))))
    finished = False
    for trial in order:
        _enter(compared, group, trial)
        curve = group[trial]
        for row, (epoch, value) in enumerate(zip(curve.epochs.tolist(), curve.values.tolist(), strict=True), 1):
            compared.report(trial, epoch, curve.sign * value)
            rows[trial] = row
            last = trial == order[-1] and not finished  # the last live trial of a cell is never stopped
            if row < len(curve.values) and compared.decide(trial).stops and not last:
                break
        finished |= rows[trial] == len(curve.values)
        _tell(compared, trial, curve, rows[trial])
    return _paid(group, rows, {trial: range(1, seen + 1) for trial, seen in rows.items()})


def _synchronous(group: Group, compared: ComparisonGroup) -> Replayed:
    rows = dict.fromkeys(sorted(group), 0)
    looks: dict[str, list[int]] = {trial: [] for trial in rows}
    for trial in rows:
        _enter(compared, group, trial)
    live = list(rows)
    for rung in (*compared.rungs, longest(group)):
        if len(live) == 1 and rung in compared.rungs:
            continue  # nothing is left to decide, and where every row is a training of its own a look costs one
        for trial in live:
            _train_until(group[trial], compared, trial, rows, rung)
            if rows[trial] not in looks[trial]:
                looks[trial].append(rows[trial])
        running = [trial for trial in live if rows[trial] < len(group[trial].values)]
        ended = [trial for trial in live if trial not in running]
        if rung in compared.rungs:
            stops = {trial: compared.decide(trial).stops for trial in running}
            if not ended and all(stops.values()):
                stops[running[0]] = False  # the last live trial of a cell is never stopped
            live = ended + [trial for trial in running if not stops[trial]]
            for trial in set(running) - set(live):
                _tell(compared, trial, group[trial], rows[trial])
    return _paid(group, rows, looks)


def _enter(compared: ComparisonGroup, group: Group, trial: str) -> None:
    # As one of a thousand choices Optuna would hold each point against all others.
    compared.add(trial, {}, point=point_of(group, trial))


def _train_until(curve: Curve, compared: ComparisonGroup, trial: str, rows: dict[str, int], rung: int) -> None:
    until = curve.rows_until(rung)
    # Where every row is a training of its own, those that are not paid for are not seen either.
    for row in range(max(rows[trial], until - 1) if curve.restarts else rows[trial], until):
        compared.report(trial, int(curve.epochs[row]), curve.sign * float(curve.values[row]))
    if until and int(curve.epochs[until - 1]) != rung and until < len(curve.values):
        # No row just there: the last one stands for it.
        compared.report(trial, rung, curve.sign * float(curve.values[until - 1]))
    rows[trial] = max(until, rows[trial])


def _tell(compared: ComparisonGroup, trial: str, curve: Curve, rows: int) -> None:
    ended = rows == len(curve.values)
    value = curve.sign * curve.final if ended else None
    compared.tell(trial, TrialState.COMPLETE if ended else TrialState.PRUNED, value)


def _paid(group: Group, rows: Mapping[str, int], looks: Mapping[str, Sequence[int]] | None = None) -> Replayed:
    """Add up what was trained.

    Args:
        group: recorded curves.
        rows: of each trial that were seen.
        looks: rows at which a trial was looked at; None: at its last one only. Only where every look is a training
            of its own does it matter how many there were.
    """
    cost = 0.0
    for trial, seen in rows.items():
        curve = group[trial]
        if not curve.restarts:
            cost += float(curve.costs[:seen].sum())
        else:
            cost += float(sum(curve.costs[look - 1] for look in (looks[trial] if looks else [seen]) if look))
    return Replayed(dict(rows), cost)
