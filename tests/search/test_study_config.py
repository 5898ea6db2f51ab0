import pytest

from search import grid
from search.errors import StudyError
from search.study_config import load_study

GOOD = """
name: tiny
axes:
  dataset: phantom
  initialization: [random, imagenet]
  backbone: tf_efficientnet_lite0
  resolution: [64, 128]
search: {learning_rate: [1e-4, 3e-4]}
recipe: {epochs: 2}
"""


def write(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return path


def test_a_good_file_is_read_with_its_types(tmp_path):
    study = load_study(write(tmp_path, GOOD))
    assert study.search == {"learning_rate": [1e-4, 3e-4]}  # PyYAML reads 1e-4 as text
    assert study.axes["resolution"] == [64, 128]
    assert study.axes["dataset"] == ["phantom"]
    assert study.pruning.within == "cell"


def test_a_number_that_only_looks_like_truth_and_truth_where_it_is_meant_are_taken(tmp_path):
    text = GOOD.replace("epochs: 2", "epochs: 2, positive_weight: yes, weight_decay: 1")
    assert load_study(write(tmp_path, text + "budget: {gpu_hours: 1}\n")).recipe["positive_weight"] is True


def test_without_a_search_the_recipes_own_values_are_trained(tmp_path):
    text = GOOD.replace("search: {learning_rate: [1e-4, 3e-4]}\n", "").replace(
        "epochs: 2", "epochs: 2, learning_rate: 1e-3"
    )
    wanted = grid.expand(load_study(write(tmp_path, text)))
    assert [trial.searched for trial in wanted.trials] == [()] * 4
    assert {trial.config.recipe.learning_rate for trial in wanted.trials} == {1e-3}
    compared = text.replace("resolution: [64, 128]", "resolution: 64\n  learning_rate: [1e-4, 3e-4]")
    wanted = grid.expand(load_study(write(tmp_path, compared)))
    assert {trial.config.recipe.learning_rate for trial in wanted.trials} == {1e-4, 3e-4}


def test_truth_for_a_number_is_refused_below_a_data_set_too(tmp_path):
    study = load_study(write(tmp_path, GOOD + "data: {phantom: {label_noise: yes}}\n"))
    with pytest.raises(StudyError, match="data: label_noise: a number is expected, found true"):
        grid.expand(study)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("resolution", "resolutoin"), "study.yaml:3: axes: unknown setting resolutoin; settings: adaptation,"),
        (
            ("[64, 128]", "[64, tall]"),
            "resolution: Input should be a valid integer, unable to parse string as an integer, found 'tall'",
        ),
        (("[64, 128]", "[64, 64]"), "resolution: a value is listed twice"),
        (
            ("{learning_rate:", "{recipe: [{name: paper, epochs: 2}, {epochs: 2, name: paper}], learning_rate:"),
            "recipe: a value is listed twice",
        ),
        (("[64, 128]", "[8]"), "resolution: Input should be greater than or equal to 16, found 8"),
        (
            ("1e-4, 3e-4", "fast"),
            "learning_rate: Input should be a valid number, unable to parse string as a number, found 'fast'",
        ),
        (("1e-4, 3e-4", "-1"), "learning_rate: Input should be greater than 0, found -1"),
        (("name: tiny", "name: Tiny Study"), "study.yaml:2: name: String should match pattern"),
        (("name: tiny\n", ""), "name: Field required"),
        (("recipe:", "recipee:"), "study.yaml:9: recipee: unknown key; keys here: axes, budget, data, evaluation,"),
        (
            ("recipe: {epochs: 2}", "recipe:\n  epochs: 2\n  warm_up: 1"),
            "study.yaml:11: recipe.warm_up: unknown key; keys here: augmentation, batch_size,",
        ),
        (
            ("recipe: {epochs: 2}", "data: {theirs: {source: csv}}"),
            "nor a data set of the axes or of evaluation.external",
        ),
        (
            ("recipe: {epochs: 2}", "pruning: {prunner: median}"),
            "study.yaml:9: pruning.prunner: unknown key; keys here: carry, pruner,",
        ),
        (("recipe: {epochs: 2}", "seeds: [1, 1]"), "study.yaml:9: seeds: a seed is listed twice"),
        (("  dataset: phantom\n", ""), "axes: `dataset` is missing"),
        (
            ("recipe: {epochs: 2}", "exclude: [{resolution: 96}]"),
            "exclude[0]: resolution has no value 96; values: [64, 128]",
        ),
        (("recipe: {epochs: 2}", "exclude: [{labels: paper}]"), "exclude[0]: `labels` is not an axis"),
        (("recipe: {epochs: 2}", "data: {phantoms: {}}"), "data: `phantoms` is neither a setting"),
        (("{learning_rate:", "{resolution: [32], learning_rate:"), "`resolution` is both an axis and searched"),
        (("recipe: {epochs: 2}", "pruning: {within: [colour]}"), "pruning.within: `colour` is not an axis"),
        (("recipe: {epochs: 2}", "pruning: {within: colour}"), "pruning.within: `colour` is not an axis"),
        (("recipe: {epochs: 2}", "pruning: {within: []}"), "study.yaml:9: pruning.within"),
        (("1e-4, 3e-4", ".inf"), "learning_rate: a value must be finite, found inf"),
        (("recipe: {epochs: 2}", "promotion: {margin: .nan}"), "promotion.margin: Input should be a finite number"),
        (
            ("recipe: {epochs: 2}", "promotion: {registered_model: .hidden}"),
            "promotion.registered_model: '.hidden': only letters",
        ),
        (
            ("recipe: {epochs: 2}", "promotion: {registered_model: ''}"),
            "promotion.registered_model: String should have",
        ),
        (("name: tiny", "name: tiny.promotion"), "promotion.registered_model: 'tiny.promotion': names that end in"),
        (
            ("recipe: {epochs: 2}", "resources: {overrides: [{when: {resolution: 96}, cpus: 2}]}"),
            "resources.overrides[0].when: resolution has no value 96; values: [64, 128]",
        ),
        (("recipe: {epochs: 2}", "recipe: {epochs: yes}"), "recipe: epochs: a number is expected, found true"),
        (("1e-4, 3e-4", "on"), "learning_rate: a number is expected, found true"),
        (("recipe: {epochs: 2}", "budget: {gpu_hours: yes}"), "study.yaml:9: budget.gpu_hours: a number is expected"),
        (("{learning_rate:", "{partition_seed: [0, 1], learning_rate:"), "partition_seed: decides by which cases"),
        (("search: {learning_rate: [1e-4, 3e-4]}", "sampling: {sampler: tpe, trials: 4}"), "tpe has nothing to draw"),
        (
            ("recipe: {epochs: 2}", "evaluation: {external: {phantom: [../x]}}"),
            "evaluation.external: '../x' becomes part of metrics' and files' names",
        ),
        (
            ("recipe: {epochs: 2}", "tracking: {uri: 'https://me:secret@host'}"),
            "tracking.uri: a password does not belong in a study file",
        ),
        (
            ("recipe: {epochs: 2}", "tracking: {uri: 'https://:token@host'}"),
            "tracking.uri: a password does not belong in a study file",
        ),
        (
            ("recipe: {epochs: 2}", "tracking: {uri: 'postgresql://me@host/x?p%61ssword=secret'}"),
            "tracking.uri: a password does not belong in a study file",
        ),
    ],
)
def test_a_problem_is_told_with_its_place(tmp_path, change, message):
    with pytest.raises(StudyError) as told:
        load_study(write(tmp_path, GOOD.replace(*change)))
    assert message in str(told.value)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("epochs: 2", "epochs: 1:30"), "line 9: 1:30 would be 90"),
        (("[64, 128]", "[064, 128]"), "line 7: 064 would be 52"),
        (("recipe: {epochs: 2}", "budget: {wall_clock_hours: 72:00}"), "line 9: 72:00 would be 4320"),
    ],
)
def test_a_number_that_yaml_reads_as_another_is_refused(tmp_path, change, told):
    with pytest.raises(StudyError, match=told):
        load_study(write(tmp_path, GOOD.replace(*change)))


def test_all_problems_are_told_at_once(tmp_path):
    text = GOOD.replace("name: tiny", "name: X Y").replace("epochs: 2", "epochs: 2}\npruning: {spare_share: 3")
    with pytest.raises(StudyError, match="2 problem"):
        load_study(write(tmp_path, text + "\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b\n", "line 2: `name`, first on line 1"),
        ("- a\n", "a study file is a mapping"),
        ("name: [unclosed\n", "not valid YAML"),
        ("name: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        ("name: 2026-13-45\n", "not valid YAML: month must be in 1..12"),
        ("name: &a [*a]\n", "an anchor holds itself"),
    ],
)
def test_what_is_no_study_file_is_refused(tmp_path, text, message):
    with pytest.raises(StudyError, match=message):
        load_study(write(tmp_path, text))


def test_an_absent_file_names_the_shipped_ones(tmp_path):
    with pytest.raises(StudyError, match=r"no such study file. Shipped ones: search/studies"):
        load_study(tmp_path / "none.yaml")
