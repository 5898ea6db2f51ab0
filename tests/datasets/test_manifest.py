"""What makes data the same: names, sizes and a sample of content, but not every byte."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datasets.cache import open_cache, prepare
from datasets.dataset_config import DatasetConfig
from datasets.manifest import Manifest, sizes_of
from datasets.sources import load
from tests.datasets import miniatures

ROWS, SIZE = 20, 400_000
SAMPLED = {0, 2, 5, 8, 10, 13, 16, 19}  # eight of 0 to 19 at a distance of 19 / 7, rounded down
HEAD, GAP, MIDDLE, BEHIND = 65_535, 65_536, 200_000, 265_536  # the middle begins at 200,000 and has 65,536 bytes


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Twenty files that are no images; nobody decodes them here."""
    for row in range(ROWS):
        (tmp_path / f"{row:02d}.dcm").write_bytes(bytes(SIZE))
    rows = [[f"{row:02d}.dcm", f"P{row}", row % 2] for row in range(ROWS)]
    miniatures.write_table(tmp_path / "labels.csv", "path,patient,nodule", rows)
    return load(_config("mine"), tmp_path)


def _config(name: str) -> DatasetConfig:
    return DatasetConfig(name=name, source="csv", validation_fraction=0.3)


def _again(manifest: Manifest) -> Manifest:
    return manifest.fingerprinted(sizes_of(manifest.root, manifest.instances["path"]))


def _write(manifest: Manifest, row: int, position: int) -> None:
    with (manifest.root / f"{row:02d}.dcm").open("r+b") as file:
        file.seek(position)
        file.write(b"x")


@pytest.mark.parametrize(
    ("position", "noticed"), [(0, True), (HEAD, True), (GAP, False), (MIDDLE, True), (BEHIND, False)]
)
def test_other_content_at_equal_size_is_noticed_where_the_sample_is(manifest: Manifest, position: int, noticed: bool):
    for row in range(ROWS):
        _write(manifest, row, position)
    again = _again(manifest)
    assert (again.pixels != manifest.pixels) is noticed
    assert (again.fingerprint != manifest.fingerprint) is noticed


@pytest.mark.parametrize("column", ["case", "patient", "view", "age", "sex", "origin"])
def test_whose_images_they_are_is_told_apart_and_trains_no_other_network(manifest: Manifest, column: str):
    instances = manifest.instances.copy()
    before = manifest.people
    assert before == dataclasses.replace(manifest, instances=instances).people
    instances.loc[3, column] = 41 if column == "age" else "another"
    after = dataclasses.replace(manifest, instances=instances)
    assert after.people != before
    assert _again(after).fingerprint == manifest.fingerprint


def test_eight_files_are_sampled_spread_over_all(manifest: Manifest):
    noticed, known = set(), manifest
    for row in range(ROWS):
        _write(manifest, row, 0)
        again = _again(manifest)
        if again.pixels != known.pixels:
            noticed.add(row)
        known = again
    assert noticed == SAMPLED


@pytest.mark.parametrize("present", [0, 1, 7, 8])
def test_what_is_there_is_sampled_where_files_are_missing(manifest: Manifest, present: int):
    for row in range(ROWS - present):
        (manifest.root / f"{row:02d}.dcm").unlink()
    known = _again(manifest)
    for row in range(ROWS - present, ROWS):
        _write(manifest, row, 0)
        again = _again(manifest)
        assert again.pixels != known.pixels
        known = again


def test_a_file_that_cannot_be_read_counts_as_such(manifest: Manifest):
    sizes = sizes_of(manifest.root, manifest.instances["path"])
    (manifest.root / "05.dcm").unlink()  # it was there when the folder was listed
    assert manifest.fingerprinted(sizes).pixels != manifest.pixels


def _films(root: Path, draw: Callable[[int], np.ndarray]) -> Manifest:
    """Uncompressed DICOM: however they look, files of these names have these sizes."""
    for row in range(ROWS):
        miniatures.write_dicom(root / f"{row:02d}.dcm", draw(row))
    rows = [[f"{row:02d}.dcm", f"P{row}", row % 2] for row in range(ROWS)]
    miniatures.write_table(root / "labels.csv", "path,patient,nodule", rows)
    return load(_config(root.name), root)


def test_a_data_set_of_the_same_names_and_sizes_gets_pixels_of_its_own(tmp_path: Path):
    first = _films(tmp_path / "original", miniatures.picture)
    second = _films(tmp_path / "suppressed", lambda row: 255 - miniatures.picture(row))
    names = first.instances["path"]
    np.testing.assert_array_equal(sizes_of(first.root, names), sizes_of(second.root, names))
    settings = {"resolution": 16, "preprocessing": "plain", "cache": tmp_path / "cache"}
    pixels = []
    for manifest in (first, second):
        prepare(manifest, **settings)
        pixels.append(open_cache(manifest, **settings).pixels.astype(int))
    assert np.abs(pixels[0] + pixels[1] - 255).max() <= 1  # the second are the first, turned
