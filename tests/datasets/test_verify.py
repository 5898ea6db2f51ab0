"""What `verify` tells beside the counts; the command itself is tried in test_command_line.py."""

import json
from pathlib import Path

import pandas as pd

from datasets.cache import prepare
from datasets.dataset_config import DatasetConfig
from datasets.derivation import MARKER
from datasets.sources import load, read
from datasets.verify import changed_since_prepared, data_card, prepared, unreadable
from tests.datasets import miniatures


def test_a_card_of_a_table_that_is_all_test_holds_no_undefined_share(tmp_path):
    options = miniatures.csv_table(tmp_path)
    table = tmp_path / "labels.csv"
    table.write_text(table.read_text().replace("Train", "TEST").replace("valid", "TEST"))
    config = DatasetConfig(name="theirs", source="csv", options=options)
    card = data_card(config, read(config, tmp_path), load(config, tmp_path))
    assert card["partitions"]["train"]["images"] == 0
    assert '"missing": NaN' not in json.dumps(card)


def test_a_broken_image_that_serves_for_validation_and_test_is_listed_once(tmp_path: Path):
    miniatures.vindr_pcxr(tmp_path)
    manifest = load(DatasetConfig(name="p", source="vindr_pcxr", options={"validation_on_test": True}), tmp_path)
    broken = str(manifest.instances["path"].iloc[manifest.rows("test")[0]])
    (tmp_path / broken).write_bytes(b"broken")
    assert [path for path, _ in unreadable(manifest)] == [broken]


def test_folders_beside_the_caches_are_passed_over(tmp_path: Path):
    miniatures.vindr_pcxr(tmp_path / "root")
    manifest = load(DatasetConfig(name="p", source="vindr_pcxr"), tmp_path / "root")
    whole = prepare(manifest, resolution=16, preprocessing="standard", cache=tmp_path / "c").folder
    for name, content in (
        (f"{whole.name}-old", (whole / MARKER).read_text()),
        ("nih-224-torn", '{"resolution": 2'),
        ("a-b-c", json.dumps({})),
        ("no-object", json.dumps([16])),
    ):
        (tmp_path / "c" / name).mkdir()
        (tmp_path / "c" / name / MARKER).write_text(content)
    assert prepared(manifest, tmp_path / "c") == [(16, "standard")]
    assert changed_since_prepared(manifest, tmp_path / "c") == []
    (whole / "sha256.bin").write_bytes(bytes(100))  # cut off since
    assert prepared(manifest, tmp_path / "c") == []
    assert changed_since_prepared(manifest, tmp_path / "c") is None
    prepare(manifest, resolution=8, preprocessing="standard", cache=tmp_path / "c")  # asks the same markers


def test_a_card_counts_what_is_there(tmp_path: Path):
    """Nine films of six patients."""
    rows = [  # file, patient, split, age, sex, nodule, edema
        ("0", "a", "train", "39", "F", "1", "0"),
        ("1", "a", "train", "40", "F", "1", ""),
        ("2", "b", "train", "17", "M", "0", ""),
        ("3", "b", "train", "18", "M", "0", ""),
        ("4", "b", "train", "0", "M", "", "1"),
        ("5", "c", "val", "", "F", "0", ""),
        ("6", "d", "test", "", "", "1", "0"),
        ("7", "e", "test", "80", "M", "0", "0"),
        ("8", "f", "test", "59", "M", "0", "0"),
    ]
    columns = ["path", "patient", "partition", "age", "sex", "nodule", "edema"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "labels.csv", index=False)
    for name, picture in zip("012345678", (0, 1, 2, 0, 4, 5, 0, 4, 8), strict=True):
        miniatures.write_png(tmp_path / name, miniatures.picture(picture))
    named = {name: name for name in ("partition", "age", "sex")}
    options = {"table": "labels.csv", "findings": ["nodule", "edema"], "missing_cells": [""], **named}
    config = DatasetConfig(name="ours", source="csv", options=options)
    card = data_card(config, read(config, tmp_path), load(config, tmp_path))
    assert card["films_per_patient"] == {"mean": 1.5, "most": 3}
    assert card["partitions"] == {
        "train": {"images": 5, "patients": 2}, "val": {"images": 1, "patients": 1}, "test": {"images": 3, "patients": 3}
    }  # fmt: skip
    assert card["pathologies"]["nodule"]["train"] == {"positive": 2, "negative": 2, "prevalence": 0.5, "missing": 0.2}
    assert card["pathologies"]["edema"] == {
        "train": {"positive": 1, "negative": 1, "prevalence": 0.5, "missing": 0.6},
        "val": {"positive": 0, "negative": 0, "prevalence": None, "missing": 1.0},
        "test": {"positive": 0, "negative": 3, "prevalence": 0.0, "missing": 0.0},
    }
    assert card["ages"] == {"0-0": 1, "1-17": 1, "18-39": 2, "40-59": 2, "80-149": 1, "unknown": 2}
    assert card["sexes"] == {"M": 5, "F": 3, "unknown": 1}
    assert card["files"] == {  # picture 0 is there three times, picture 4 twice, each in train and test
        "readable": 9, "unreadable": 0, "reasons": {}, "duplicates": 3, "duplicates_across_partitions": 2,
    }  # fmt: skip
    for name in ("3", "6"):  # now picture 0 is there twice, in train alone
        miniatures.write_png(tmp_path / name, miniatures.picture(6 if name == "6" else 0))
    files = data_card(config, read(config, tmp_path), load(config, tmp_path))["files"]
    assert (files["duplicates"], files["duplicates_across_partitions"]) == (2, 1)


def test_a_file_that_is_gone_since_it_was_prepared_is_named_and_one_that_was_never_read_is_not(tmp_path: Path):
    miniatures.vindr_pcxr(tmp_path / "root")
    config = DatasetConfig(name="p", source="vindr_pcxr", quarantine_limit=0.1)
    names = list(load(config, tmp_path / "root").instances["path"])
    (tmp_path / "root" / names[3]).write_bytes(b"broken")
    manifest = load(config, tmp_path / "root")
    prepare(manifest, resolution=16, preprocessing="standard", cache=tmp_path / "c")
    assert changed_since_prepared(manifest, tmp_path / "c") == []
    (tmp_path / "root" / names[5]).unlink()
    assert changed_since_prepared(manifest, tmp_path / "c") == [names[5]]
