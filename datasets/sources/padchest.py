"""PadChest (Bustos et al., Medical Image Analysis 2020): 160,861 radiographs of 67,625 patients, no official split."""

import ast
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from datasets.dataset_config import DatasetConfig
from datasets.labels import indicator
from datasets.source_facts import compare
from datasets.source_options import SourceOptions, parse_options
from datasets.source_table import SourceTable, instance_rows, read_csv

_TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
_COLUMNS = (
    "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM", "Projection",
    "Labels",
)  # fmt: skip
_FRONTAL = ("PA", "AP", "AP_horizontal")
_VIEWS = {"L": "LATERAL", "UNK": None, "EXCLUDE": None}

# The report's terms that mean a pathology. Terms are taken literally: PadChest's own tree would add, for example,
# the laminar atelectases; how paper 1 merged terms is not published.
_TERMS = {
    "cardiomegaly": ("cardiomegaly",),
    "pleural_effusion": ("pleural effusion",),
    "pneumonia": ("pneumonia",),
    "atelectasis": ("atelectasis",),
    "no_finding": ("normal",),
    "consolidation": ("consolidation",),
    "pneumothorax": ("pneumothorax",),
    "emphysema": ("emphysema",),
    "hernia": ("hiatal hernia",),
    "scoliosis": ("scoliosis",),
    "congestion": ("hilar congestion",),
    "aortic_elongation": ("aortic elongation",),
    "kyphosis": ("kyphosis",),
    "copd": ("COPD signs",),
    "pleural_thickening": ("pleural thickening",),
    "nodule_mass": ("nodule", "multiple nodules", "pulmonary mass", "mass"),
    "infiltration": ("infiltrates",),
    "nodule": ("nodule", "multiple nodules"),
    "mass": ("pulmonary mass", "mass"),
    "edema": ("pulmonary edema",),
    "pulmonary_fibrosis": ("pulmonary fibrosis",),
}
# tayebiarasteh/vit-med feature_data_provider.py.
_PAPER = (
    "cardiomegaly", "pleural_effusion", "pneumonia", "atelectasis", "no_finding", "consolidation", "pneumothorax",
    "emphysema", "hernia", "scoliosis", "congestion", "aortic_elongation", "kyphosis", "copd", "pleural_thickening",
    "nodule_mass", "infiltration",
)  # fmt: skip
# The fourteen of NIH ChestX-ray14, as torchxrayvision compares the collections.
_CONVENTIONAL = (
    "atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion", "emphysema", "pulmonary_fibrosis",
    "hernia", "infiltration", "mass", "nodule", "pleural_thickening", "pneumonia", "pneumothorax",
)  # fmt: skip
# Counted in the table itself (torchxrayvision 1.5.7), rows that have the term.
FACTS = {
    "images": 160_861, "patients": 67_625, "view PA": 91_728, "view LATERAL": 49_579, "view AP_horizontal": 14_346,
    "view AP": 4_559, "view COSTAL": 630, "no_finding": 50_616, "copd": 23_280, "aortic_elongation": 10_824,
}  # fmt: skip


class PadchestOptions(SourceOptions):
    """Settings of the source."""

    views: Literal["frontal", "all"] = "frontal"


OPTIONS = PadchestOptions


def read(root: Path, config: DatasetConfig) -> SourceTable:
    """Read the table; images lie in the numbered folders, in `root` or in its folder images/.

    Rows whose labels are missing (the text `nan`, 103 of them) are left out. A test partition of a fifth of
    the patients is drawn, as in paper 1.
    """
    options = parse_options(config, OPTIONS)
    path = next((p for p in (root / f"{_TABLE}.gz", root / _TABLE) if p.is_file()), root / _TABLE)
    table = read_csv(path, columns=_COLUMNS)
    prefix = "images/" if (root / "images").is_dir() else ""
    instances = instance_rows(
        len(table),
        path=prefix + table["ImageDir"] + "/" + table["ImageID"],
        case=table["StudyID"],
        patient=table["PatientID"],
        view=table["Projection"].replace(_VIEWS).replace("", None),
        age=_age(table),
        sex=table["PatientSex_DICOM"].where(table["PatientSex_DICOM"].isin(["M", "F"]), None),
    )
    terms = [_listed(cell) for cell in table["Labels"]]
    everything = tuple(_TERMS)
    labels = indicator([_named(listed or frozenset()) for listed in terms], everything)
    completeness, differences = compare(FACTS, instances, labels, everything)
    kept = np.array([listed is not None for listed in terms])
    if options.views == "frontal":
        kept &= table["Projection"].isin(_FRONTAL).to_numpy()
    pathologies = _PAPER if config.labels == "paper" else _CONVENTIONAL
    return SourceTable(
        instances=instances[kept].reset_index(drop=True),
        labels=labels[kept][:, [everything.index(name) for name in pathologies]],
        pathologies=pathologies,
        completeness=completeness,
        differences=differences,
    )


def _listed(cell: str) -> frozenset[str] | None:
    """Return the terms of a cell that holds the text of a Python list, None where there is no list."""
    try:
        listed = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(listed, list):
        return None
    return frozenset(str(term).strip() for term in listed) - {""}


def _named(terms: frozenset[str]) -> list[str]:
    return [name for name, meant in _TERMS.items() if terms.intersection(meant)]


def _age(table: pd.DataFrame) -> pd.Series:
    year = pd.to_numeric(table["StudyDate_DICOM"].str[:4], errors="coerce")
    age = year - pd.to_numeric(table["PatientBirth"], errors="coerce")
    return age.where((age >= 0) & (age <= 120))
