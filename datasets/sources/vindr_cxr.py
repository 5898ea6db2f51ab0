"""VinDr-CXR 1.0.0 (Nguyen et al., Scientific Data 2022): 15,000 + 3,000 radiographs; three readers in train."""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field

from datasets.dataset_config import DatasetConfig
from datasets.errors import DatasetError
from datasets.labels import canonical
from datasets.source_facts import compare
from datasets.source_options import PublishedTestOptions, parse_options
from datasets.source_table import SourceTable, instance_rows, read_csv

# tayebiarasteh/vit-med feature_data_provider.py.
_PAPER = (
    "cardiomegaly", "pleural_effusion", "pneumonia", "atelectasis", "no_finding", "consolidation", "pneumothorax",
    "pleural_thickening", "lung_opacity", "pulmonary_fibrosis", "nodule_mass",
)  # fmt: skip
# The six diagnoses that the readers gave the whole image (the other 22 are drawn findings).
_CONVENTIONAL = ("lung_tumor", "pneumonia", "tuberculosis", "other_disease", "copd", "no_finding")
# The Kaggle table has findings only: fourteen and No finding.
_KAGGLE = (
    "aortic_enlargement", "atelectasis", "calcification", "cardiomegaly", "consolidation", "interstitial_lung_disease",
    "infiltration", "lung_opacity", "nodule_mass", "other_lesion", "pleural_effusion", "pleural_thickening",
    "pneumothorax", "pulmonary_fibrosis", "no_finding",
)  # fmt: skip
_KAGGLE_TABLES = ("vinbigdata-train.csv.gz", "train.csv")
_KAGGLE_COLUMNS = ("image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max")
FACTS = {"images": 18_000, "train": 15_000, "test": 3_000}
KAGGLE_FACTS = {"images": 15_000}


class VindrOptions(PublishedTestOptions):
    """Settings of the source."""

    vote: Literal["majority", "any", "soft"] = Field(
        "majority", description="of the three readers: two of them, one of them, or the share of them (train only)"
    )


OPTIONS = VindrOptions


def read(root: Path, config: DatasetConfig) -> SourceTable:
    """Read annotations/image_labels_{train,test}.csv, or the Kaggle table where those are absent.

    There is no patient identifier: every image counts as a patient. The Kaggle variant has no labelled test
    images, so a fifth is drawn, and knows ten of paper 1's eleven labels (not pneumonia).
    """
    options = parse_options(config, OPTIONS)
    kaggle = next((root / name for name in _KAGGLE_TABLES if (root / name).is_file()), None)
    if kaggle is not None and not (root / "annotations").is_dir():
        return _read_kaggle(kaggle, options, tuple(n for n in _KAGGLE if config.labels != "paper" or n in _PAPER))
    train = read_csv(root / "annotations" / "image_labels_train.csv", columns=("image_id", "rad_id"))
    test = read_csv(root / "annotations" / "image_labels_test.csv", columns=("image_id",))
    pathologies = _PAPER if config.labels == "paper" else _CONVENTIONAL
    images, votes = tally(train, pathologies, reader="rad_id", vote=options.vote)
    held_out, consensus = tally(test, pathologies, reader="rad_id", vote="majority")
    instances = instances_of(images, "train", folder="train", ending=".dicom")
    tested = instances_of(held_out, "test", folder="test", ending=".dicom")
    instances = pd.concat([instances, tested], ignore_index=True)
    labels = np.concatenate([votes, consensus])
    completeness, differences = compare(FACTS, instances, labels, pathologies)
    return SourceTable(
        instances=instances,
        labels=labels,
        pathologies=pathologies,
        completeness=completeness,
        differences=differences,
        validation_on_test=options.validation_on_test,
    )


def tally(table: pd.DataFrame, pathologies: tuple[str, ...], *, reader: str, vote: str) -> tuple[pd.Series, np.ndarray]:
    """Put the readers of an image together.

    Args:
        table: one row per image and reader, 0/1 in the columns of the findings.
        pathologies: canonical names wanted.
        reader: the column that is no finding.
        vote: 'majority' (more than half), 'any' or 'soft' (the share).

    Returns:
        The images in order of appearance, and float32 (images, pathologies).
    """
    columns = {canonical(name): name for name in table.columns if name not in ("image_id", reader)}
    missing = [name for name in pathologies if name not in columns]
    if missing:
        raise DatasetError(
            f"no column for {', '.join(missing)}",
            "image_labels table",
            f"columns such as {', '.join(columns)}",
            "use the file as published",
        )
    marks = table[[columns[name] for name in pathologies]].apply(pd.to_numeric, errors="coerce")
    share = marks.groupby(table["image_id"], sort=False).mean()
    values = share.to_numpy(np.float32)
    if vote != "soft":
        above = values > (0.5 if vote == "majority" else 0)
        values = np.where(np.isnan(values), np.float32(np.nan), above.astype(np.float32))
    return share.index.to_series().reset_index(drop=True), values


def instances_of(images: pd.Series, partition: str, *, folder: str, ending: str) -> pd.DataFrame:
    """Return instance rows of images that are all that is known of their patients."""
    path = folder + "/" + images + ending
    return instance_rows(len(images), path=path, case=images, patient=images, partition=partition)


def _read_kaggle(path: Path, options: VindrOptions, pathologies: tuple[str, ...]) -> SourceTable:
    table = read_csv(path, columns=_KAGGLE_COLUMNS)
    marks = pd.get_dummies(table["class_name"], dtype=np.float32)
    marks = marks.groupby([table["image_id"], table["rad_id"]], sort=False).max().reset_index()
    images, labels = tally(marks, pathologies, reader="rad_id", vote=options.vote)
    instances = instances_of(images, "", folder="train", ending=".dicom")
    completeness, differences = compare(KAGGLE_FACTS, instances, labels, pathologies)
    return SourceTable(
        instances=instances,
        labels=labels,
        pathologies=pathologies,
        completeness=completeness,
        differences=differences,
        validation_on_test=options.validation_on_test,
    )
