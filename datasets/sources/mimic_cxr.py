"""MIMIC-CXR-JPG 2.x (Johnson et al., 2019): 377,110 radiographs, labels per study by the CheXpert or NegBio labeler."""

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
from datasets.source_table import SourceTable, instance_rows, read_csv
from datasets.sources.chexpert import FINDINGS, PAPER, report_labels

_METADATA = ("dicom_id", "subject_id", "study_id", "ViewPosition")
_SPLIT = ("dicom_id", "study_id", "subject_id", "split")
_PARTITION = {"train": "train", "validate": "val", "test": "test"}
# PhysioNet's page, and the line counts of the split lists (jlianglab/BenchmarkTransformers).
FACTS = {"images": 377_110, "val": 2_991, "test": 5_159}


class MimicOptions(SourceOptions):
    """Settings of the source."""

    labeler: Literal["chexpert", "negbio"] = "chexpert"
    views: Literal["frontal", "all"] = Field("frontal", description="frontal: AP and PA")
    partitions: Literal["official", "drawn"] | None = Field(
        None, description="drawn: a fifth of the patients, as in paper 1; not given: drawn with paper labels"
    )
    blank: Literal["zeros", "ignore"] = Field(
        "zeros", description="a finding that the report does not mention; no_finding is 0 then"
    )


OPTIONS = MimicOptions


def read(root: Path, config: DatasetConfig) -> SourceTable:
    """Join metadata, split and labels; each table may be gzipped. Images of unlabelled studies are left out."""
    options = parse_options(config, OPTIONS)
    metadata = _table(root, "metadata", _METADATA)
    split = _table(root, "split", _SPLIT)
    for name, table in (("metadata", metadata), ("split", split)):
        _check_once(table["dicom_id"], f"the {name} table", root)
    rows = metadata.merge(split[["dicom_id", "split"]], on="dicom_id", how="left")
    if not rows["split"].isin(list(_PARTITION)).all():
        raise DatasetError(
            f"{int((~rows['split'].isin(list(_PARTITION))).sum())} images have no split", str(root), fix="copy it again"
        )
    found = _table(root, options.labeler, ("subject_id", "study_id", *FINDINGS))
    place = rows["study_id"].map(dict(zip(found["study_id"], range(len(found)), strict=True)))
    instances = _instances(rows)
    completeness, differences = compare(FACTS, instances, np.zeros((len(rows), 0), np.float32), ())
    kept = place.notna().to_numpy(copy=True)
    if options.views == "frontal":
        kept &= rows["ViewPosition"].isin(["AP", "PA"]).to_numpy()
    paper = config.labels == "paper"
    pathologies = PAPER if paper else tuple(map(canonical, FINDINGS))
    columns = [tuple(map(canonical, FINDINGS)).index(name) for name in pathologies]
    labels = report_labels(found, FINDINGS)[place[kept].to_numpy(int)][:, columns]
    instances = instances[kept].reset_index(drop=True)
    if (options.partitions or ("drawn" if paper else "official")) == "drawn":
        instances["partition"] = ""
    return SourceTable(
        instances=instances,
        labels=fill_blanks(labels, pathologies, options.blank),
        pathologies=pathologies,
        completeness=completeness,
        differences=differences,
    )


def _table(root: Path, name: str, columns: tuple[str, ...]) -> pd.DataFrame:
    for version in ("2.0.0", "2.1.0"):
        for ending in ("csv.gz", "csv"):
            path = root / f"mimic-cxr-{version}-{name}.{ending}"
            if path.is_file():
                return read_csv(path, columns=columns)
    return read_csv(root / f"mimic-cxr-2.0.0-{name}.csv.gz", columns=columns)


def _check_once(images: pd.Series, where: str, root: Path) -> None:
    if repeated := int(images.duplicated().sum()):
        raise DatasetError(
            f"{repeated} images have more than one row in {where}", str(root), "one row each", "copy it again"
        )


def _instances(rows: pd.DataFrame) -> pd.DataFrame:
    subject, study, image = rows["subject_id"], rows["study_id"], rows["dicom_id"]
    view = rows["ViewPosition"].replace("", None).replace({"LL": "LATERAL", "LATERAL": "LATERAL"})
    return instance_rows(
        len(rows),
        path="files/p" + subject.str[:2] + "/p" + subject + "/s" + study + "/" + image + ".jpg",
        case=study,
        patient=subject,
        view=view,
        partition=rows["split"].map(_PARTITION),
    )
