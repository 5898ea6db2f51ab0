"""What a source gives: its rows as published, before any policy of the study touches them."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from datasets.errors import DatasetError

UNCERTAIN = np.float32(-1)
"""Label value of "the reader was not sure"; `datasets/labels.py` turns it into what the study asks for."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One published fact about a complete collection that these files do not show."""

    fact: str
    published: int
    found: int


@dataclass(frozen=True, slots=True)
class SourceTable:
    """Rows of a data set in its official layout.

    Attributes:
        instances: the columns of `datasets.manifest.COLUMNS`; `partition` is '' where none is published.
        labels: float32 (rows, pathologies): 1, 0, NaN not given, -1 uncertain, between 0 and 1 a share of readers.
        pathologies: canonical names of the chosen label list.
        completeness: 'complete', 'subset' or 'unknown'.
        differences: published facts that were not met.
        test_fraction: share of the patients that is drawn for test where no partition is published.
        validation_on_test: the test partition serves for validation too, since the study asked for it.
    """

    instances: pd.DataFrame
    labels: np.ndarray
    pathologies: tuple[str, ...]
    completeness: str = "unknown"
    differences: tuple[Difference, ...] = field(default=())
    test_fraction: float = 0.2
    validation_on_test: bool = False


def read_csv(path: Path, *, columns: tuple[str, ...], advice: str = "use the file as published") -> pd.DataFrame:
    """Read a label file as text and refuse one without the columns its publisher gave it.

    Args:
        path: .csv or .csv.gz.
        columns: must all be there; others are kept too.
        advice: what to do where one is missing.

    Returns:
        All cells as str; an empty cell is ''.
    """
    if not path.is_file():
        raise DatasetError(
            f"no file {path.name}", str(path.parent), "the data set in its official layout", "check --data-root"
        )
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError, EOFError) as error:
        raise DatasetError(
            f"{path.name} cannot be read as a table: {type(error).__name__}",
            str(path.parent),
            "a CSV file",
            "copy it again",
        ) from None
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise DatasetError(
            f"{path.name} has no column {', '.join(map(repr, missing))}",
            str(path.parent),
            f"columns {', '.join(map(repr, columns))}",
            advice,
        )
    if table.empty:
        raise DatasetError(f"{path.name} has no rows", str(path.parent), "at least one image", "copy it again")
    return table


def instance_rows(count: int, **columns: object) -> pd.DataFrame:
    """Return the instance columns, those not given filled with "unknown"."""
    defaults: dict[str, object] = {"view": None, "age": np.nan, "sex": None, "origin": None, "partition": ""}
    table = pd.DataFrame({**defaults, **columns}, index=range(count))
    return table.astype({"age": float})[["path", "case", "patient", "view", "age", "sex", "origin", "partition"]]
