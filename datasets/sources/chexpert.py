"""CheXpert and CheXpert-small (Irvin et al., AAAI 2019): 223,414 training radiographs of 64,540 patients."""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field

from datasets.dataset_config import DatasetConfig
from datasets.errors import DatasetError
from datasets.labels import canonical, fill_blanks
from datasets.source_facts import compare
from datasets.source_options import SourceOptions, parse_options
from datasets.source_table import UNCERTAIN, SourceTable, instance_rows, read_csv

FINDINGS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
_COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS)
# tayebiarasteh/vit-med feature_data_provider.py.
PAPER = (
    "cardiomegaly", "pleural_effusion", "pneumonia", "atelectasis", "no_finding", "consolidation", "pneumothorax",
    "lung_opacity", "lung_lesion", "fracture",
)  # fmt: skip
# tayebiarasteh/chestx csv_data_preprocess.py `threetwo_remover`: rows with one of these uncertain are left out.
_FILTERED = ("cardiomegaly", "lung_opacity", "lung_lesion", "pneumonia", "edema")
# Counted in train.csv (torchxrayvision 1.5.7).
FACTS = {
    "images": 223_414, "patients": 64_540, "view AP": 161_590, "view PA": 29_420, "view LATERAL": 32_387,
    "uncertain atelectasis": 33_739, "uncertain consolidation": 27_742, "uncertain pneumonia": 18_770,
    "uncertain edema": 12_984, "uncertain enlarged_cardiomediastinum": 12_403, "uncertain pleural_effusion": 11_628,
    "uncertain cardiomegaly": 8_087, "uncertain lung_opacity": 5_598, "uncertain pneumothorax": 3_145,
}  # fmt: skip


class ChexpertOptions(SourceOptions):
    """Settings of the source."""

    partitions: Literal["official", "drawn"] | None = Field(
        None,
        description="official: the test set is the test partition if its table lies beside train.csv as test.csv, a "
        "name that it must be given, else valid.csv is; drawn: a fifth of the training patients is, as in paper 1; not "
        "given: drawn with paper labels, else official",
    )
    row_filter: bool | None = Field(
        None, description="leave out rows with an uncertain label, as paper 1 does; not given: with paper labels"
    )
    views: Literal["frontal", "all"] = "frontal"
    blank: Literal["zeros", "ignore"] = Field(
        "zeros", description="a finding that the report does not mention; no_finding is 0 then"
    )


OPTIONS = ChexpertOptions


def read(root: Path, config: DatasetConfig) -> SourceTable:
    """Read train.csv and, for official partitions, valid.csv and the test set's table.

    The tables lie in `root` or in its folder CheXpert-v1.0 or CheXpert-v1.0-small. Their paths begin with the
    name the archive had when they were written; the folder at hand counts instead.
    """
    options = parse_options(config, OPTIONS)
    paper = config.labels == "paper"
    official = (options.partitions or ("drawn" if paper else "official")) == "official"
    folder = _folder(root)
    prefix = "" if folder == root else f"{folder.name}/"
    parts = [_part(folder, "train.csv", prefix, "train" if official else "")]
    completeness, differences = compare(FACTS, *parts[0], tuple(map(canonical, FINDINGS)))
    if official:
        parts += _held_out(folder, prefix)
    instances = pd.concat([part[0] for part in parts], ignore_index=True)
    labels = np.concatenate([part[1] for part in parts])
    kept = _kept(instances, labels, options, filtered=paper if options.row_filter is None else options.row_filter)
    pathologies = PAPER if paper else tuple(map(canonical, FINDINGS))
    columns = [tuple(map(canonical, FINDINGS)).index(name) for name in pathologies]
    labels = labels[kept][:, columns]
    return SourceTable(
        instances=instances[kept].reset_index(drop=True),
        labels=fill_blanks(labels, pathologies, options.blank),
        pathologies=pathologies,
        completeness=completeness,
        differences=differences,
    )


def report_labels(table: pd.DataFrame, findings: tuple[str, ...]) -> np.ndarray:
    """Return float32 (rows, findings) of the CheXpert labeler's cells: 1, 0, -1 uncertain, NaN not mentioned."""
    cells = table[list(findings)].replace("", np.nan).apply(pd.to_numeric, errors="coerce")
    labels = np.asarray(cells, dtype=np.float32)
    strange = int((~(np.isnan(labels) | (labels == 0) | (labels == 1) | (labels == UNCERTAIN))).sum())
    if strange:
        raise DatasetError(
            f"{strange} label cells are none of 1.0, 0.0, -1.0 and empty", fix="use the table as published"
        )
    return labels


def _folder(root: Path) -> Path:
    candidates = (root, root / "CheXpert-v1.0", root / "CheXpert-v1.0-small")
    return next((folder for folder in candidates if (folder / "train.csv").is_file()), root)


def _part(folder: Path, name: str, prefix: str, partition: str) -> tuple[pd.DataFrame, np.ndarray]:
    table = read_csv(folder / name, columns=_COLUMNS if name != "test.csv" else ("Path", *FINDINGS))
    table = table.reindex(columns=list(_COLUMNS), fill_value="")
    inside = table["Path"].str.extract(r"((?:train|valid|test)/(patient\d+)/(study\d+)/.*)$")
    if inside[0].isna().any():
        raise DatasetError(
            f"{int(inside[0].isna().sum())} paths of {name} have no train|valid|test/patientN/studyN/ in them",
            str(folder),
            fix="use the file as published",
        )
    lateral = table["Frontal/Lateral"].eq("Lateral") | inside[0].str.contains("lateral")
    instances = instance_rows(
        len(table),
        path=prefix + inside[0],
        case=inside[1] + "/" + inside[2],
        patient=inside[1],
        view=table["AP/PA"].replace("", None).mask(lateral, "LATERAL"),
        age=pd.to_numeric(table["Age"], errors="coerce"),
        sex=table["Sex"].map({"Male": "M", "Female": "F"}),
        partition=partition,
    )
    return instances, report_labels(table, FINDINGS)


def _held_out(folder: Path, prefix: str) -> list[tuple[pd.DataFrame, np.ndarray]]:
    if (folder / "test.csv").is_file():
        return [_part(folder, "valid.csv", prefix, "val"), _part(folder, "test.csv", prefix, "test")]
    return [_part(folder, "valid.csv", prefix, "test")]


def _kept(instances: pd.DataFrame, labels: np.ndarray, options: ChexpertOptions, *, filtered: bool) -> np.ndarray:
    kept = np.ones(len(instances), dtype=bool)
    if options.views == "frontal":
        kept &= (instances["view"] != "LATERAL").to_numpy()
    if filtered:
        columns = [tuple(map(canonical, FINDINGS)).index(name) for name in _FILTERED]
        kept &= ~(labels[:, columns] == UNCERTAIN).any(axis=1)
    return kept
