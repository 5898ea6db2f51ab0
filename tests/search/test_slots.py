"""What each trial occupies is measured once a kind, before anything starts."""

import pytest

from search import grid, ray_cluster
from search.errors import StudyError
from search.resources import GIGABYTE, Slot
from search.slots import Slots
from search.study_config import StudyConfig
from trainers.gpu_memory import Footprint

AXES = {"dataset": "phantom", "initialization": "random", "backbone": "test_vit3", "resolution": [32, 48]}


def trials(**search):
    study = StudyConfig.model_validate({"name": "s", "axes": AXES, "search": search, "seeds": [0, 1]})
    return study, grid.expand(study).trials


@pytest.fixture
def measured(monkeypatch):
    """Trials whose memory was asked for; half of a GPU is enough for each."""
    asked = []

    def each(_function, orders, slots):
        assert set(slots) <= {Slot(1)}  # it is measured without a GPU, on any node
        asked.extend(orders)
        return [(index, Footprint(int(6 * GIGABYTE), 0, 0, shared=False)) for index in reversed(range(len(orders)))]

    monkeypatch.setattr(ray_cluster, "each", each)
    monkeypatch.setattr(ray_cluster, "nodes", lambda: [{"CPU": 8.0, "GPU": 1.0, "accelerator_type:T4": 1.0}])
    return asked


def test_memory_is_measured_once_for_trials_that_want_the_same(measured):
    study, wanted = trials(learning_rate=[1e-3, 1e-4], batch_size=[8, 16], ema=[None, 0.99])
    slots = Slots(study.resources, has_gpus=True, images_of=lambda _: 0)
    slots.choose(wanted)
    assert len(wanted) == 2 * 2 * 2 * 2 * 2
    kinds = {(c.resolution, c.recipe.batch_size, c.recipe.ema) for c in measured}
    assert len(measured) == len(kinds) == 2 * 2 * 2
    assert {slots.of(trial) for trial in wanted} == {Slot(1, 0.5)}
    slots.choose(wanted)
    assert len(measured) == len(kinds)


def test_each_kind_of_trial_gets_what_was_measured_of_it_and_later_ones_of_its_kind_too(measured, monkeypatch):
    def each(_function, orders, _slots):
        measured.extend(orders)
        sizes = [int(order.recipe.batch_size * 0.4 * GIGABYTE) for order in orders]
        return [(index, Footprint(sizes[index], 0, 0, shared=False)) for index in reversed(range(len(orders)))]

    monkeypatch.setattr(ray_cluster, "each", each)
    study, wanted = trials(learning_rate=[1e-3, 1e-4], batch_size=[8, 16])
    slots = Slots(study.resources, has_gpus=True, images_of=lambda _: 0)
    slots.choose([trial for trial in wanted if trial.config.recipe.learning_rate == 1e-3])
    assert len(measured) == 2 * 2
    slots.choose(wanted)
    assert len(measured) == 2 * 2
    found = {(trial.config.recipe.batch_size, slots.of(trial).gpus) for trial in wanted}
    assert found == {(8, 0.25), (16, 0.5)}  # 3.2 and 6.4 GB of 0.85 × 16


def test_memory_is_measured_for_each_optimizer_and_precision(measured):
    study, wanted = trials(optimizer=["adamw", "sgd"], precision=["fp32", "bf16"])
    Slots(study.resources, has_gpus=True, images_of=lambda _: 0).choose(wanted)
    kinds = {(c.resolution, c.recipe.optimizer, c.recipe.precision) for c in measured}
    assert len(measured) == len(kinds) == 2 * 2 * 2


def test_what_was_chosen_in_earlier_rounds_stays_whatever_nodes_are_there_now(measured, monkeypatch):
    study, wanted = trials(batch_size=[8, 16])
    slots = Slots(study.resources, has_gpus=True, images_of=lambda _: 0)
    slots.choose(wanted[:4])
    monkeypatch.setattr(ray_cluster, "nodes", lambda: [{"CPU": 8.0, "GPU": 1.0, "accelerator_type:P4": 1.0}])
    slots.choose(wanted)
    assert [slots.of(trial).gpus for trial in wanted] == [0.5] * 4 + [1.0] * 4


def test_a_searched_value_may_have_resources_of_its_own(measured):
    study, wanted = trials(batch_size=[8, 16])
    larger = {"overrides": [{"when": {"batch_size": 16}, "cpus": 3, "gpus": 0}]}
    slots = Slots(study.resources.model_validate(larger), has_gpus=False, images_of=lambda _: 0)
    slots.check(wanted)
    assert slots.most_cpus == 3  # data are prepared before any slot is chosen
    slots.choose(wanted)
    assert not measured  # no GPU, no memory of one
    assert {(trial.config.recipe.batch_size, slots.of(trial)) for trial in wanted} == {(8, Slot(1)), (16, Slot(3))}
    never = Slots(study.resources.model_validate({"cpus": 99}), has_gpus=False, images_of=lambda _: 0)
    with pytest.raises(StudyError, match="no node of this cluster has that"):
        never.choose(wanted)


def test_main_memory_of_stored_features_follows_from_what_is_known_of_the_data_when_trials_begin(monkeypatch):
    """Before the data are read nothing may be known; what was checked then is not what trials get."""
    want = Footprint(0, 0, 0, shared=True, host=int(2.5 * GIGABYTE), stored=4 * 1024)
    node = {"CPU": 8.0, "GPU": 1.0, "memory": 8e9}
    monkeypatch.setattr(ray_cluster, "each", lambda _, orders, __: [(index, want) for index in range(len(orders))])
    monkeypatch.setattr(ray_cluster, "nodes", lambda: [node])
    study, wanted = trials(learning_rate=[1e-3, 1e-4])
    images, asked = [0], []
    slots = Slots(study.resources, has_gpus=True, images_of=lambda dataset: asked.append(dataset.name) or images[0])
    slots.check(wanted)
    assert asked == ["phantom"]
    images[0] = 350_000
    slots.choose(wanted)
    assert {slots.of(trial) for trial in wanted} == {Slot(1, 1.0, memory_gb=7.0)}  # 3 + 2.5 + 1.43
    with pytest.raises(StudyError, match=r"asks for 1 CPU, 1 GPU, 10 GB of memory.* has 8 CPU, 1 GPU, 8 GB of memory"):
        Slots(study.resources, has_gpus=True, images_of=lambda _: 1_000_000).check(wanted)


def test_each_data_set_takes_the_main_memory_of_its_own_images(monkeypatch):
    want = Footprint(0, 0, 0, shared=True, stored=10**6)
    monkeypatch.setattr(ray_cluster, "each", lambda _, orders, __: [(index, want) for index in range(len(orders))])
    monkeypatch.setattr(ray_cluster, "nodes", lambda: [{"CPU": 8.0, "GPU": 1.0, "memory": 64e9}])
    axes = {**AXES, "dataset": ["phantom", "vindr_pcxr"]}
    study = StudyConfig.model_validate({"name": "s", "axes": axes, "search": {"learning_rate": [1e-3]}})
    wanted = grid.expand(study).trials
    slots = Slots(study.resources, has_gpus=True, images_of=lambda dataset: 9000 if dataset.name == "phantom" else 2000)
    slots.choose(wanted)
    assert {(t.config.dataset.name, slots.of(t).memory_gb) for t in wanted} == {("phantom", 12.0), ("vindr_pcxr", 5.0)}
