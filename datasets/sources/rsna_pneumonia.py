"""RSNA Pneumonia Detection Challenge (Shih et al., 2019): 26,684 radiographs out of NIH ChestX-ray14."""

from pathlib import Path

import numpy as np
import pandas as pd

from datasets.dataset_config import DatasetConfig
from datasets.errors import DatasetError
from datasets.source_facts import compare
from datasets.source_options import SourceOptions, parse_options
from datasets.source_table import SourceTable, instance_rows, read_csv

_CONVENTIONAL = ("pneumonia",)
# The three classes of the detailed file, as the second study's split has them.
_CLASSES = {
    "Normal": "no_finding",
    "Lung Opacity": "lung_opacity",
    "No Lung Opacity / Not Normal": "abnormal_without_opacity",
}
# Counted in the challenge's label and header tables (torchxrayvision 1.5.7).
FACTS = {"images": 26_684, "patients": 26_684, "pneumonia": 6_012}
OPTIONS = SourceOptions


def read(root: Path, config: DatasetConfig) -> SourceTable:
    """Read stage_2_train_labels.csv (a row per box) and, for the paper's list, stage_2_detailed_class_info.csv.

    The challenge gives every image a patient number of its own. No partition is published: a fifth is drawn.
    """
    parse_options(config, OPTIONS)
    boxes = read_csv(root / "stage_2_train_labels.csv", columns=("patientId", "x", "y", "width", "height", "Target"))
    target = pd.to_numeric(boxes["Target"], errors="coerce").groupby(boxes["patientId"], sort=True).max()
    images = target.index.to_series().reset_index(drop=True)
    labels = target.to_numpy(np.float32)[:, None]
    instances = instance_rows(len(images), path="stage_2_train_images/" + images + ".dcm", case=images, patient=images)
    completeness, differences = compare(FACTS, instances, labels, _CONVENTIONAL)
    pathologies: tuple[str, ...] = _CONVENTIONAL
    if config.labels == "paper":
        labels, pathologies = _detailed(root, images), tuple(_CLASSES.values())
    return SourceTable(
        instances=instances,
        labels=labels,
        pathologies=pathologies,
        completeness=completeness,
        differences=differences,
    )


def _detailed(root: Path, images: pd.Series) -> np.ndarray:
    table = read_csv(root / "stage_2_detailed_class_info.csv", columns=("patientId", "class"))
    classes = images.map(dict(zip(table["patientId"], table["class"], strict=True)))
    unknown = int((~classes.isin(list(_CLASSES))).sum())
    if unknown:
        raise DatasetError(
            f"{unknown} images have no known class", "stage_2_detailed_class_info.csv", f"one of {', '.join(_CLASSES)}"
        )
    return np.stack([classes.eq(name).to_numpy(np.float32) for name in _CLASSES], axis=1)
