"""Every source in `datasets/sources/`, read from a miniature in its official layout."""

import dataclasses
import gzip
import importlib
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from datasets.cache import open_cache, prepare
from datasets.dataset_config import DatasetConfig
from datasets.errors import DatasetError
from datasets.manifest import COLUMNS, Manifest
from datasets.source_options import SourceOptions
from datasets.sources import checked, load, names
from tests.datasets.miniatures import MINIATURES

LISTS = ("paper", "conventional")


@pytest.fixture(scope="module", params=names())
def miniature(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    source = request.param
    assert source in MINIATURES, f"a new source needs a miniature: add {source} to tests/datasets/miniatures.py"
    root = tmp_path_factory.mktemp(source) / "root"
    return source, root, MINIATURES[source](root)


def _config(miniature, **settings) -> DatasetConfig:
    source, _, options = miniature
    settings = {"validation_fraction": 0.3, "uncertain": "zeros", **settings}
    return DatasetConfig(name=f"my-{source}", source=source, options=options, **settings)


@pytest.fixture(scope="module")
def manifest(miniature) -> Manifest:
    return load(_config(miniature), miniature[1])


def test_rows_are_complete(manifest: Manifest):
    assert tuple(manifest.instances.columns) == COLUMNS
    assert manifest.labels.shape == (len(manifest), len(manifest.pathologies))
    assert manifest.labels.dtype == np.float32
    assert np.isin(manifest.labels[~np.isnan(manifest.labels)], (0, 1)).all()
    assert manifest.instances["age"].dtype == float
    assert set(manifest.instances["sex"].dropna()) <= {"M", "F"}
    assert not manifest.instances[["path", "case", "patient"]].isna().any().any()
    assert not manifest.instances["path"].duplicated().any()


def test_every_image_named_is_there(manifest: Manifest):
    missing = [path for path in manifest.instances["path"] if not (manifest.root / path).is_file()]
    assert not missing


def test_partitions_hold_images_and_share_no_patient(manifest: Manifest):
    patients = {part: set(manifest.instances["patient"].iloc[manifest.rows(part)]) for part in ("train", "val", "test")}
    assert all(patients.values())
    assert not patients["train"] & patients["val"]
    assert not (patients["train"] | patients["val"]) & patients["test"]


@pytest.mark.parametrize("labels", LISTS)
def test_both_label_lists_are_canonical(miniature, labels: str):
    manifest = load(_config(miniature, labels=labels), miniature[1])
    assert len(set(manifest.pathologies)) == len(manifest.pathologies) > 0
    assert all(name == name.lower() and name.replace("_", "").isalnum() for name in manifest.pathologies)


def test_reading_twice_gives_the_same_fingerprint_and_another_seed_another(miniature, manifest: Manifest):
    assert load(_config(miniature), miniature[1]).fingerprint == manifest.fingerprint
    other = load(_config(miniature, partition_seed=7), miniature[1])
    assert other.fingerprint != manifest.fingerprint or manifest.validation == "published"
    if set(other.instances["path"]) == set(manifest.instances["path"]):
        assert other.pixels == manifest.pixels  # partitions and labels share one cache


def test_every_image_can_be_prepared(manifest: Manifest, tmp_path: Path):
    preparation = prepare(manifest, resolution=16, preprocessing="standard", cache=tmp_path)
    cache = open_cache(manifest, resolution=16, preprocessing="standard", cache=tmp_path)
    assert preparation.quarantined == ()
    assert cache.readable.all()
    assert cache.pixels.reshape(len(manifest), -1).std(axis=1).min() > 0


def test_label_noise_touches_train_only(miniature, manifest: Manifest):
    noisy = load(_config(miniature, label_noise=0.5), miniature[1])
    train = manifest.rows("train")
    rest = np.setdiff1d(np.arange(len(manifest)), train)
    np.testing.assert_array_equal(noisy.labels[rest], manifest.labels[rest])
    assert (np.nan_to_num(noisy.labels[train]) != np.nan_to_num(manifest.labels[train])).any()
    assert noisy.fingerprint != manifest.fingerprint


def test_an_unknown_option_is_named(miniature):
    config = _config(miniature).model_copy(update={"options": {"misspelt": 1}})
    with pytest.raises(DatasetError, match=r"misspelt: Extra inputs are not permitted"):
        load(config, miniature[1])


def test_an_empty_folder_is_refused_with_what_was_expected(miniature, tmp_path: Path):
    if miniature[0] == "phantom":
        pytest.skip("the phantom writes what is missing")
    with pytest.raises(DatasetError) as caught:
        load(_config(miniature), tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "expected" in str(caught.value)


def test_a_missing_root_is_refused(miniature, tmp_path: Path):
    if miniature[0] == "phantom":
        pytest.skip("the phantom writes what is missing")
    with pytest.raises(DatasetError, match=r"no folder .*nowhere.*--data-root"):
        load(_config(miniature), tmp_path / "nowhere")


def test_a_table_without_one_of_its_columns_is_refused(miniature, tmp_path: Path):
    source, root, _ = miniature
    tables = sorted({*root.rglob("*.csv"), *root.rglob("*.csv.gz")})
    if source == "phantom":
        pytest.skip("its table is its own")
    for table in tables:
        _refuse_without_a_column(miniature, table)


def _refuse_without_a_column(miniature, table: Path) -> None:
    whole = table.read_bytes()
    text = gzip.decompress(whole).decode() if table.suffix == ".gz" else whole.decode()
    column = next(name for name in text.split("\n")[0].split(",") if name)  # the first is unnamed in PadChest
    damaged = text.replace(column, "Renamed", 1).encode()
    table.write_bytes(gzip.compress(damaged) if table.suffix == ".gz" else damaged)
    labels = "paper" if "detailed" in table.name else "conventional"
    try:
        with pytest.raises(DatasetError):
            load(_config(miniature, labels=labels), miniature[1])
    finally:
        table.write_bytes(whole)


def test_no_identifier_is_logged_or_told_in_errors(miniature, manifest: Manifest, tmp_path: Path, caplog):
    """The canary of this room: break every image, and look for paths and patients in what is said about it."""
    caplog.set_level(logging.DEBUG)
    broken = manifest.take(manifest.rows("train")[:5])
    nowhere = Manifest(**{**{f: getattr(broken, f) for f in broken.__dataclass_fields__}, "root": tmp_path / "gone"})
    with pytest.raises(DatasetError, match="5 of 5 images are unreadable") as caught:
        prepare(nowhere, resolution=16, preprocessing="standard", cache=tmp_path / "cache")
    said = str(caught.value) + caplog.text + json.dumps(str(caught.value.args))
    lenient = dataclasses.replace(nowhere, quarantine_limit=1.0)
    prepare(lenient, resolution=16, preprocessing="standard", cache=tmp_path / "cache")
    said += next((tmp_path / "cache").rglob("complete.json")).read_text()
    for row in broken.instances.itertuples():
        assert str(row.path).rsplit("/", 1)[-1] not in said
        assert f"{row.patient!r}" not in said


@pytest.mark.parametrize("source", names())
def test_options_bear_no_name_of_a_setting_of_every_data_set(source: str):
    """In a study file both stand in one mapping, so one would hide the other."""
    options = importlib.import_module(f"datasets.sources.{source}").OPTIONS
    assert issubclass(options, SourceOptions)
    assert set(options.model_fields) & set(DatasetConfig.model_fields) == set()


@pytest.mark.parametrize("source", names())
def test_defaults_that_are_written_out_ask_for_the_same_data(source: str):
    options = importlib.import_module(f"datasets.sources.{source}").OPTIONS
    written, plain = (DatasetConfig(name="d", source=source, options=o) for o in (options().model_dump(), {}))
    assert checked(written) == checked(plain) == plain
