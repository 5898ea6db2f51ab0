"""Strings planted wherever a patient could be named are found in the data and their cache, and nowhere else."""

import json

import numpy as np
import pydicom
import pytest

from tests.datasets.miniatures import picture, write_dicom, write_table
from tests.end_to_end.conftest import Command

pytestmark = pytest.mark.slow

CANARIES = (b"canary^erika", b"canaryid4711", b"19370401", b"canaryfile", b"canaryhausen", b"canaryward")
FILMS = 80
STUDY = """
name: tiny
axes: {dataset: mine, initialization: random, backbone: test_convnext2, resolution: 32}
search: {learning_rate: [1e-3, 1e-2]}
data:
  quarantine_limit: 0.1
  validation_fraction: 0.3
  mine: {source: csv, findings: [Nodule, Mass]}
recipe: {epochs: 2, batch_size: 16}
evaluation: {redraws: 100, metadata_baseline: true}
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    folder = tmp_path_factory.mktemp("canary")
    rows = []
    rng = np.random.default_rng(0)
    for number in range(FILMS):
        path = folder / "data" / f"canaryfile_{number}_19370401.dcm"
        write_dicom(path, picture(number))
        film = pydicom.dcmread(path)
        film.PatientName, film.PatientID, film.PatientBirthDate = "Canary^Erika", "CANARYID4711", "19370401"
        film.InstitutionName = "Canaryhausen"
        film.private_block(0x0011, "Canaryward", create=True).add_new(0x01, "LO", "Canary^Erika")
        if number % 40 == 7:
            del film.PixelData
        film.save_as(path)
        rows.append([path.name, f"CANARYID4711-{number}", *rng.integers(0, 2, 2), "Canaryward", "Canary^Erika"])
    write_table(folder / "data" / "labels.csv", "path,patient,Nodule,Mass,ward,name", rows)
    command = Command(folder, STUDY)
    place = ("--data-root", f"mine={folder / 'data'}")
    command.said = command("run", *place) + command("promote", *place)
    return command


def test_the_study_went_through(command):
    found = json.loads(command("report", "--json"))
    assert found["data"][0]["quarantined"] == 2
    assert found["cells"][0]["test"]


def test_nothing_that_was_written_names_a_patient(command):
    files = [path for path in command.storage.rglob("*") if path.is_file() and "cache" not in path.parts]
    assert {"mlflow.db", "optuna.db", "ledger.jsonl", "report.html", "scores.parquet"} <= {path.name for path in files}
    found = {
        (str(path.relative_to(command.storage)), canary)
        for path in files
        for canary in CANARIES
        if canary in path.read_bytes().lower()
    }
    assert found == set()


def test_nothing_that_was_said_names_a_patient(command):
    assert not [canary for canary in CANARIES if canary in command.said.encode().lower()]
