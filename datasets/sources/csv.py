"""Any table: a data set without a file of its own, such as a hospital's private collection."""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field

from datasets.dataset_config import DatasetConfig
from datasets.errors import DatasetError
from datasets.labels import canonical
from datasets.source_options import SourceOptions, parse_options
from datasets.source_table import UNCERTAIN, SourceTable, instance_rows, read_csv

PATHOLOGY = re.compile(r"\w[\w .:-]{0,99}")
"""What MLflow takes as part of a metric's name, but for the slash, which makes folders there. Such a name may have 250
letters, those of a data set, a metric and an interval's end among them."""
RESERVED = frozenset({"macro", "macro_avg"})
"""The mean over all pathologies in results."""
_PARTITIONS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validate": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_MEANINGS = {"positive_cells": 1.0, "negative_cells": 0.0, "uncertain_cells": UNCERTAIN, "missing_cells": np.nan}
_NAME_COLUMNS = (
    "say which columns they are: `image: COLUMN`, `patient: COLUMN` (and case, view, age, sex, origin, partition)"
)
_SEXES = {
    "m": "M", "male": "M", "man": "M", "männlich": "M", "mann": "M",
    "f": "F", "female": "F", "woman": "F", "w": "F", "weiblich": "F", "frau": "F",
    "o": None, "other": None,
}  # fmt: skip
"""PatientSex of DICOM (M, F, O: PS3.3 C.7.1.1) and plain words."""
_AGE_STRING = r"(\d{1,3})([ymwd])"
_YEARS = {"y": 1.0, "m": 1 / 12, "w": 7 / 365.25, "d": 1 / 365.25}
"""Units of DICOM's age string (PS3.5 6.2, AS), in lower case."""
_OLDEST = 120


class CsvOptions(SourceOptions):
    """Which column means what. Columns that are not named are not read."""

    table: str = Field("labels.csv", description="file in the data set's folder")
    image: str = Field("path", description="column: image file")
    images: str = Field("", description="folder that the image files are relative to, within the data set's folder")
    patient: str = Field("patient", description="column: patient")
    case: str | None = Field(None, description="column: examination; not given: every image is one")
    view: str | None = None
    age: str | None = Field(None, description="column: years, or as in DICOM: 045Y, 006M, 003W, 010D")
    sex: str | None = Field(None, description="column: M, F or a word for it; O (other) counts as not given")
    origin: str | None = Field(None, description="column: sub-source, e.g. site or device")
    partition: str | None = Field(None, description="column: train, val or test; not given: drawn by patient")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share of patients drawn for test if none is given")
    findings: dict[str, str] | list[str] = Field(
        default_factory=list, description="columns of the findings, or column: pathology; none: all columns left over"
    )
    positive_cells: list[str] | dict[str, list[str]] = Field(
        ["1", "1.0", "true", "yes"],
        description="cells that mean present; for all findings or per column, columns not named keep the default",
    )
    negative_cells: list[str] | dict[str, list[str]] = Field(
        ["0", "0.0", "false", "no"], description="cells that mean absent; for all findings or per column"
    )
    uncertain_cells: list[str] = Field(["-1", "-1.0"], description="cells that mean uncertain")
    missing_cells: list[str] = Field(
        ["", "nan", "na", "none"], description="cells that mean not given, of age and sex, too"
    )


OPTIONS = CsvOptions


def read(root: Path, config: DatasetConfig) -> SourceTable:
    """Read the table as the options say; a cell of a finding, an age or a sex that means nothing is refused."""
    options = parse_options(config, OPTIONS)
    named = [options.case, options.view, options.age, options.sex, options.origin, options.partition]
    described = tuple(column for column in (options.image, options.patient, *named) if column is not None)
    table = read_csv(root / options.table, columns=described, advice=_NAME_COLUMNS)
    findings = _findings(table, options, described)
    _check_columns(findings, options)
    prefix = f"{options.images.rstrip('/')}/" if options.images else ""
    image = _filled(table, options.image, options)
    instances = instance_rows(
        len(table),
        path=prefix + image,
        case=image if options.case is None else _filled(table, options.case, options),
        patient=_filled(table, options.patient, options),
        view=_optional(table, options.view).replace("", None),
        age=_age(table, options),
        sex=_sex(table, options),
        origin=_optional(table, options.origin).replace("", None),
        partition=_partition(table, options),
    )
    _check_once(instances["path"], root, options)
    labels = np.stack([_column(table[column], column, options) for column in findings], axis=1)
    return SourceTable(
        instances=instances,
        labels=labels,
        pathologies=tuple(findings.values()),
        test_fraction=options.test_fraction,
    )


def _optional(table: pd.DataFrame, column: str | None) -> pd.Series:
    return pd.Series("", index=table.index) if column is None else table[column]


def _age(table: pd.DataFrame, options: CsvOptions) -> pd.Series:
    """Return years, NaN where not given."""
    cells = _given(table, options.age, options)
    parts = cells.str.extract(f"^{_AGE_STRING}$")
    years = pd.to_numeric(cells, errors="coerce").fillna(pd.to_numeric(parts[0]) * parts[1].map(_YEARS))
    allowed = f"years from 0 to {_OLDEST}, also as 045Y, 006M, 003W or 010D"
    _refuse(cells.notna() & ~years.between(0, _OLDEST), options.age, options, allowed)
    return years


def _sex(table: pd.DataFrame, options: CsvOptions) -> pd.Series:
    """Return 'M' or 'F', None where not given."""
    cells = _given(table, options.sex, options)
    _refuse(cells.notna() & ~cells.isin(list(_SEXES)), options.sex, options, f"one of {', '.join(_SEXES)}")
    return cells.map(_SEXES)


def _given(table: pd.DataFrame, column: str | None, options: CsvOptions) -> pd.Series:
    """Return a column's cells as they are compared, NaN where they are empty or mean not given."""
    cells = _optional(table, column).str.strip().str.lower()
    return cells.mask(cells.isin({"", *_declared("missing_cells", "", options)}))


def _refuse(wrong: pd.Series, column: str | None, options: CsvOptions, allowed: str) -> None:
    """Refuse cells without telling them, since a wrong column may hold names."""
    if wrong.any():
        raise DatasetError(
            f"{int(wrong.sum())} cells mean nothing, the first in row {int(np.argmax(wrong)) + 1} below the header",
            f"{options.table}, column {column!r}",
            allowed,
            "correct them, or declare those that mean not given under `missing_cells`",
        )


def _filled(table: pd.DataFrame, column: str, options: CsvOptions) -> pd.Series:
    """Return a column of identifiers without blanks around them: 'P1' and 'P1 ' are one patient, '' is none."""
    cells = table[column].str.strip()
    empty = np.flatnonzero((cells == "").to_numpy())
    if len(empty):
        raise DatasetError(
            f"{len(empty)} cells are empty, the first in row {empty[0] + 1} below the header",
            f"{options.table}, column {column!r}",
            "an identifier in every row",
            "fill them in or leave these rows out",
        )
    broken = np.flatnonzero(cells.str.contains(r"[\r\n]").to_numpy())
    if len(broken):
        raise DatasetError(
            f"{len(broken)} cells go over several lines, the first in row {broken[0] + 1} below the header",
            f"{options.table}, column {column!r}",
            "an identifier in one line; a quotation mark that is not closed takes the next lines with it",
            "close or remove the quotation mark",
        )
    return cells


def _check_once(paths: pd.Series, root: Path, options: CsvOptions) -> None:
    """Refuse an image that several rows name: it could be learned from and examined, or have two labels."""
    again = paths.map(lambda path: os.path.normpath(root.absolute() / path)).duplicated()  # absolute ones, too
    if again.any():
        raise DatasetError(
            f"{int(again.sum())} rows name an image that another row has named, the first is row "
            f"{int(np.argmax(again)) + 1} below the header",
            f"{options.table}, column {options.image!r}",
            "every image in one row, with one patient, partition and set of labels",
            "merge or remove the rows that repeat it",
        )


def _findings(table: pd.DataFrame, options: CsvOptions, described: tuple[str, ...]) -> dict[str, str]:
    """Return column → canonical name."""
    wanted = options.findings or [column for column in table.columns if column not in described]
    findings = wanted if isinstance(wanted, dict) else {column: canonical(column) for column in wanted}
    absent = [column for column in findings if column not in table.columns]
    if absent or not findings:
        raise DatasetError(
            f"no column {', '.join(map(repr, absent))}" if absent else "no column holds a finding",
            f"{options.table}, key `findings`",
            f"columns among {', '.join(table.columns)}",
        )
    if odd := [name for name in findings.values() if not PATHOLOGY.fullmatch(name) or name in RESERVED]:
        raise DatasetError(
            f"pathology {odd[0]!r} cannot be the name of a metric",
            f"{options.table}, key `findings`",
            f"up to 100 letters, digits, spaces and `_ - . :`, and not {' or '.join(sorted(RESERVED))}",
            "say `findings: {COLUMN: name}` in the data set's options",
        )
    twice = sorted({name for name in findings.values() if list(findings.values()).count(name) > 1})
    if twice:
        raise DatasetError(f"several columns mean {', '.join(twice)}", f"{options.table}, key `findings`", "one each")
    return dict(findings)


def _check_columns(findings: dict[str, str], options: CsvOptions) -> None:
    """Refuse cells that are declared for a column that is none of the findings, e.g. a misspelt one."""
    for name in ("positive_cells", "negative_cells"):
        declared = getattr(options, name)
        unknown = sorted(set(declared) - set(findings)) if isinstance(declared, dict) else []
        if unknown:
            raise DatasetError(
                f"{name} names {', '.join(map(repr, unknown))}, which is no column of a finding",
                options.table,
                f"columns among {', '.join(findings)}",
            )


def _column(cells: pd.Series, column: str, options: CsvOptions) -> np.ndarray:
    """Return a finding's labels; the cells themselves are not told, since a wrong column may hold names."""
    text = cells.str.strip().str.lower()
    meant = np.stack([text.isin(_declared(name, column, options)) for name in _MEANINGS])
    meanings = meant.sum(axis=0)
    if (meanings != 1).any():
        none, several = int((meanings == 0).sum()), int((meanings > 1).sum())
        raise DatasetError(
            f"{none} cells have no declared meaning and {several} have several, the first in row "
            f"{int(np.argmax(meanings != 1)) + 1} below the header",
            f"{options.table}, column {column!r}",
            f"every cell in one of {', '.join(_MEANINGS)}",
            "declare them in the data set's options; for one column: `negative_cells: {COLUMN: [cell, …]}`",
        )
    labels: np.ndarray = np.array(list(_MEANINGS.values()), np.float32)[meant.argmax(axis=0)]
    return labels


def _declared(name: str, column: str, options: CsvOptions) -> set[str]:
    """Return the cells that an option declares for a column, as they are compared."""
    declared = getattr(options, name)
    if isinstance(declared, dict):
        declared = declared.get(column, CsvOptions.model_fields[name].default)
    return {cell.strip().lower() for cell in declared}


def _partition(table: pd.DataFrame, options: CsvOptions) -> pd.Series:
    if options.partition is None:
        return pd.Series("", index=table.index)
    partition = table[options.partition].str.strip().str.lower().map(_PARTITIONS)
    if partition.isna().any():
        raise DatasetError(
            f"{int(partition.isna().sum())} rows have an unknown partition",
            f"{options.table}, column {options.partition!r}",
            f"one of {', '.join(_PARTITIONS)}",
        )
    return partition
