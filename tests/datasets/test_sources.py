"""What is particular to one source or another."""

import gzip
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from datasets.dataset_config import DatasetConfig
from datasets.errors import DatasetError
from datasets.external import check_external
from datasets.source_table import UNCERTAIN
from datasets.sources import load, names, read
from tests.datasets import miniatures


def _config(source: str, options: dict[str, object] | None = None, **settings) -> DatasetConfig:
    settings = {"uncertain": "zeros", "validation_fraction": 0.3, **settings}
    return DatasetConfig(name=source, source=source, options=options or {}, **settings)


def test_an_unknown_source_lists_those_that_exist(tmp_path: Path):
    with pytest.raises(DatasetError, match="unknown source 'chexprt'") as caught:
        load(_config("chexprt"), tmp_path)
    assert all(name in str(caught.value) for name in names())


def test_nih_reads_plain_images_and_the_origin(tmp_path: Path):
    miniatures.nih_chest_xray14(tmp_path)
    (tmp_path / "images").mkdir()
    for folder in tmp_path.glob("images_0*"):
        for image in (folder / "images").iterdir():
            image.rename(tmp_path / "images" / image.name)
    (tmp_path / "sources.csv").write_text("Image Index,source_repo\n00000001_000.png,somewhere\n")
    manifest = load(_config("nih_chest_xray14"), tmp_path)
    assert (tmp_path / manifest.instances["path"].iloc[0]).is_file()
    assert list(manifest.instances["origin"].dropna()) == ["somewhere"]


def test_nih_takes_reduced_copies_only_where_there_are_no_films(tmp_path: Path):
    miniatures.nih_chest_xray14(tmp_path)
    before = load(_config("nih_chest_xray14"), tmp_path)
    (tmp_path / "images-224").mkdir()
    for name in before.instances["path"].map(lambda path: Path(path).name):
        miniatures.write_png(tmp_path / "images-224" / name, miniatures.picture(0))
    assert load(_config("nih_chest_xray14"), tmp_path).fingerprint == before.fingerprint
    for folder in tmp_path.glob("images_0*"):
        shutil.rmtree(folder)
    alone = load(_config("nih_chest_xray14"), tmp_path)
    assert {Path(path).parent.name for path in alone.instances["path"]} == {"images-224"}


def test_nih_refuses_images_in_no_list(tmp_path: Path):
    miniatures.nih_chest_xray14(tmp_path)
    (tmp_path / "test_list.txt").write_text("")
    with pytest.raises(DatasetError, match="72 images are in neither split list"):
        load(_config("nih_chest_xray14"), tmp_path)


def test_nih_patients_in_both_lists_are_refused_and_counted(tmp_path: Path):
    miniatures.nih_chest_xray14(tmp_path)
    train, test = ((tmp_path / name).read_text().split() for name in ("train_val_list.txt", "test_list.txt"))
    (tmp_path / "train_val_list.txt").write_text("\n".join(train[1:]))
    (tmp_path / "test_list.txt").write_text("\n".join([*test, train[0]]))
    with pytest.raises(DatasetError, match="1 patients are in more than one partition"):
        load(_config("nih_chest_xray14"), tmp_path)


def test_nih_ages_that_nobody_has_are_not_given(tmp_path: Path):
    """The table of 2017 has some above 400."""
    miniatures.nih_chest_xray14(tmp_path)
    newer = tmp_path / "Data_Entry_2017_v2020.csv"
    header, *rows = (line.split(",") for line in newer.read_text().splitlines())
    newer.unlink()
    for row, age in zip(rows, ("120", "121", "414", ""), strict=False):
        row[4] = age
    (tmp_path / "Data_Entry_2017.csv").write_text("\n".join(",".join(line) for line in (header, *rows)))
    ages = read(_config("nih_chest_xray14"), tmp_path).instances["age"]
    np.testing.assert_array_equal(ages[:4], [120, np.nan, np.nan, np.nan])
    assert ages[4:].notna().all()


def test_chexpert_row_filter_views_and_blanks(tmp_path: Path):
    miniatures.chexpert(tmp_path)
    everything = read(_config("chexpert", {"views": "all", "blank": "ignore", "row_filter": False}), tmp_path)
    frontal = read(_config("chexpert", {"row_filter": False}), tmp_path)
    filtered = read(_config("chexpert", labels="paper"), tmp_path)
    assert len(everything.instances) == 2 * len(frontal.instances) == 2 * (miniatures.PATIENTS + 12)
    no_finding = everything.pathologies.index("no_finding")
    assert np.isnan(np.delete(everything.labels, no_finding, axis=1)).mean() == pytest.approx(0.25, abs=0.04)
    assert {0, 1} <= set(everything.labels[:, no_finding]) <= {0, 1, UNCERTAIN}  # its blank says that there is one
    assert not np.isnan(frontal.labels).any()
    assert set(filtered.instances["partition"]) == {""}  # drawn, as in paper 1
    uncertain = [name for name in filtered.pathologies if name in ("cardiomegaly", "lung_opacity", "lung_lesion")]
    columns = [filtered.pathologies.index(name) for name in uncertain]
    assert not (filtered.labels[:, columns] == -1).any()
    assert 0 < len(filtered.instances) < miniatures.PATIENTS


@pytest.mark.parametrize(
    ("test_set", "expected"),
    [(False, {"train": {"0"}, "test": {"1"}}), (True, {"train": {"0"}, "val": {"1"}, "test": {"2"}})],
)
def test_chexpert_valid_is_the_test_partition_unless_the_test_set_is_there(tmp_path: Path, test_set, expected):
    """Thousands of the patients' numbers: 0 in train.csv, 1 in valid.csv, 2 in test.csv, which names no view or age."""
    miniatures.chexpert(tmp_path)
    if test_set:
        names = [f"test/patient02{n:03d}/study1/view1_{view}.jpg" for n in range(5) for view in ("frontal", "lateral")]
        findings = miniatures.CHEXPERT_HEADER.split(",")[5:]
        rows = [[name, *[float(number % 4 == 0)] * 14] for number, name in enumerate(names)]
        miniatures.write_table(tmp_path / "CheXpert-v1.0-small/test.csv", ",".join(["Path", *findings]), rows)
    table = read(_config("chexpert"), tmp_path)
    patients = table.instances["patient"].groupby(table.instances["partition"])
    assert {part: {name[8] for name in of_part} for part, of_part in patients} == expected
    if test_set:
        test = (table.instances["partition"] == "test").to_numpy()
        assert table.labels[test].tolist() == [[value] * 14 for value in (1, 0, 1, 0, 1)]


def test_chexpert_paths_follow_the_folder_at_hand_not_the_archive(tmp_path: Path):
    miniatures.chexpert(tmp_path)
    root = tmp_path / "CheXpert-v1.0-small"
    renamed = root.rename(tmp_path / "my copy")
    manifest = load(_config("chexpert"), renamed)
    assert (renamed / manifest.instances["path"].iloc[0]).is_file()


def test_mimic_keeps_official_partitions_and_leaves_unlabelled_studies_out(tmp_path: Path):
    miniatures.mimic_cxr(tmp_path)
    manifest = load(_config("mimic_cxr"), tmp_path)
    assert len(manifest) == miniatures.PATIENTS - 1  # frontal only, one study without labels
    assert manifest.validation == "published"
    assert len(manifest.rows("val")) == miniatures.PATIENTS // 5
    assert load(_config("mimic_cxr", labels="paper"), tmp_path).validation.startswith("drawn")


def test_mimic_labels_are_those_of_the_labeler_that_is_asked_for(tmp_path: Path):
    miniatures.mimic_cxr(tmp_path)
    studies = gzip.decompress((tmp_path / "mimic-cxr-2.0.0-chexpert.csv.gz").read_bytes()).decode().split()[1:]
    found = [[*study.split(",")[:2], *["1.0"] * 14] for study in studies if "," in study]
    miniatures.write_table(tmp_path / "mimic-cxr-2.0.0-negbio.csv.gz", miniatures.MIMIC_LABELS, found)
    for labeler, all_present in (("negbio", True), ("chexpert", False)):
        labels = read(_config("mimic_cxr", {"labeler": labeler}), tmp_path).labels
        assert bool((labels == 1).all()) is all_present


@pytest.mark.parametrize(
    ("source", "file", "lateral", "other"),
    [
        ("mimic_cxr", "mimic-cxr-2.0.0-metadata.csv.gz", "LATERAL", "LL"),
        ("mimic_cxr", "mimic-cxr-2.0.0-metadata.csv.gz", "LATERAL", "RAO"),
        ("mimic_cxr", "mimic-cxr-2.0.0-metadata.csv.gz", "LATERAL", ""),
        ("padchest", f"{miniatures.PADCHEST_NAME}.gz", "L", "COSTAL"),
        ("padchest", f"{miniatures.PADCHEST_NAME}.gz", "L", "UNK"),
        ("padchest", f"{miniatures.PADCHEST_NAME}.gz", "L", "EXCLUDE"),
    ],
)
def test_no_other_view_counts_as_frontal(tmp_path: Path, source: str, file: str, lateral: str, other: str):
    miniatures.MINIATURES[source](tmp_path)
    frontal = read(_config(source), tmp_path).instances["path"].tolist()
    table = gzip.decompress((tmp_path / file).read_bytes()).decode()
    (tmp_path / file).write_bytes(gzip.compress(table.replace(f",{lateral},", f",{other},").encode()))
    assert read(_config(source), tmp_path).instances["path"].tolist() == frontal
    assert len(read(_config(source, {"views": "all"}), tmp_path).instances) > len(frontal)


@pytest.mark.parametrize("name", ["split", "metadata"])
def test_mimic_refuses_an_image_with_two_rows_without_naming_it(tmp_path: Path, name: str):
    miniatures.mimic_cxr(tmp_path)
    path = tmp_path / f"mimic-cxr-2.0.0-{name}.csv.gz"
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")
    path.write_bytes(gzip.compress("\n".join([*lines[:-1], lines[1], ""]).encode()))
    with pytest.raises(DatasetError, match=f"1 images have more than one row in the {name} table") as caught:
        load(_config("mimic_cxr"), tmp_path)
    assert lines[1].split(",")[0] not in str(caught.value)


def test_padchest_reads_terms_and_ages(tmp_path: Path):
    miniatures.padchest(tmp_path)
    table = read(_config("padchest"), tmp_path)
    assert len(table.instances) == 3 * miniatures.PATIENTS * 3 // 4 - 1  # laterals and the row `nan` are out
    assert table.instances["age"].iloc[0] == 84  # 2014 - 1930
    assert table.labels[0, table.pathologies.index("cardiomegaly")] == 1


@pytest.mark.parametrize(("vote", "positives"), [("majority", "truth"), ("any", "all"), ("soft", "share")])
def test_vindr_readers_vote(tmp_path: Path, vote: str, positives: str):
    miniatures.vindr_cxr(tmp_path)
    table = read(_config("vindr_cxr", {"vote": vote}, labels="paper"), tmp_path)
    train = table.labels[(table.instances["partition"] == "train").to_numpy()]
    expected = {"truth": {0.0, 1.0}, "all": {1.0}, "share": {1 / 3, 2 / 3}}[positives]
    assert {round(float(value), 4) for value in np.unique(train)} == {round(value, 4) for value in expected}
    manifest = load(_config("vindr_cxr", {"vote": "soft"}, labels="paper"), tmp_path)
    for partition in ("val", "test"):
        assert set(np.unique(manifest.labels[manifest.rows(partition)])) <= {0.0, 1.0}


def test_validation_on_test_is_offered_under_a_name_that_says_so(tmp_path: Path):
    miniatures.vindr_pcxr(tmp_path)
    manifest = load(_config("vindr_pcxr", {"validation_on_test": True}), tmp_path)
    val, test = (manifest.instances["path"].iloc[manifest.rows(part)] for part in ("val", "test"))
    assert set(val) == set(test)
    assert "optimistic" in manifest.validation


def test_pcxr_merges_bronchitis_and_bronchiolitis_for_the_paper(tmp_path: Path):
    miniatures.vindr_pcxr(tmp_path)
    paper, own = (read(_config("vindr_pcxr", labels=labels), tmp_path) for labels in ("paper", "conventional"))
    both = own.labels[:, [own.pathologies.index(name) for name in ("bronchitis", "bronchiolitis")]].max(axis=1)
    np.testing.assert_array_equal(paper.labels[:, 2], both)


def test_rsna_counts_an_image_with_two_boxes_once(tmp_path: Path):
    miniatures.rsna_pneumonia(tmp_path)
    table = read(_config("rsna_pneumonia"), tmp_path)
    assert len(table.instances) == miniatures.PATIENTS
    assert table.labels.sum() == len(range(0, miniatures.PATIENTS, 3))


def test_csv_severities_and_missing_cells(tmp_path: Path):
    options = miniatures.csv_table(tmp_path)
    table = read(_config("csv", options), tmp_path)
    assert table.pathologies == ("cardiomegaly", "congestion")
    assert table.labels[:, 0].mean() == pytest.approx(2 / 5)  # severities 3 and 4 of 0–4
    assert np.isnan(table.labels[:, 1]).any()
    assert set(table.instances["partition"]) == {"train", "val", "test"}


def test_csv_names_columns_that_are_not_there(tmp_path: Path):
    options = miniatures.csv_table(tmp_path) | {"findings": ["Cardiomegly"]}
    with pytest.raises(DatasetError, match=r"no column 'Cardiomegly'.*Cardiomegaly"):
        read(_config("csv", options), tmp_path)


@pytest.mark.parametrize("name", ["<b>", "a/b", "50 %", "", "macro", "macro_avg", 101 * "a"])
def test_a_pathology_whose_metric_mlflow_would_refuse_is_named(tmp_path: Path, name):
    options = miniatures.csv_table(tmp_path) | {"findings": {"Cardiomegaly": name}}
    with pytest.raises(DatasetError, match="cannot be the name of a metric"):
        read(_config("csv", options), tmp_path)


def test_a_pathology_with_one_class_is_named_with_its_counts(tmp_path: Path):
    miniatures.rsna_pneumonia(tmp_path)
    table = tmp_path / "stage_2_train_labels.csv"
    table.write_text("\n".join(line.removesuffix(",1") + ",0" if line.endswith(",1") else line
                               for line in table.read_text().split()))  # fmt: skip
    with pytest.raises(DatasetError, match=r"only one class in train for pneumonia \(0 positive, \d+ negative\)"):
        load(_config("rsna_pneumonia"), tmp_path)


@pytest.mark.parametrize(
    ("sources", "collections", "refused"),
    [
        (("csv", "csv"), ("hospital_a", "hospital_b"), False),
        (("csv", "csv"), ("hospital_a", "hospital_a"), True),
        (("phantom", "phantom"), ("phantom", "other_phantom"), False),
        (("csv", "phantom"), ("same", "same"), False),
        (("csv", "nih_chest_xray14"), ("hospital_a", "nih_chest_xray14"), False),
        (("chexpert", "chexpert"), ("chexpert", "chexpert_drawn"), True),  # the same images, read otherwise
        (("rsna_pneumonia", "nih_chest_xray14"), ("rsna", "nih"), True),
    ],
)
def test_what_is_external_is_told_by_collection(sources, collections, refused):
    other, trained_on = (DatasetConfig(name=n, source=s) for n, s in zip(collections, sources, strict=True))
    with pytest.raises(DatasetError, match=f"{other.name} is not external") if refused else nullcontext():
        check_external(other, trained_on=trained_on)


@pytest.mark.parametrize(("labels", "count"), [("conventional", 15), ("paper", 10)])
def test_the_kaggle_table_of_vindr_has_what_is_asked_of_it(tmp_path: Path, labels, count):
    classes = [(f"i{number}", name, number) for number, name in enumerate(KAGGLE_CLASSES)]
    rows = [[*one, reader, "", "", "", ""] for one in classes for reader in "abc"]
    miniatures.write_table(tmp_path / "train.csv", "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max", rows)
    table = read(_config("vindr_cxr", labels=labels), tmp_path)
    assert len(table.pathologies) == count == table.labels.shape[1]
    positives = dict(zip(table.pathologies, (table.labels == 1).sum(axis=0).tolist(), strict=True))
    assert positives == dict.fromkeys(table.pathologies, 1)
    assert ("calcification" in table.pathologies) is (labels == "conventional")


KAGGLE_CLASSES = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "ILD", "Infiltration",
    "Lung Opacity", "Nodule/Mass", "Other lesion", "Pleural effusion", "Pleural thickening", "Pneumothorax",
    "Pulmonary fibrosis", "No finding",
)  # fmt: skip
