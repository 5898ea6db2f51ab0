"""What the source for any table refuses, so that no patient, image or label is taken for another."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datasets.dataset_config import DatasetConfig
from datasets.errors import DatasetError
from datasets.manifest import Manifest
from datasets.source_table import UNCERTAIN
from datasets.sources import load, read
from tests.datasets import miniatures


def _load(root: Path, change: Callable[[pd.DataFrame], pd.DataFrame], **options: object) -> Manifest:
    """Load the miniature after `change` to its table, whose columns are file, patient_id, split, …, age."""
    given = miniatures.csv_table(root) | options
    path = root / "labels.csv"
    change(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)
    config = DatasetConfig(name="mine", source="csv", options=given, uncertain="zeros", validation_fraction=0.3)
    return load(config, root)


def _cell(column: str, row: int, value: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[row, column] = value
        return table

    return change


def _visits(table: pd.DataFrame) -> pd.DataFrame:
    """Number the examinations anew for every patient."""
    return table.assign(visit=table.groupby("patient_id").cumcount().astype(str))


def _again(**changed: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Repeat the first row, in some of its cells otherwise."""
    return lambda table: pd.concat([table, table.iloc[:1].assign(**changed)], ignore_index=True)


def _from_the_root(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(file="films/" + table["file"])


def test_an_image_that_is_named_by_its_absolute_path_too_is_refused(tmp_path: Path):
    def change(table: pd.DataFrame) -> pd.DataFrame:
        return _again(file=str(tmp_path / "films" / "0.png"), patient_id="Somebody else")(_from_the_root(table))

    assert _load(tmp_path, _from_the_root, images="").instances["path"].str.startswith("films/").all()
    with pytest.raises(DatasetError, match="1 rows name an image that another row has named"):
        _load(tmp_path, change, images="")


def test_a_table_that_is_all_test_is_read_whole(tmp_path: Path):
    manifest = _load(tmp_path, lambda table: table.assign(split="test"))
    assert len(manifest.rows("test")) == len(manifest) > 0
    assert manifest.validation == "none: all images are test"


def test_two_columns_of_one_name_are_refused(tmp_path: Path):
    options = miniatures.csv_table(tmp_path)
    path = tmp_path / "labels.csv"
    path.write_text(path.read_text().replace(",Congestion,", ",Cardiomegaly,", 1))
    config = DatasetConfig(name="mine", source="csv", options=options | {"findings": ["Cardiomegaly"]})
    with pytest.raises(DatasetError, match=r"labels.csv has several columns 'Cardiomegaly'"):
        load(config, tmp_path)


def test_a_quotation_mark_that_is_not_closed_swallows_no_rows(tmp_path: Path):
    options = miniatures.csv_table(tmp_path)
    path = tmp_path / "labels.csv"
    lines = path.read_text().splitlines(keepends=True)
    for row in (3, 23):
        lines[row] = lines[row].replace("Pat ", '"Pat ')
    path.write_text("".join(lines))
    config = DatasetConfig(name="mine", source="csv", options=options)
    with pytest.raises(DatasetError, match=r"1 cells go over several lines, the first in row 3 .*'patient_id'"):
        load(config, tmp_path)


def test_blanks_around_identifiers_make_no_second_patient_case_or_image(tmp_path: Path):
    plain = _load(tmp_path / "plain", lambda table: table, case="patient_id")

    def blank(table: pd.DataFrame) -> pd.DataFrame:
        every_other = table.index % 2 == 0  # each patient has two films: one of them is blank
        for column in ("file", "patient_id"):
            table[column] = table[column].where(every_other, " " + table[column] + "\u00a0 ")
        return table

    manifest = _load(tmp_path / "blank", blank, case="patient_id")
    assert manifest.fingerprint == plain.fingerprint
    pd.testing.assert_frame_equal(manifest.instances, plain.instances)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (_visits, {"case": "visit"}, r"2 cases have more than one patient \(data set mine, column of the cases\)"),
        (_cell("patient_id", 4, ""), {}, r"1 cells are empty, the first in row 5 .*column 'patient_id'"),
        (_cell("patient_id", 4, "  "), {}, r"1 cells are empty, the first in row 5 .*column 'patient_id'"),
        (_cell("file", 7, ""), {}, r"1 cells are empty, the first in row 8 .*column 'file'"),
        (_again(), {}, r"1 rows name an image that another row has named, the first is row 121 .*column 'file'"),
        (_again(Congestion="no"), {}, "1 rows name an image that another row has named"),
        (_again(patient_id="Somebody else"), {}, "1 rows name an image that another row has named"),
        (_again(patient_id="Somebody else", split="test"), {}, "1 rows name an image that another row has named"),
        (_again(file="./0.png", patient_id="Somebody else"), {}, "1 rows name an image that another row has named"),
    ],
)
def test_what_would_merge_or_part_patients_and_images_is_refused(tmp_path: Path, change, options, message):
    with pytest.raises(DatasetError, match=message) as caught:
        _load(tmp_path, change, **options)
    assert "Somebody" not in str(caught.value)
    assert "Pat " not in str(caught.value)
    assert ".png" not in str(caught.value)


def test_columns_that_are_not_named_keep_the_default_cells(tmp_path: Path):
    manifest = _load(tmp_path, lambda table: table)  # severities of cardiomegaly are declared, "yes" and "no" are not
    for column, given in enumerate(((3, 4), ("yes",))):
        cells = pd.read_csv(tmp_path / "labels.csv")[("Cardiomegaly", "Congestion")[column]]
        labels = pd.Series(manifest.labels[:, column])
        assert (labels[cells.notna()] == cells[cells.notna()].isin(given)).all()
        assert labels[cells.isna()].isna().all()


_SEVERITIES = {"Cardiomegaly": ["3", "4"]}


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            _cell("Congestion", 3, "negative"),
            {},
            r"1 cells have no declared meaning and 0 have several, the first in row 4 .*, column 'Congestion'",
        ),
        (_cell("Congestion", 3, "2"), {}, "1 cells have no declared meaning"),
        (lambda table: table, {"negative_cells": ["0", "no"]}, r"48 cells have no declared meaning.*'Cardiomegaly'"),
        (lambda table: table, {"negative_cells": ["0", "1", "2", "3", "no"]}, "0 cells .* and 24 have several"),
        (lambda table: table, {"missing_cells": []}, r"39 cells have no declared meaning.*'Congestion'"),
        (
            lambda table: table,
            {"positive_cells": {**_SEVERITIES, "Congesion": ["yes"]}},
            r"positive_cells names 'Congesion', which is no column of a finding.*among Cardiomegaly, Congestion",
        ),
        (lambda table: table, {"negative_cells": {"sex": ["m"]}}, "negative_cells names 'sex'"),
    ],
)
def test_a_cell_that_means_nothing_or_two_things_is_refused_with_its_column(tmp_path: Path, change, options, message):
    with pytest.raises(DatasetError, match=message):
        _load(tmp_path, change, **options)


def test_every_meaning_can_be_declared(tmp_path: Path):
    words = ["Present", " absent ", "perhaps", "unread"]
    options = {
        "positive_cells": {**_SEVERITIES, "Congestion": ["present"]},
        "negative_cells": {"Cardiomegaly": ["0", "1", "2"], "Congestion": ["ABSENT"]},
        "uncertain_cells": ["perhaps"],
        "missing_cells": ["unread"],
    }
    given = miniatures.csv_table(tmp_path) | options
    table = pd.read_csv(tmp_path / "labels.csv", dtype=str)
    table.assign(Congestion=words * 30).to_csv(tmp_path / "labels.csv", index=False)
    read_table = read(DatasetConfig(name="mine", source="csv", options=given), tmp_path)
    np.testing.assert_array_equal(read_table.labels[:4, 1], [1, 0, UNCERTAIN, np.nan])


@pytest.mark.parametrize(
    ("cell", "age"),
    [
        ("54", 54), ("54.5", 54.5), (" 0 ", 0), ("120", 120),
        ("040Y", 40), ("40y", 40), ("006M", 0.5), ("003W", 21 / 365.25), ("010D", 10 / 365.25),
        ("", np.nan), ("NaN", np.nan), ("none", np.nan),
    ],
)  # fmt: skip
def test_ages_are_read_in_years_and_as_in_dicom(tmp_path: Path, cell: str, age: float):
    manifest = _load(tmp_path, _cell("age", 4, cell))
    np.testing.assert_allclose(manifest.instances["age"].iloc[3:5], [53, age])


@pytest.mark.parametrize(
    ("cell", "sex"),
    [
        ("M", "M"), ("male", "M"), ("männlich", "M"), ("Mann", "M"), ("man", "M"),
        ("F", "F"), (" Female", "F"), ("W", "F"), ("weiblich", "F"), ("Frau", "F"), ("woman", "F"),
        ("O", None), ("other", None), ("", None), ("NA", None),
    ],
)  # fmt: skip
def test_sexes_are_read_in_letters_and_words(tmp_path: Path, cell: str, sex: str | None):
    found = _load(tmp_path, _cell("sex", 4, cell)).instances["sex"]
    assert (None if pd.isna(found.iloc[4]) else found.iloc[4]) == sex
    assert found.drop(index=4).isin(["M", "F"]).all()


@pytest.mark.parametrize(
    ("column", "cell", "allowed"),
    [
        ("age", "999", "years from 0 to 120, also as 045Y, 006M, 003W or 010D"),
        ("age", "-1", "years from 0 to 120"),
        ("age", "121", "years from 0 to 120"),
        ("age", "130Y", "years from 0 to 120"),
        ("age", "inf", "years from 0 to 120"),
        ("age", "45,5", "years from 0 to 120"),
        ("age", "0045Y", "years from 0 to 120"),
        ("age", "unknown", "years from 0 to 120"),
        ("sex", "unknown", "one of m, male, man, männlich, mann, f, female, woman, w, weiblich, frau, o, other"),
        ("sex", "divers", "one of m, male"),
    ],
)
def test_an_age_or_sex_that_means_nothing_is_refused_unless_it_is_declared(
    tmp_path: Path, column: str, cell: str, allowed: str
):
    message = (
        rf"2 cells mean nothing, the first in row 5 below the header \(labels.csv, column '{column}'\); "
        rf"expected {allowed}.*`missing_cells`"
    )

    def change(table: pd.DataFrame) -> pd.DataFrame:
        return _cell(column, 4, cell)(_cell(column, 9, cell)(table))

    with pytest.raises(DatasetError, match=message) as caught:
        _load(tmp_path / "refused", change)
    assert f"'{cell}'" not in str(caught.value)
    declared = _load(tmp_path / "declared", change, missing_cells=["", cell])
    assert np.flatnonzero(declared.instances[column].isna()).tolist() == [4, 9]
