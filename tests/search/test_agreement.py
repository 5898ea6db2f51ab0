"""Whether groups rank alike the hyperparameters that they share, so that one may teach another by name."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from search.agreement import agreement, telling_keys
from search.replay import curves, run
from search.standings import Past, ended


def ranked(keys, *, stopped=0):
    """A group whose keys ended in this order, the best first; the last ones were stopped half-way."""
    whole = len(keys) - stopped
    return Past(
        [
            (key, {0.5: 0.5 - 0.01 * place, **({1.0: 0.9 - 0.1 * place} if place < whole else {})})
            for place, key in enumerate(keys)
        ]
    )


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([], 0.0),
        (["abc"], 0.0),
        (["abc", "def"], 0.0),
        (["abc", "abc"], 1.0),
        (["abc", "cba"], -1.0),
        (["abc", "abc", "cba"], -1 / 3),
        (["abcd", "abdc"], 0.8),
        (["abc", "abc", "xyz"], 1.0),
        (["a", "a"], 0.0),
    ],
)
def test_agreement_is_the_mean_rank_correlation_of_pairs(groups, expected):
    assert agreement([ranked(keys) for keys in groups]) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_with_the_same_keys_in_all_groups_it_is_that_of_scipy(seed):
    rng = np.random.default_rng(seed)
    orders = ["".join(rng.permutation(list("abcdefg"))) for _ in range(4)]
    places = [[order.index(key) for key in "abcdefg"] for order in orders]
    pairs = [spearmanr(places[i], places[j]).statistic for i in range(4) for j in range(i)]
    assert agreement([ranked(order) for order in orders]) == pytest.approx(np.mean(pairs))


def test_who_was_stopped_ranks_below_who_went_on():
    """The stopped stood 0.02 behind where they stopped, the finished end 0.1 behind the best."""
    assert agreement([ranked("abcd", stopped=2), ranked("abcd")]) == pytest.approx(1.0)


def test_a_trial_that_came_to_its_own_end_early_was_not_stopped():
    early = Past([("a", ended({0.5: 0.9})), ("b", {0.5: 0.4, 1.0: 0.7}), ("c", {0.5: 0.3})])
    assert agreement([early, ranked("abc")]) == pytest.approx(1.0)


def test_seeds_of_a_key_count_as_their_mean():
    """`b` came first, third and fourth of five: by its mean it lies behind `a`, which came second."""
    seeds = Past([(key, {1.0: value}) for key, value in (("b", 0.9), ("a", 0.8), ("b", 0.7), ("b", 0.6), ("c", 0.1))])
    assert agreement([seeds, ranked("abc")]) == pytest.approx(np.corrcoef([4, 10 / 3, 1], [3, 2, 1])[0, 1])


@pytest.mark.parametrize("stretched", [lambda value: 100 * value, lambda value: value**3])
def test_the_unit_of_the_metric_does_not_matter(stretched):
    def group(values, of=lambda value: value):
        return Past([(key, {1.0: of(value)}) for key, value in zip("abcd", values, strict=True)])

    one, other = (0.9, 0.7, 0.8, 0.1), (0.5, 0.6, 0.4, 0.3)
    assert agreement([group(one), group(other, stretched)]) == agreement([group(one), group(other)])


def test_only_keys_that_recur_tell_something_and_none_where_groups_disagree():
    assert telling_keys([ranked("abcx"), ranked("abcy")]) == frozenset("abc")
    assert telling_keys([ranked("abc"), ranked("bca"), ranked("cab")]) == frozenset()


@pytest.mark.parametrize(("groups", "trials"), [(30, 5), (12, 12), (30, 12), (8, 30)])
def test_numbered_trials_are_replayed_as_trials_with_names_of_their_own(groups, trials):
    """Numbers that each group begins anew recur and mean nothing: nothing is learned by them."""
    rng = np.random.default_rng(trials * groups)
    rows = []
    for g in range(groups):
        for t in range(trials):
            end, rise = rng.uniform(0.7, 0.8), rng.uniform(2, 8)
            values = end * (1 - np.exp(-np.arange(1, 17) / rise)) + rng.normal(0, 0.002, 16)
            rows += [(f"g{g}", f"{t:02}", epoch, value) for epoch, value in enumerate(values, 1)]
    numbered = pd.DataFrame(rows, columns=["group", "trial", "epoch", "value"])
    named = numbered.assign(trial=numbered["group"] + " " + numbered["trial"])
    asked = run.asked(["cell_race"])
    of_numbers, of_names = (
        next(run.replay(curves.of_table(table, name="t"), asked, seeds=1)).as_json() for table in (numbered, named)
    )
    assert of_numbers == of_names
