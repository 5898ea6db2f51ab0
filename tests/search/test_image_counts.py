"""How many images a study costs: as recorded, as its label files say, or as published."""

import json

import pytest
from typer.testing import CliRunner

from datasets.dataset_config import DatasetConfig
from search import image_counts
from search.cli import app
from search.estimate import relative_cost
from search.identity import key_of
from search.study_state import StudyState
from trainers.recipes import Recipe
from trainers.trial import TrialConfig

STUDY = """
name: s
axes: {dataset: house, initialization: random, backbone: convnext_tiny, resolution: 224}
search: {learning_rate: [1e-4]}
data: {house: {source: csv, table: labels.csv, image: path, patient: patient, findings: {edema: edema}}}
"""
NIH = DatasetConfig(name="nih_chest_xray14", source="nih_chest_xray14")
HOUSE = DatasetConfig(name="house", source="csv")
OTHER = DatasetConfig(name="other", source="csv")


def planned(tmp_path, *words):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    told = CliRunner().invoke(app, ["plan", str(path), "--json", *words])
    assert told.exit_code == 0, told.output
    return json.loads(told.stdout)["estimated"]


def test_a_hospitals_table_is_counted_where_it_lies(tmp_path):
    rows = "".join(f"films/{number}.png,p{number},0\n" for number in range(500))
    (tmp_path / "labels.csv").write_text("path,patient,edema\n" + rows)
    unknown = planned(tmp_path)
    assert [unknown[key] for key in ("images", "gpu_hours", "wall_clock_hours", "cache_bytes")] == [None] * 4
    counted = planned(tmp_path, "--data-root", f"house={tmp_path}")
    assert counted["images"] == 500
    assert counted["gpu_hours"]["high"] > 0
    assert "counted image counts" in counted["basis"]


def test_what_was_recorded_beats_what_was_published():
    """A subset of NIH lies here; a study prepared it before."""
    event = {"kind": "data", "key": key_of(NIH), "dataset": NIH.name, "images": {"train": 70, "val": 10, "test": 20}}
    known = image_counts.recorded([StudyState.of([event])])
    assert image_counts.of(NIH, known) == image_counts.Images(100, 70, "recorded")
    assert image_counts.of(NIH, {}).whole == 112_120
    assert image_counts.of(HOUSE, known) is None


def test_a_data_set_of_unknown_size_costs_what_the_others_do():
    config = TrialConfig(dataset=HOUSE, initialization="random", backbone="vit_base", resolution=224, recipe=Recipe())
    trained = image_counts.trained_by_key([NIH, HOUSE, OTHER], {key_of(OTHER): image_counts.Images(10, 8, "counted")})
    assert trained[key_of(HOUSE)] == pytest.approx((112_120 * 0.8 + 8) / 2)
    large = relative_cost(config, trained[key_of(NIH)])
    assert relative_cost(config, trained[key_of(OTHER)]) < relative_cost(config, trained[key_of(HOUSE)]) < large


@pytest.mark.parametrize(
    ("source", "settings", "images"),
    [
        ("chexpert", {"labels": "paper"}, 157_676),
        ("chexpert", {}, 191_229),
        ("chexpert", {"options": {"views": "all"}}, 223_648),
        ("padchest", {}, 110_554),
        ("rsna_pneumonia", {}, 26_684),
    ],
)
def test_of_a_collection_those_images_count_that_are_read(source, settings, images):
    dataset = DatasetConfig(name="ours", source=source, **settings)
    assert image_counts.of(dataset, {}) == image_counts.Images(images, images * 0.8, "published")
