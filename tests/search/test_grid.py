from pathlib import Path

import pytest

from datasets.dataset_config import DatasetConfig
from search import grid
from search.errors import StudyError
from search.grid import Cell
from search.identity import key_of
from search.plan import plan
from search.study import Machine, run_study
from search.study_config import StudyConfig, load_study

STUDIES = Path(__file__).parents[2] / "search" / "studies"


def study(**changes):
    axes = {
        "dataset": "phantom",
        "initialization": ["random", "imagenet"],
        "backbone": "tf_efficientnet_lite0",
        "resolution": [64, 128],
    }
    return StudyConfig.model_validate(
        {"name": "tiny", "axes": axes | changes.pop("axes", {}), "search": {"learning_rate": [1e-4, 1e-3]}} | changes
    )


def test_cells_are_the_product_and_trials_the_searched_values_and_seeds():
    found = grid.expand(study(seeds=[0, 1]))
    assert len(found.cells) == 4
    assert len(found.trials) == 4 * 2 * 2
    assert found.cells[0].name == "phantom/random/tf_efficientnet_lite0/64"
    assert found.trials[1].seed == 1
    assert found.trials[2].config.recipe.learning_rate == 1e-3


def test_excluded_combinations_are_left_out():
    found = grid.expand(study(exclude=[{"resolution": 128, "initialization": ["random"]}]))
    assert [cell.name for cell in found.cells] == [
        "phantom/random/tf_efficientnet_lite0/64",
        "phantom/imagenet/tf_efficientnet_lite0/64",
        "phantom/imagenet/tf_efficientnet_lite0/128",
    ]
    assert found.excluded == 1


def test_the_resolution_study_has_85_cells_and_explains_its_holes():
    planned = plan(load_study(STUDIES / "dinov3_resolution.yaml"))
    assert (planned["cells"], planned["trials"], planned["excluded"]) == (85, 255, 24)
    assert len(planned["refused"]) == 7 * 2 + 3
    assert {r["cell"]["initialization"] for r in planned["refused"]} == {"dinov2"}
    assert {r["cell"]["backbone"] for r in planned["refused"]} == {"convnext_base"}
    assert all("no such weights exist" in r["reason"] for r in planned["refused"])
    assert planned["estimated"]["gpu_hours"]["low"] < planned["estimated"]["gpu_hours"]["high"]


@pytest.mark.parametrize("shipped", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_study_can_be_planned(shipped):
    planned = plan(load_study(shipped))
    assert planned["cells"] > 0
    assert planned["warnings"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes": {"backbone": "vit_bsae"}}, "vit_base"),
        ({"axes": {"initialization": "dinov4"}}, "dinov3"),
        ({"axes": {"dataset": "chexprt"}}, "has no source 'chexprt'; sources: "),
        ({"task": "segmentatoin"}, "multilabel"),
        ({"axes": {"initialization": "dinov2", "backbone": "convnext_base", "resolution": 224}}, "no cell is left"),
        ({"recipe": {"name": "papr"}}, "unknown recipe 'papr'; recipes: modern, paper"),
        ({"recipe": {"epoch": 3}}, "recipe.epoch: Extra inputs are not permitted"),
        ({"axes": {"adaptation": "finetuen"}}, "finetune"),
        ({"data": {"preprocessing": "sepia"}}, "standard"),
        ({"pruning": {"pruner": "medain"}}, "no pruner 'medain'; pruners: cell_race"),
        ({"pruning": {"pruner": "median", "settings": {"warmup": 3}}}, "it takes: n_startup_trials"),
        ({"pruning": {"pruner": "wilcoxon"}}, "epochs of a training are not instances"),
        ({"pruning": {"pruner": "WilcoxonPruner"}}, "epochs of a training are not instances"),
        ({"pruning": {"settings": {"past": []}}}, "past is no setting; it takes: rungs, exponents, margin"),
        ({"pruning": {"settings": {"epochs": 3}}}, "epochs is no setting"),
        ({"pruning": {"settings": {"rungs": []}}}, "rungs are ascending shares"),
        ({"pruning": {"settings": {"rungs": [0.5], "exponents": [0.5, 0.2]}}}, "exponents are one per rung"),
        ({"pruning": {"settings": {"exponents": [0.5]}}}, "exponents are one per rung: give `rungs`"),
        ({"data": {"phantom": {"patient": 48}}}, "options of source phantom: patient: Extra inputs are not permitted"),
        ({"data": {"phantom": {"patients": 3}}}, "(data set phantom); expected keys among patients, size"),
        ({"pruning": {"settings": {"margin": float("nan")}}}, "must be 0 or more, found nan"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(changes, message):
    with pytest.raises(StudyError) as told:
        plan(study(**changes))
    assert message in str(told.value)


@pytest.mark.parametrize(
    ("pruning", "message"),
    [
        ({"within": "study"}, "within: study compares trials of all cells"),
        ({"within": ["dataset"]}, "within: ['dataset'] compares trials of all cells"),
        ({"pruner": "median"}, "a comparison group has 2 at most: nothing will be pruned"),
    ],
)
def test_what_is_probably_not_meant_is_warned_of(pruning, message):
    assert message in plan(study(pruning=pruning))["warnings"][0]


def test_a_weights_file_that_is_not_on_this_machine_is_told_before_anything_is_trained(tmp_path):
    (tmp_path / "there.safetensors").touch()
    files = [f"file:{tmp_path}/{name}.safetensors" for name in ("there", "misspelt")] + [
        "file:in_the_folder.safetensors"
    ]
    (told,) = plan(study(axes={"initialization": files}))["warnings"]
    assert told.startswith(f"initialization {files[1]}: no such file on this machine")


def test_identity_is_the_canonical_configuration_and_the_data():
    one, two = grid.expand(study()).trials[0].config, grid.expand(study(name="other")).trials[0].config
    assert one.identity("f") == two.identity("f")
    assert one.identity("f") != one.identity("g")
    assert len({trial.config.identity("f") for trial in grid.expand(study()).trials}) == 8


def test_an_axis_overrules_what_all_cells_share_and_the_searched_values_both():
    recipe = {"epochs": 10, "batch_size": 8, "learning_rate": 1e-2}
    asked = study(recipe=recipe, axes={"recipe": [{"epochs": 3}], "weight_decay": [0.5]})
    recipes = [trial.config.recipe for trial in grid.expand(asked).trials]
    found = {(one.epochs, one.batch_size, one.weight_decay, one.learning_rate) for one in recipes}
    assert found == {(3, 8, 0.5, 1e-4), (3, 8, 0.5, 1e-3)}


@pytest.mark.parametrize(
    ("data", "axes", "noise"),
    [
        ({"label_noise": 0.1}, {}, 0.1),
        ({"label_noise": 0.1, "phantom": {"label_noise": 0.2}}, {}, 0.2),
        ({"label_noise": 0.1, "phantom": {"label_noise": 0.2}}, {"label_noise": 0.3}, 0.3),
    ],
)
def test_a_data_set_has_settings_of_its_own_and_an_axis_overrules_them(data, axes, noise):
    assert {trial.config.dataset.label_noise for trial in grid.expand(study(data=data, axes=axes)).trials} == {noise}


@pytest.mark.parametrize(
    ("within", "group"),
    [("cell", "nih/vit/224"), ("study", "study"), (["dataset"], "nih"), (["resolution", "dataset"], "nih/224")],
)
def test_a_comparison_group_is_named_by_the_axes_whose_values_it_shares(within, group):
    assert Cell((("dataset", "nih"), ("backbone", "vit"), ("resolution", 224))).group(within) == group


def test_a_data_set_is_the_same_whatever_the_order_of_its_options():
    options = {"patients": 3, "size": 64}
    one, other = (
        DatasetConfig(name="phantom", source="phantom", options=dict(ordered))
        for ordered in (options.items(), reversed(options.items()))
    )
    assert key_of(one) == key_of(other)
    assert key_of(one) != key_of(one.model_copy(update={"options": {"patients": 4, "size": 64}}))


def test_any_setting_may_be_an_axis():
    found = grid.expand(study(axes={"label_noise": [0.0, 0.2], "recipe": ["paper", {"name": "modern", "epochs": 3}]}))
    assert len(found.cells) == 16
    assert {trial.config.dataset.label_noise for trial in found.trials} == {0.0, 0.2}
    assert {(t.config.recipe.name, t.config.recipe.epochs) for t in found.trials} == {("paper", 30), ("modern", 3)}


@pytest.mark.parametrize(
    "axes",
    [
        {"recipe": [{"learning_rate": 0.01}, {"learning_rate": 0.1}]},  # the searched learning rate overrules both
        {"recipe": ["paper", {"name": "paper"}]},
        {"recipe": ["paper", {"epochs": 30, "name": "paper"}]},
    ],
)
def test_two_cells_that_are_the_same_training_are_refused(axes):
    with pytest.raises(StudyError, match="are the same training: one axis or searched value overrules"):
        grid.expand(study(axes=axes))
    with pytest.raises(StudyError, match="are the same training: one axis or searched value overrules"):
        grid.expand(study(search=axes | {"learning_rate": [0.3]}))  # two points of one cell


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": {"augmentation": "storng"}}, "unknown augmentation 'storng'"),
        ({"search": {"preprocessing": ["standard", "papper"]}}, "papper"),
        ({"search": {"adaptation": ["finetune", "lorra"]}}, "lorra"),
        ({"pruning": {"pruner": "cell_rase"}}, "no pruner 'cell_rase'"),
        ({"pruning": {"pruner": "median", "settings": {"n_startup_trials": "two"}}}, "pruning.settings: median"),
        ({"pruning": {"pruner": "patient", "settings": {"wrapped_pruner": {"median": 3}}}}, "wrapped_pruner"),
        ({"sampling": {"sampler": "tpe", "trials": 3, "settings": {"n_startup_trails": 3}}}, "n_startup_trails"),
        ({"evaluation": {"external": {"phantom": ["chexprt"]}}}, "no source 'chexprt'"),
        ({"evaluation": {"external": {"phantom": ["phantom"]}}}, "phantom is not external to phantom"),
        (
            {"evaluation": {"external": {"phantom": ["chexpert"]}}, "data": {"chexpert": {"validation_fraction": 3}}},
            "evaluation.external:\n  validation_fraction",
        ),
    ],
)
def test_plan_and_run_refuse_what_cannot_be_before_any_data_is_read(tmp_path, changes, message):
    wrong = study(**changes)
    with pytest.raises(StudyError, match=message):
        plan(wrong)
    with pytest.raises(StudyError, match=message):
        run_study(wrong, Machine(storage=tmp_path), None)
    assert not list(tmp_path.iterdir())


def test_a_network_that_is_only_used_frozen_is_refused_in_the_plan_unless_it_is_probed():
    found = grid.expand(
        study(axes={"dataset": "phantom", "initialization": "dinov3", "backbone": "vit_7b", "resolution": 224,
                    "adaptation": ["finetune", "probe"]})
    )  # fmt: skip
    assert [dict(cell.axes)["adaptation"] for cell in found.cells] == ["probe"]
    assert "only its frozen features are of use" in found.refused[0].reason
