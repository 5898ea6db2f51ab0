"""NIH ChestX-ray14 (Wang et al., CVPR 2017): 112,120 frontal radiographs of 30,805 patients, official split."""

from pathlib import Path

import numpy as np
import pandas as pd

from datasets.dataset_config import DatasetConfig
from datasets.errors import DatasetError
from datasets.labels import canonical, indicator
from datasets.source_facts import compare
from datasets.source_options import SourceOptions, parse_options
from datasets.source_table import SourceTable, instance_rows, read_csv

_COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position")
_TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
_LISTS = {"train": ("train_val_list.txt", "train_val_list_NIH.txt"), "test": ("test_list.txt", "test_list_NIH.txt")}
_OLDEST = 120.0  # the table of 2017 has ages above 400, which v2020 repaired

# tayebiarasteh/vit-med feature_data_provider.py: Infiltration dropped, No Finding added.
_PAPER = (
    "cardiomegaly", "pleural_effusion", "pneumonia", "atelectasis", "no_finding", "consolidation", "pneumothorax",
    "pulmonary_fibrosis", "emphysema", "hernia", "pleural_thickening", "edema", "nodule", "mass",
)  # fmt: skip
# The fourteen of the data set's own paper, alphabetical.
_CONVENTIONAL = (
    "atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion", "emphysema", "pulmonary_fibrosis",
    "hernia", "infiltration", "mass", "nodule", "pleural_thickening", "pneumonia", "pneumothorax",
)  # fmt: skip

# Counted in the table and the lists themselves (torchxrayvision 1.5.7, lulucikyo/CheXNet).
FACTS = {
    "images": 112_120, "patients": 30_805, "train": 86_524, "test": 25_596, "view PA": 67_310, "view AP": 44_810,
    "infiltration": 19_894, "pleural_effusion": 13_317, "atelectasis": 11_559, "nodule": 6_331, "mass": 5_782,
    "pneumothorax": 5_302, "consolidation": 4_667, "pleural_thickening": 3_385, "cardiomegaly": 2_776,
    "emphysema": 2_516, "edema": 2_303, "pulmonary_fibrosis": 1_686, "pneumonia": 1_431, "hernia": 227,
    "no_finding": 60_361,
}  # fmt: skip
OPTIONS = SourceOptions


def read(root: Path, config: DatasetConfig) -> SourceTable:
    """Read the official tables and lists.

    Images lie in images_001/images … images_012/images (as published) or in images/; where neither is there, in
    images-224/ (reduced copies, which must not stand in for the films). An optional sources.csv
    (`Image Index,source_repo`) beside the labels fills the column `origin`.
    """
    parse_options(config, OPTIONS)
    entries = read_csv(_first_that_exists(root, _TABLES), columns=_COLUMNS)
    images = entries["Image Index"]
    pathologies = _PAPER if config.labels == "paper" else _CONVENTIONAL
    findings = [[canonical(name) for name in cell.split("|")] for cell in entries["Finding Labels"]]
    age = pd.to_numeric(entries["Patient Age"], errors="coerce")
    instances = instance_rows(
        len(entries),
        path=images.map(_paths(root, images)),
        case=entries["Patient ID"] + "-" + entries["Follow-up #"] if "Follow-up #" in entries else images,
        patient=entries["Patient ID"],
        view=entries["View Position"].replace("", None),
        age=age.where(age <= _OLDEST),
        sex=entries["Patient Gender"].where(entries["Patient Gender"].isin(["M", "F"]), None),
        origin=_origin(root, images),
        partition=_partition(root, images),
    )
    everything = tuple(dict.fromkeys((*_CONVENTIONAL, *_PAPER)))
    completeness, differences = compare(FACTS, instances, indicator(findings, everything), everything)
    return SourceTable(
        instances=instances,
        labels=indicator(findings, pathologies),
        pathologies=pathologies,
        completeness=completeness,
        differences=differences,
    )


def _first_that_exists(root: Path, names: tuple[str, ...]) -> Path:
    return next((root / name for name in names if (root / name).is_file()), root / names[0])


def _paths(root: Path, images: pd.Series) -> dict[str, str]:
    """Map each image to the folder that holds it; one that is nowhere is expected in the first folder."""
    folders = ["images"] if (root / "images").is_dir() else []
    folders += sorted(f"{folder.parent.name}/images" for folder in root.glob("images_[0-9]*/images"))
    folders = folders or [folder for folder in ("images-224",) if (root / folder).is_dir()]
    if not folders:
        raise DatasetError(
            "no folder of images", str(root), "images_001/images … images_012/images, or images/", "unpack the archives"
        )
    if len(folders) == 1:
        return {image: f"{folders[0]}/{image}" for image in images}
    found = {path.name: f"{folder}/{path.name}" for folder in folders for path in (root / folder).iterdir()}
    return {image: found.get(image, f"{folders[0]}/{image}") for image in images}


def _partition(root: Path, images: pd.Series) -> np.ndarray:
    partition = pd.Series("", index=images.index)
    for name, files in _LISTS.items():
        path = _first_that_exists(root, files)
        if not path.is_file():
            raise DatasetError(
                f"no file {path.name}", str(root), "the official split lists", "copy them beside the table"
            )
        partition[images.isin(set(path.read_text().split()))] = name
    absent = int((partition == "").sum())
    if absent:
        raise DatasetError(
            f"{absent} images are in neither split list",
            str(root),
            "every image in train_val_list.txt or test_list.txt",
            "use table and lists of one release",
        )
    return partition.to_numpy()


def _origin(root: Path, images: pd.Series) -> pd.Series | None:
    if not (root / "sources.csv").is_file():
        return None
    sources = read_csv(root / "sources.csv", columns=("Image Index", "source_repo"))
    return images.map(dict(zip(sources["Image Index"], sources["source_repo"], strict=True)))
