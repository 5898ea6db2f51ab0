"""docs/settings.md lists every setting of a study file, and no other."""

import re
from pathlib import Path

import pytest

from datasets.dataset_config import DatasetConfig
from datasets.sources.csv import CsvOptions
from search import study_sections
from search.study_config import StudyConfig
from trainers import adaptations
from trainers.recipes import Recipe

TEXT = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
SECTIONS = ("Sampling", "Pruning", "Resources", "Tracking", "Evaluation", "Promotion", "Budget")
HIDDEN = {"name", "options"}
"""Of a recipe and of a data set: told in the text, and where a source's own settings go."""


@pytest.mark.parametrize("model", [Recipe, DatasetConfig, CsvOptions, *(getattr(study_sections, s) for s in SECTIONS)])
def test_every_setting_is_listed(model):
    named = set(re.findall(r"[`.]([a-z_]+)`", "\n".join(re.findall(r"^\|.*", TEXT, re.MULTILINE))))
    assert set(model.model_fields) - HIDDEN <= named


def test_every_key_of_the_file_and_every_adaptation_is_told():
    assert all(re.search(rf"\b{key}\b", TEXT) for key in (*StudyConfig.model_fields, *adaptations.names()))


def test_no_setting_is_listed_that_there_is_not():
    models = [Recipe, DatasetConfig, CsvOptions, *(getattr(study_sections, name) for name in SECTIONS)]
    there = {field for model in models for field in model.model_fields}
    listed = {
        name
        for row in re.findall(r"^\| `(.*?)\|", TEXT, re.MULTILINE)
        for name in re.findall(r"[a-z_]+", row)
        if name not in {section.lower() for section in SECTIONS}
    }
    assert listed <= there
