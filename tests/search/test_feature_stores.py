import random

import pytest

from search import grid
from search.feature_stores import store_of
from search.study_config import StudyConfig
from search.study_sections import Budget, Pruning
from tests.search.recorded import PRIMARY, Search
from trainers.trial import EpochMetrics, TrialResult, TrialState

NONE = Pruning(pruner="none")
FLAT = {trial: [0.5, 0.5] for trial in "abcd"}
ONE = dict.fromkeys("abc", "one")
"""a, b and c read the same features; d reads images."""


def search_on(stores=ONE, curves=FLAT, **more):
    return Search(curves, pruning=NONE, stores=stores, **more)


def starts(search, slots):
    """Start what may start in so many slots."""
    found = []
    while len(found) < slots and (assignment := search.schedule.next()) is not None:
        found.append(assignment.trial)
    return found


def told(epoch, *, at=None):
    return EpochMetrics(epoch=epoch, timestamp_ms=epoch if at is None else at, metrics={PRIMARY: 0.5})


def paused(epochs):
    return TrialResult(
        state=TrialState.PAUSED, epochs=epochs, best_epoch=1, best_value=0.5, checkpoint="last", checkpoint_sha256="0"
    )


def test_one_trial_computes_features_while_those_that_read_the_same_wait_without_a_slot():
    search = search_on()
    first, *others = starts(search, 4)
    assert others == ["d"]
    assert search.schedule.epoch(first, told(1))
    assert {first, *starts(search, 4)} == {"a", "b", "c"}


def test_trials_on_other_features_do_not_wait():
    stores = {"a": "one", "b": "one", "c": "two", "d": "two"}
    assert sorted(stores[trial] for trial in starts(search_on(stores), 4)) == ["one", "two"]


@pytest.mark.parametrize(
    "leave",
    [
        lambda schedule, trial: schedule.failed(trial, "bug", "a reason"),
        lambda schedule, trial: schedule.interrupted(trial, "node_lost", "gone"),
        lambda schedule, trial: schedule.interrupted(trial, "out_of_memory", "too large"),
        lambda schedule, trial: schedule.released(trial),
    ],
)
def test_where_the_one_that_computes_goes_without_having_trained_one_other_takes_its_place(leave):
    search = search_on()
    first, _ = starts(search, 4)
    leave(search.schedule, first)
    second = starts(search, 4)
    assert len(second) == 1 and second[0] in "abc"
    search.schedule.epoch(second[0], told(1))
    assert len(starts(search, 4)) == (1 if search.state.trials[first].done else 2)


def test_features_are_there_once_a_trial_came_to_its_end_also_if_it_told_no_epoch_anew():
    """One that goes on from a checkpoint at its last told epoch."""
    search = search_on()
    first, _ = starts(search, 4)
    search.schedule.ended(first, paused(1))
    assert set(starts(search, 4)) == {"a", "b", "c"}


def test_a_trial_interrupted_after_it_trained_lets_nobody_wait_again():
    search = search_on()
    first, _ = starts(search, 4)
    search.schedule.epoch(first, told(1))
    search.schedule.interrupted(first, "node_lost", "gone")
    assert set(starts(search, 4)) == {"a", "b", "c"}


@pytest.mark.parametrize("slots", [1, 2, 3, 8])
@pytest.mark.parametrize("seed", range(5))
def test_stores_change_when_a_trial_starts_and_never_what_comes_of_it(slots, seed):
    """With races, lost nodes and two cells on one store: the same ends and epochs as on images."""
    draw = random.Random(seed)
    curves = {name: [round(draw.random(), 3) for _ in range(6)] for name in "abcdefgh"}
    cells = dict.fromkeys("efgh", "two")
    found = []
    for stores in ({}, dict.fromkeys("abcdefg", "one")):
        chance = random.Random(seed)
        search = Search(curves, cells=cells, stores=stores)
        search.run(slots=slots, order=random.Random(seed).choice, loses=lambda: chance.random() < 0.05)  # noqa: B023
        found.append((search.ends(), {t: sorted(p.epochs) for t, p in search.state.trials.items()}))
    assert found[0] == found[1]


def spent(search, seconds):
    """Carry a search out one trial at a time, each epoch in its seconds; return the ends."""
    while (assignment := search.schedule.next()) is not None:
        trial, goes_on = assignment.trial, True
        for epoch in range(assignment.told_epochs + 1, assignment.until_epoch + 1):
            search.clock.now += 1000 * seconds(trial)
            goes_on = goes_on and search.schedule.epoch(trial, told(epoch, at=search.clock()))
        search.schedule.ended(trial, search._result(trial, assignment.until_epoch))
    return {trial: progress.outcome for trial, progress in search.state.trials.items()}


NEIGHBOURS = [f"knn{n}" for n in range(12)]
ON_FEATURES = {trial: [0.5] for trial in NEIGHBOURS}


def test_a_budget_foresees_that_features_are_computed_once():
    """The encoder takes half of the budget; one trial after the other on its features takes a second."""
    computed = []

    def seconds(trial):
        computed.append(trial)
        return 900 if len(computed) == 1 else 1

    search = search_on(dict.fromkeys(NEIGHBOURS, "one"), ON_FEATURES, gpus=1.0, budget=Budget(gpu_hours=0.5))
    assert set(spent(search, seconds).values()) == {"COMPLETE"}


def test_a_budget_foresees_one_computation_beside_trials_on_images():
    """An epoch of fine-tuning is timed; of those on features none is, and each is said to cost as much as an epoch."""
    curves = {"images": [0.5] * 3} | ON_FEATURES
    cells, stores = {"images": "fine-tuning"}, dict.fromkeys(NEIGHBOURS, "one")
    search = search_on(stores, curves, cells=cells, gpus=1.0, budget=Budget(gpu_hours=0.5))
    assert len(starts(search, 13)) == 2
    for epoch in (1, 2):
        search.clock.now += 200_000
        assert search.schedule.epoch("images", told(epoch, at=search.clock()))
    assert {progress.outcome for progress in search.state.trials.values()} == {"UNFINISHED"}


def test_a_budget_takes_what_an_encoder_took_for_what_others_will_take_where_none_share():
    stores = {trial: trial for trial in NEIGHBOURS}
    search = search_on(stores, ON_FEATURES, gpus=1.0, budget=Budget(gpu_hours=0.5))
    assert "DROPPED" in spent(search, lambda _: 300).values()


def configurations(**axes):
    document = {
        "name": "stores",
        "axes": {"dataset": ["phantom"], "initialization": ["random"], "backbone": ["vit_base"], "resolution": [224]}
        | axes,
        "search": {"learning_rate": [1e-3, 1e-2]},
        "seeds": [0, 1],
        "recipe": {"name": "paper", "epochs": 2},
        "pruning": {"pruner": "none"},
    }
    return [trial.config for trial in grid.expand(StudyConfig.model_validate(document)).trials]


@pytest.mark.parametrize(
    ("axes", "stores"),
    [
        ({"adaptation": ["finetune"]}, 0),
        ({"adaptation": ["probe"], "initialization": ["imagenet"]}, 1),
        ({"adaptation": ["probe", "knn", "probe_mlp"], "initialization": ["imagenet"]}, 1),
        ({"adaptation": ["probe"], "initialization": ["random"]}, 2),
        ({"adaptation": ["probe"], "initialization": ["imagenet", "dinov2"]}, 2),
        ({"adaptation": ["probe"], "initialization": ["imagenet"], "resolution": [224, 448]}, 2),
        ({"adaptation": ["probe"], "initialization": ["imagenet"], "backbone": ["vit_base", "convnext_base"]}, 2),
        ({"adaptation": ["probe"], "initialization": ["imagenet"], "pooling": ["class_token", "patch_tokens"]}, 2),
        ({"adaptation": ["probe"], "initialization": ["imagenet"], "precision": ["bf16", "fp32"]}, 2),
        ({"adaptation": ["probe"], "initialization": ["imagenet"], "dataset": ["phantom", "vindr_pcxr"]}, 2),
    ],
)
def test_trials_share_features_that_learning_rates_heads_and_seeds_do_not_change(axes, stores):
    """Random weights are drawn from the seed, and so are their features."""
    assert len({store for config in configurations(**axes) if (store := store_of(config)) is not None}) == stores
