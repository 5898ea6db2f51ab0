"""VinDr-PCXR / PediCXR 1.0.0 (Nguyen et al., 2023): 7,728 + 1,397 radiographs of children, one reader in train."""

from pathlib import Path

import numpy as np
import pandas as pd

from datasets.dataset_config import DatasetConfig
from datasets.source_facts import compare
from datasets.source_options import PublishedTestOptions, parse_options
from datasets.source_table import SourceTable, read_csv
from datasets.sources.vindr_cxr import instances_of, tally

_READ = ("no_finding", "bronchitis", "bronchopneumonia", "bronchiolitis", "other_disease", "pneumonia")
_CONVENTIONAL = _READ
# tayebiarasteh/vit-med feature_data_provider.py; the third is a merged column.
_PAPER = ("no_finding", "pneumonia", "bronchitis_bronchiolitis")
# Counted in the label files (train + test).
FACTS = {
    "images": 9_125, "train": 7_728, "test": 1_397, "no_finding": 6_050, "bronchitis": 1_016, "bronchopneumonia": 629,
    "bronchiolitis": 587, "other_disease": 489, "pneumonia": 481,
}  # fmt: skip
OPTIONS = PublishedTestOptions


def read(root: Path, config: DatasetConfig) -> SourceTable:
    """Read image_labels_{train,test}.csv from the root; every image counts as a patient, none is named."""
    options = parse_options(config, OPTIONS)
    parts = []
    for partition in ("train", "test"):
        table = read_csv(root / f"image_labels_{partition}.csv", columns=("image_id",))
        images, labels = tally(table, _READ, reader="rad_ID", vote="majority")
        parts.append((instances_of(images, partition, folder=partition, ending=".dicom"), labels))
    instances = pd.concat([part[0] for part in parts], ignore_index=True)
    labels = np.concatenate([part[1] for part in parts])
    completeness, differences = compare(FACTS, instances, labels, _READ)
    if config.labels == "paper":
        merged = np.maximum(labels[:, _READ.index("bronchitis")], labels[:, _READ.index("bronchiolitis")])
        labels = np.stack([labels[:, 0], labels[:, _READ.index("pneumonia")], merged], axis=1)
    return SourceTable(
        instances=instances,
        labels=labels,
        pathologies=_PAPER if config.labels == "paper" else _CONVENTIONAL,
        completeness=completeness,
        differences=differences,
        validation_on_test=options.validation_on_test,
    )
