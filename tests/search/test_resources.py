import pytest
from pydantic import ValidationError

from search.errors import StudyError
from search.resources import GIGABYTE, Slot, slot_for
from search.study_config import StudyConfig
from search.study_sections import Resources
from trainers.gpu_memory import Footprint

SMALL = Footprint(int(0.4 * GIGABYTE), int(2 * GIGABYTE), int(0.06 * GIGABYTE), shared=False)
LARGE = Footprint(int(1.4 * GIGABYTE), int(400 * GIGABYTE), int(12.5 * GIGABYTE), shared=False)
HUGE = Footprint(int(60 * GIGABYTE), int(400 * GIGABYTE), int(12.5 * GIGABYTE), shared=False)
BIG = Footprint(int(20 * GIGABYTE), int(40 * GIGABYTE), int(1 * GIGABYTE), shared=False)
FROZEN_SMALL = Footprint(int(0.1 * GIGABYTE), 0, 0, shared=True)
FROZEN_7B = Footprint(int(13.5 * GIGABYTE), 0, 0, shared=True)
T4 = {"CPU": 8.0, "GPU": 4.0, "accelerator_type:T4": 1.0}
A100 = {"CPU": 32.0, "GPU": 8.0, "accelerator_type:A100": 1.0}
H100 = {"CPU": 32.0, "GPU": 8.0, "accelerator_type:H100": 1.0}
NOBODY_KNOWS = {"CPU": 8.0, "GPU": 2.0, "accelerator_type:RTX": 1.0}
K80 = {"CPU": 8.0, "GPU": 2.0, "accelerator_type:P4": 1.0}


@pytest.mark.parametrize(
    ("want", "nodes", "gpus"),
    [
        (SMALL, [T4], 0.25),  # 2.4 GB of 0.85 x 16 GB: five would fit, four share
        (SMALL, [K80], 0.5),  # 2.4 GB of 0.85 x 8 GB: two fit
        (LARGE, [T4], 1.0),  # with smaller micro-batches
        (LARGE, [A100], 1.0),
        (FROZEN_7B, [T4], 1.0),  # 13.5 of 13.6 GB
        (FROZEN_7B, [K80], 2.0),
        (FROZEN_7B, [T4, K80], 2.0),  # the smallest GPU of the cluster counts
        (FROZEN_7B, [{**K80, "GPU": 1.0}], 1.0),  # offloaded where there are too few
        (FROZEN_SMALL, [T4], 1.0),  # what a batch takes of its memory is not known
        (SMALL, [{"CPU": 8.0, "GPU": 1.0}, K80], 0.5),  # 8 GB, and 16 for a GPU without a name
        (SMALL, [NOBODY_KNOWS], 0.25),  # 16 GB for a type that no table has
    ],
)
def test_gpus_follow_from_the_footprint(want, nodes, gpus):
    assert slot_for(Resources(), {}, want, nodes).gpus == pytest.approx(gpus)


@pytest.mark.parametrize(
    ("want", "nodes", "slot"),
    [
        (BIG, [A100, T4], Slot(1, 1.0, gpu_type="A100")),
        (BIG, [T4, H100, A100], Slot(1, 1.0, gpu_type="A100")),
        (HUGE, [T4, H100, A100], Slot(1, 1.0, gpu_type="H100")),
        (BIG, [{"CPU": 8.0, "GPU": 1.0}, A100], Slot(1, 1.0, gpu_type="A100")),  # of the nameless 16 GB are known
        (LARGE, [A100, T4], Slot(1, 1.0)),
        (BIG, [A100], Slot(1, 1.0)),
    ],
)
def test_what_does_not_fit_on_the_smallest_gpu_goes_where_it_fits(want, nodes, slot):
    assert slot_for(Resources(), {}, want, nodes) == slot


def test_a_frozen_encoder_gets_no_more_gpus_than_a_node_of_the_asked_type_has():
    """It is offloaded there, however many GPUs of another type there are."""
    alone = {**K80, "GPU": 1.0}
    assert slot_for(Resources(gpu_type="P4"), {}, FROZEN_7B, [alone, A100]) == Slot(1, 1.0, gpu_type="P4")
    assert slot_for(Resources(gpu_type="P4"), {}, FROZEN_7B, [alone, K80, A100]) == Slot(2, 2.0, gpu_type="P4")
    with pytest.raises(StudyError, match="1 GPU of type V100, but no node of this cluster has that"):
        slot_for(Resources(gpu_type="V100"), {}, FROZEN_7B, [A100])


def test_who_says_the_memory_of_its_gpus_is_believed_more_than_their_type():
    assert slot_for(Resources(gpu_type="A100", gpu_memory_gb=80), {}, HUGE, [A100]) == Slot(1, 1.0, gpu_type="A100")
    assert slot_for(Resources(gpu_memory_gb=80), {}, HUGE, [A100]) == Slot(1, 1.0)
    with pytest.raises(StudyError, match="the largest GPU here has 40 GB"):
        slot_for(Resources(gpu_type="A100"), {}, HUGE, [A100, H100])


def test_what_fits_on_no_gpu_is_refused_with_the_numbers():
    with pytest.raises(StudyError, match=r"backbone=vit_7b: weights, .* take 60.0 GB, the largest GPU here has 16 GB"):
        slot_for(Resources(), {"backbone": "vit_7b"}, HUGE, [T4])


@pytest.mark.parametrize(
    ("setting", "slot"),
    [
        ({"resolution": 224, "backbone": "vit"}, Slot(2)),
        ({"resolution": 512, "backbone": "vit"}, Slot(2, 0.5)),
        ({"resolution": 1024, "backbone": "vit"}, Slot(8, 2.0, 64.0, "A100")),
        ({"resolution": 1024, "backbone": "convnext"}, Slot(8, 1.0, 64.0, "A100")),
    ],
)
def test_amounts_are_overridden_per_axis_value_and_the_last_one_wins(setting, slot):
    resources = Resources.model_validate(
        {
            "cpus": 2,
            "overrides": [
                {"when": {"resolution": 512}, "gpus": 0.5},
                {"when": {"resolution": 1024}, "gpus": 2, "cpus": 8, "memory_gb": 64, "gpu_type": "A100"},
                {"when": {"resolution": [1024], "backbone": "convnext"}, "gpus": 1},
            ],
        }
    )
    assert slot_for(resources, setting, None, [{**A100, "memory": 2e11}]) == slot


ROOMY = {**A100, "memory": 4e11}


@pytest.mark.parametrize(
    ("section", "want", "slot"),
    [
        ({}, {"fixed": 1.4, "batch": 400, "host": 0.7}, Slot(1, 1.0, 4.0)),  # 3 and 0.7
        ({}, {"fixed": 1.4, "batch": 400, "host": 1.1}, Slot(1, 1.0, 5.0)),
        ({}, {"fixed": 0.4, "batch": 2, "host": 0.7}, Slot(1, 0.25, 4.0)),
        ({"gpus": 2}, {"fixed": 1.4, "batch": 400, "host": 0.7}, Slot(2, 2.0, 8.0)),  # two processes
        ({"gpus": 2, "cpus": 1}, {"fixed": 1.4, "batch": 400, "host": 0.7}, Slot(1, 2.0, 8.0)),
        ({"gpus": 2}, {"fixed": 60, "batch": 0, "host": 60, "shared": True}, Slot(2, 2.0, 63.0)),  # one on two GPUs
        ({"memory_gb": 0.5}, {"fixed": 1.4, "batch": 400, "host": 0.7}, Slot(1, 1.0, 0.5)),
        ({"gpus": 0}, {"fixed": 1.4, "batch": 400, "host": 0.7}, Slot(1)),
    ],
)
def test_cpus_and_main_memory_follow_from_gpus_and_network(section, want, slot):
    sizes = {name: int(GIGABYTE * size) for name, size in want.items() if name != "shared"}
    found = Footprint(**sizes, per_image=0, shared=want.get("shared", False))
    assert slot_for(Resources.model_validate(section), {}, found, [ROOMY]) == slot


def test_no_main_memory_is_reserved_on_a_cluster_that_does_not_tell_any():
    assert slot_for(Resources(), {}, SMALL, [A100]) == Slot(1, 0.25)


def test_a_slot_is_ray_s_resources():
    assert Slot(8, 2.0, 64.0, "A100").as_ray() == {
        "CPU": 8.0,
        "GPU": 2.0,
        "memory": 64e9,
        "accelerator_type:A100": 0.001,
    }


BARE = {"CPU": 64.0, "memory": 2e11}
SMALL_T4 = {**T4, "memory": 7.996e9}


@pytest.mark.parametrize(
    ("asked", "nodes", "told"),
    [
        ({"gpus": 1, "gpu_type": "H100"}, [T4], "1 CPU, 1 GPU of type H100|8 CPU, 4 GPU of type T4"),
        # No node has what the largest amounts of different nodes would make.
        ({"cpus": 12, "gpus": 1}, [BARE, T4], "12 CPU, 1 GPU|8 CPU, 4 GPU of type T4; another one 64 CPU, 0 GPU"),
        (
            {"gpus": 1, "memory_gb": 8},
            [BARE, SMALL_T4, SMALL_T4],
            "1 CPU, 1 GPU, 8 GB of memory|8 CPU, 4 GPU of type T4, 7.996 GB of memory; another one 64 CPU, 0 GPU, "
            "200 GB of memory",
        ),
        (
            {"cpus": 99},
            [{"CPU": float(n)} for n in range(1, 9)],
            "99 CPU|8 CPU, 0 GPU; another one 7 CPU, 0 GPU; another one 6 CPU, 0 GPU; another one 5 CPU, 0 GPU; "
            "others less",
        ),
    ],
)
def test_what_no_node_can_hold_is_told_with_the_trial_and_what_single_nodes_have(asked, nodes, told):
    wants, has = told.split("|")
    with pytest.raises(StudyError) as refused:
        slot_for(Resources.model_validate(asked), {"backbone": "vit", "resolution": 64}, None, nodes)
    assert str(refused.value) == (
        f"resources: backbone=vit, resolution=64 asks for {wants}, but no node of this cluster has that; the largest "
        f"has {has}. Set lower resources.cpus, gpus or memory_gb, or another gpu_type"
    )


def test_a_cluster_whose_nodes_are_all_gone_is_told():
    with pytest.raises(StudyError, match=r"a trial asks for 1 CPU, but no node of .*; it has no node"):
        slot_for(Resources(), {}, None, [])


def test_an_override_for_an_unknown_axis_is_told():
    with pytest.raises(ValidationError, match=r"resources.overrides\[0\].when: `size` is neither an axis nor searched"):
        StudyConfig.model_validate(
            {
                "name": "s",
                "axes": {"dataset": "phantom", "initialization": "random", "backbone": "b", "resolution": 64},
                "resources": {"overrides": [{"when": {"size": 3}, "gpus": 1}]},
            }
        )


def test_who_names_a_gpu_is_not_trained_on_a_cpu_without_a_word():
    with pytest.raises(StudyError, match=r"a trial asks for 1 CPU, 1 GPU of type A100, .*the largest has 2 CPU, 0 GPU"):
        slot_for(Resources(gpu_type="A100", gpu_memory_gb=40), {}, None, [{"CPU": 2.0}])
    assert slot_for(Resources(gpus=0, gpu_type="A100"), {}, None, [{"CPU": 2.0}]) == Slot(1)
    assert slot_for(Resources(gpu_memory_gb=40), {}, None, [{"CPU": 2.0}]) == Slot(1)


@pytest.mark.parametrize(("gpus", "taken"), [(0, True), (0.25, True), (1, True), (2.0, True), (1.5, False)])
def test_a_trial_gets_a_share_of_one_gpu_or_whole_ones(gpus, taken):
    for section in ({"gpus": gpus}, {"overrides": [{"when": {"resolution": 512}, "gpus": gpus}]}):
        if taken:
            Resources.model_validate(section)
        else:
            with pytest.raises(ValidationError, match="a share of one GPU or whole ones; write 1 or 2"):
                Resources.model_validate(section)
