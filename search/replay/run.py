"""The replay of a table: the asked pruners, and what they have to beat, side by side."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import yaml

from search.errors import StudyError
from search.replay import policies
from search.replay.curves import Group, by_cost, longest, point_of
from search.replay.policies import Policy
from search.replay.scores import Score, score
from search.standings import Past, ended
from search.study_sections import with_numbers

OPTUNAS: Mapping[str, Mapping[str, Any]] = {
    "median": {"n_startup_trials": 1},
    "successive_halving": {},
    "hyperband": {"max_resource": "auto"},
}
"""Optuna's pruners that stand beside every replay, and what is set otherwise than by our default."""
CLASS_NAMES = {"MedianPruner": "median", "HyperbandPruner": "hyperband"}
"""A pruner under its class's name is the same pruner."""
FIRST_SHARES = (0.05, 0.1, 0.2)
MOST_TEACHERS = 200
"""Of more groups so many teach all others: what a thousand would teach is the same, and takes five times as long."""


Asked = Mapping[str, tuple[str, Mapping[str, Any]]]
"""Name and settings of pruners, by what their rows are called."""


def asked(texts: Sequence[str]) -> Asked:
    """Read pruners and their settings, e.g. `median` or `median: {n_startup_trials: 3}`.

    Returns:
        By name; by the whole text where a pruner is asked for several times.

    Raises:
        StudyError: one is neither a name nor a name with settings.
    """
    read = {text: _name_and_settings(text) for text in texts}
    times = Counter(name for name, _ in read.values())
    return {name if times[name] == 1 else text: (name, settings) for text, (name, settings) in read.items()}


def _name_and_settings(text: str) -> tuple[str, Mapping[str, Any]]:
    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError:
        read = None
    if isinstance(read, str):
        return read, OPTUNAS.get(CLASS_NAMES.get(read, read), {})
    if isinstance(read, dict) and len(read) == 1:
        ((name, settings),) = read.items()
        if isinstance(name, str) and isinstance(settings, dict):
            return name, with_numbers(settings)
    raise StudyError(f'--pruner {text}: expected a name, or "NAME: {{SETTING: VALUE}}"')


def replay(
    groups: Mapping[str, Group],
    asked: Asked,
    *,
    seeds: int,
    carry: bool = True,
    judged: Collection[str] | None = None,
) -> Iterator[Score]:
    """Replay pruners and comparators; the comparators that take a budget get what the first asked pruner spent.

    Args:
        groups: recorded curves by comparison group.
        asked: pruners, see there.
        seeds: number of orders of the trials.
        carry: whether a pruner may learn from the other groups; never from one that shares a curve with its own.
        judged: groups that are replayed, the others only teach; None: all.
    """
    past = _past(groups) if carry else {}
    holding = {name: frozenset(id(curve) for curve in group.values()) for name, group in groups.items()}
    groups = {name: groups[name] for name in groups if judged is None or name in judged}
    budget = None
    for label, (name, settings) in asked.items():
        # Groups drawn from one table may have a curve in common, and would know its end.
        own = {
            group: policies.pruned(
                name, settings, [past[other] for other in past if holding[group].isdisjoint(holding[other])]
            )
            for group in groups
        }
        found = score(label, own, groups, seeds=_seeds(name, seeds))
        budget = float(found.costs.mean()) if budget is None else budget
        yield found
    for name, policy in _comparators(0.5 if budget is None else budget).items():
        if name not in asked:
            yield score(name, dict.fromkeys(groups, policy), groups, seeds=1 if name == "full_grid" else seeds)


def line(score: Score) -> str:
    """Write a score as one line of a table."""
    found = score.as_json()
    return (
        f"{found['pruner']:36} cost {found['cost']:6.1%}  regret {found['regret_mean']:.4f} "
        f"({found['regret_mean_low']:.4f}-{found['regret_mean_high']:.4f})  p90 {found['regret_p90']:.4f}  "
        f"worst {found['regret_worst']:.4f}  within 0.005 {found['within_0_005']:4.0%}  "
        f"unfinished {found['unfinished_groups']:g}"
    )


def _comparators(budget: float) -> dict[str, Policy]:
    comparators: dict[str, Policy] = {"full_grid": policies.full_grid}
    comparators["random_equal_cost"] = policies.random_subset(budget)
    for share in FIRST_SHARES:
        if share < budget:
            comparators[f"one_shot_top_k_after_{share:.0%}_equal_cost"] = policies.one_shot(budget, first=share)
    comparators |= {name: policies.pruned(name, settings) for name, settings in OPTUNAS.items()}
    comparators["asha"] = policies.asha()
    return comparators


def _seeds(name: str, seeds: int) -> int:
    """Return 1 for a pruner that decides at rungs: the order of the trials changes nothing."""
    return 1 if name in {"cell_race", "none"} else seeds


def _past(groups: Mapping[str, Group]) -> dict[str, Past]:
    """Return what the groups teach; of many, some that are drawn always alike."""
    names = list(groups)
    if len(names) > MOST_TEACHERS:
        names = np.random.default_rng(0).choice(names, MOST_TEACHERS, replace=False).tolist()
    return {name: _of_group(groups[name]) for name in names}


def _of_group(group: Group) -> Past:
    group = by_cost(group)
    epochs = longest(group)
    return Past(
        [
            (
                point_of(group, trial),
                ended(dict(zip((curve.epochs / epochs).tolist(), curve.values.tolist(), strict=True))),
            )
            for trial, curve in group.items()
        ],
        by_best=any(curve.best is not None for curve in group.values()),
    )


def equal_groups(groups: Mapping[str, Group], *, size: int, draws: int, seed: int) -> dict[str, Group]:
    """Draw groups of a fixed size from larger ones, to see what a pruner does to small cells."""
    rng = np.random.default_rng(seed)
    drawn: dict[str, Group] = {}
    for name, group in groups.items():
        for number in range(draws if len(group) >= size else 0):
            chosen: Sequence[str] = sorted(map(str, rng.choice(sorted(group), size=size, replace=False)))
            drawn[f"{name} {number}"] = {trial: group[trial] for trial in chosen}
    return drawn
