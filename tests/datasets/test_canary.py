"""Strings planted wherever a patient could be named are found nowhere outside the data and their cache."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

from datasets.cache import open_cache, prepare
from datasets.dataset_config import DatasetConfig
from datasets.errors import DatasetError
from datasets.loaders import Batches
from datasets.sources import load
from tests.datasets.miniatures import picture, write_dicom, write_table

ROOT = Path(__file__).parents[2]
CANARIES = ("Canary^Erika", "CANARYID4711", "19370401", "canaryfile", "Canaryhausen", "Canaryward")
FILMS = 60
pytestmark = pytest.mark.slow  # nearly every test decodes in processes of its own


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    rows = []
    for number in range(FILMS):
        path = folder / f"canaryfile_{number}_19370401.dcm"
        write_dicom(path, picture(number))
        dataset = pydicom.dcmread(path)
        dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "Canary^Erika", "CANARYID4711", "19370401"
        dataset.InstitutionName = "Canaryhausen"
        block = dataset.private_block(0x0011, "Canaryward", create=True)
        block.add_new(0x01, "LO", "Canary^Erika")
        if number % 20 == 7:
            del dataset.PixelData  # some cannot be read: what is said about them matters most
        dataset.save_as(path)
        rows.append([path.name, f"CANARYID4711-{number}", number % 2, "Canaryward", "Canary^Erika"])
    write_table(folder / "labels.csv", "path,patient,Nodule,ward,name", rows)
    return folder


def _config(limit: float) -> DatasetConfig:
    options = {"findings": ["Nodule"]}
    return DatasetConfig(name="mine", source="csv", options=options, quarantine_limit=limit, validation_fraction=0.3)


def _silent(text: str) -> None:
    assert not [canary for canary in CANARIES if canary.lower() in text.lower()]


def test_errors_name_nobody(root: Path, tmp_path: Path):
    with pytest.raises(DatasetError, match="3 of 60 images are unreadable") as caught:
        prepare(load(_config(0.0), root), resolution=16, preprocessing="standard", cache=tmp_path / "c")
    _silent(str(caught.value))
    _silent(repr(caught.value.args))
    assert caught.value.__cause__ is None


def test_what_leaves_the_room_names_nobody(root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    manifest = load(_config(0.1), root)
    preparation = prepare(manifest, resolution=16, preprocessing="standard", cache=tmp_path / "c", workers=2)
    cache = open_cache(manifest, resolution=16, preprocessing="standard", cache=tmp_path / "c")
    batches = list(Batches(manifest, cache, partition="train", batch_size=8).epoch(1, workers=2))
    told = [preparation.quarantined, manifest.fingerprint, manifest.pixels, manifest.validation, manifest.pathologies]
    _silent(repr(told) + repr(batches))
    _silent("".join(capfd.readouterr()))
    assert len(preparation.quarantined) == 3


def test_files_of_the_cache_name_nobody_but_the_keepers_list(root: Path, tmp_path: Path):
    prepare(load(_config(0.1), root), resolution=16, preprocessing="standard", cache=tmp_path / "c")
    for path in (tmp_path / "c").rglob("*"):
        if path.is_file() and path.name != "quarantine.csv":
            _silent(path.name)
            _silent(path.read_bytes().decode("latin-1"))
    (kept,) = (tmp_path / "c").rglob("quarantine.csv")
    assert kept.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("arguments", [("verify",), ("verify", "--json"), ("prepare", "--resolution", "16")])
def test_the_command_line_names_nobody_even_when_it_fails(root: Path, tmp_path: Path, arguments: tuple[str, ...]):
    command, *rest = arguments
    cache = ["--cache", str(tmp_path / "c")] if command == "prepare" else []
    line = [sys.executable, "-m", "datasets", command, "csv", "--root", str(root), *cache, *rest]
    done = subprocess.run(
        [*line, "--option", 'findings=["Nodule"]'], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == (2 if command == "prepare" else 0)  # 3 of 60 is above the limit of 1 %
    assert "Nodule" in done.stdout or "nodule" in done.stdout + done.stderr or "unreadable" in done.stderr
    _silent(done.stdout + done.stderr)


def test_pixels_are_there_all_the_same(root: Path, tmp_path: Path):
    manifest = load(_config(0.1), root)
    prepare(manifest, resolution=16, preprocessing="standard", cache=tmp_path / "c")
    cache = open_cache(manifest, resolution=16, preprocessing="standard", cache=tmp_path / "c")
    assert np.flatnonzero(~cache.readable).tolist() == [7, 27, 47]
