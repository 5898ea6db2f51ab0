"""Synthetic chest radiographs as real DICOM files, written when first asked for: a study without a download.

Several films per patient, two devices (one MONOCHROME1, one MONOCHROME2), correlated findings of four spatial
scales, some labels missing. The same options give the same bytes.
"""

import csv
import hashlib
import os
import shutil
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from pydantic import Field

from datasets.dataset_config import DatasetConfig
from datasets.phantom_drawing import BITS, Findings, Projection, draw
from datasets.source_options import SourceOptions, parse_options
from datasets.source_table import SourceTable, instance_rows, read_csv

PATHOLOGIES = ("cardiomegaly", "pleural_effusion", "nodule", "pneumothorax")
_VERSION = 1
_COLUMNS = ("path", "case", "patient", "view", "age", "sex", "device", "partition", *PATHOLOGIES)


class PhantomOptions(SourceOptions):
    """Settings of the source, given under `options`."""

    patients: int = Field(240, ge=12, le=100_000, description="each has 1 to 4 films, 2.5 on average")
    size: int = Field(384, ge=64, le=4096, description="side of the films in pixels")
    seed: int = Field(0, ge=0)
    test_fraction: float = Field(0.25, gt=0, lt=1, description="share of the patients in the test partition")
    missing: float = Field(0.05, ge=0, lt=1, description="share of labels that are not given")


OPTIONS = PhantomOptions


def read(root: Path, config: DatasetConfig) -> SourceTable:
    """Write the films if they are not there yet, then read `labels.csv` as any source reads its table."""
    options = parse_options(config, OPTIONS)
    folder = root / _name(options)
    if not (folder / "labels.csv").is_file():
        generate(folder, options)
    table = read_csv(folder / "labels.csv", columns=_COLUMNS)
    labels = table[list(PATHOLOGIES)].apply(pd.to_numeric).to_numpy(np.float32)
    instances = instance_rows(
        len(table),
        path=folder.name + "/" + table["path"],
        case=table["case"],
        patient=table["patient"],
        view=table["view"],
        age=table["age"].astype(float),
        sex=table["sex"],
        origin=table["device"],
        partition=table["partition"],
    )
    return SourceTable(instances=instances, labels=labels, pathologies=PATHOLOGIES, completeness="complete")


def generate(folder: Path, options: PhantomOptions) -> None:
    """Write the films and `labels.csv` into `folder`; two processes that ask at once write it once.

    Args:
        folder: appears only when it is complete.
        options: what to draw.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if (folder / "labels.csv").is_file():
            return
        aside = folder.parent / f".{folder.name}.part"
        shutil.rmtree(aside, ignore_errors=True)
        (aside / "films").mkdir(parents=True)
        films = _films(options)
        _write_all(films, aside, options)
        with (aside / "labels.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, _COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(films)
        aside.replace(folder)


def _name(options: PhantomOptions) -> str:
    digest = hashlib.sha256(f"{_VERSION}{options.model_dump_json()}".encode()).hexdigest()
    return f"phantom-{digest[:8]}"


def _films(options: PhantomOptions) -> list[dict[str, str]]:
    """Draw who is ill with what, and how often films were taken; one row per film."""
    rng = np.random.default_rng([options.seed, 1])
    films: list[dict[str, str]] = []
    for number in range(options.patients):
        age, sex = float(np.clip(rng.normal(58, 16), 18, 95)), "MF"[int(rng.integers(2))]
        due = int((number + 1) * options.test_fraction) > int(number * options.test_fraction)  # every fourth, at 0.25
        partition = "test" if due else "train"
        illness = _illness(age, rng)
        for study in range(int(rng.integers(1, 3))):
            for _ in range(int(rng.integers(1, 3))):
                given = rng.random(len(PATHOLOGIES)) >= options.missing
                films.append(
                    {
                        "path": f"films/{len(films):06d}.dcm",
                        "case": f"P{number:06d}-{study}",
                        "patient": f"P{number:06d}",
                        "view": "AP" if rng.random() < 0.25 + 0.25 * illness[1] else "PA",
                        "age": f"{age:.0f}",
                        "sex": sex,
                        "device": "AB"[int(rng.integers(2))],
                        "partition": partition,
                        "truth": "".join("01"[int(ill)] for ill in illness),
                        **{n: str(int(i)) if g else "" for n, i, g in zip(PATHOLOGIES, illness, given, strict=True)},
                    }
                )
    return films


def _illness(age: float, rng: np.random.Generator) -> np.ndarray:
    """Return bool (4,): cardiomegaly and effusion go together and with age, pneumothorax rather with youth."""
    heart = rng.normal()
    latent = np.array([heart, 0.6 * heart + 0.8 * rng.normal(), rng.normal(), rng.normal() - 0.2 * heart])
    return np.asarray(latent + np.array([0.02, 0.01, 0.005, -0.01]) * (age - 58) > 0.15)


def _write_all(films: list[dict[str, str]], folder: Path, options: PhantomOptions) -> None:
    work = partial(_write, folder=folder, options=options)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # numpy works outside the interpreter's lock
        deque(pool.map(work, range(len(films)), films), maxlen=0)


def _write(number: int, film: dict[str, str], *, folder: Path, options: PhantomOptions) -> None:
    from datasets import dicom

    rng = np.random.default_rng([options.seed, 2, number])
    findings = Findings(*(digit == "1" for digit in film["truth"]))
    values = draw(findings, Projection(film["view"], film["sex"]), size=options.size, rng=rng)
    tags: dict[str, object] = {
        "PatientID": film["patient"],
        "PatientName": f"Phantom^{film['patient']}",
        "PatientSex": film["sex"],
        "PatientAge": f"{int(film['age']):03d}Y",
        "ViewPosition": film["view"],
        "BodyPartExamined": "CHEST",
        "StudyID": film["case"],
        "PhotometricInterpretation": "MONOCHROME2",
        "WindowCenter": "2000",
        "WindowWidth": "3600",
    }
    if film["device"] == "A":
        values = (2**BITS - 1) - values
        tags |= {
            "PhotometricInterpretation": "MONOCHROME1",
            "WindowCenter": ["2096", "2600"],
            "WindowWidth": ["3600", "1600"],
        }
    digest = hashlib.sha256(f"{options.model_dump_json()}{number}".encode()).digest()
    uid = f"2.25.{int.from_bytes(digest[:16], 'big')}"
    dicom.write(folder / film["path"], values, bits=BITS, tags=tags, uid=uid)
