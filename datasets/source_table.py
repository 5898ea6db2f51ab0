"""What a source gives: its rows as published, before any policy of the study touches them."""

import csv
import gzip
import warnings
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
        All cells as str; an empty cell is '', and so are cells that are missing at the end of a line.

    Raises:
        DatasetError: there is no such file, it is no table in UTF-8 separated by commas, a line has more cells than
            the header, two columns have one name, a column is missing, or there is no row.
    """
    if not path.is_file():
        raise DatasetError(
            f"no file {path.name}", str(path.parent), "the data set in its official layout", "check its folder"
        )
    table = _parsed(path)
    names = [name for name in _header(path) if name]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DatasetError(
            f"{path.name} has several columns {', '.join(map(repr, twice))}",
            str(path.parent),
            "a name for each column",
            "rename or remove what stands there twice",
        )
    missing = [column for column in columns if column not in table.columns]
    if missing:
        otherwise = len(missing) == len(columns) and any(mark in table.columns[0] for mark in ";\t")
        raise DatasetError(
            f"{path.name} has no column {', '.join(map(repr, missing))}",
            str(path.parent),
            f"columns {', '.join(map(repr, columns))}" + (", separated by commas" if otherwise else ""),
            "export it with commas instead of semicolons or tabs" if otherwise else advice,
        )
    if table.empty:
        raise DatasetError(f"{path.name} has no rows", str(path.parent), "at least one image", "copy it again")
    return table


def _parsed(path: Path) -> pd.DataFrame:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # cells beyond the header would be dropped
            # Else pandas takes the first column for an index where the lines have a cell more than the header.
            return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except UnicodeDecodeError:
        encoding, unpacked = _probable_encoding(path), path.name.removesuffix(".gz")
        raise DatasetError(
            f"{path.name} is not in UTF-8, perhaps in {encoding}",
            str(path.parent),
            "a CSV file in UTF-8",
            f"{'convert' if unpacked == path.name else 'unpack and convert'} it: "
            f"iconv -f {encoding} -t UTF-8 {unpacked} > converted.csv",
        ) from None
    except (ValueError, OSError, EOFError, pd.errors.ParserWarning) as error:
        if surplus := _surplus(path):
            raise DatasetError(
                f"{path.name}, {surplus}",
                str(path.parent),
                "lines of no more cells than the header, separated by commas",
                "quote cells that hold a comma, and remove commas at the end of lines",
            ) from None
        raise DatasetError(
            f"{path.name} cannot be read as a table: {type(error).__name__}",
            str(path.parent),
            "a CSV file",
            "copy it again",
        ) from None


def _probable_encoding(path: Path) -> str:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        return "UTF-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "WINDOWS-1252"


def _header(path: Path) -> list[str]:
    """Return the names of the columns as they stand; pandas numbers those that stand there twice."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="") as file:
        return next(csv.reader(file), [])


def _surplus(path: Path) -> str:
    """Say which is the first line with more cells than the header, '' if there is none."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file)
            header = next(lines)
            line = next((line for line in lines if len(line) > len(header)), None)
            return f"line {lines.line_num}: {len(line)} cells, the header has {len(header)}" if line else ""
    except (csv.Error, ValueError, OSError, EOFError, StopIteration):
        return ""


def instance_rows(count: int, **columns: object) -> pd.DataFrame:
    """Return the instance columns, those not given filled with "unknown"."""
    defaults: dict[str, object] = {"view": None, "age": np.nan, "sex": None, "origin": None, "partition": ""}
    table = pd.DataFrame({**defaults, **columns}, index=range(count))
    return table.astype({"age": float})[["path", "case", "patient", "view", "age", "sex", "origin", "partition"]]
