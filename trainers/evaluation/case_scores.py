"""What one network says of every case, and the truth: enough for any comparison later, without the network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd

from datasets.whole_file import replacing

IDENTITY = ("case", "patient", "partition", "view", "sex", "age_band", "origin")
AGE_BANDS = (0, 18, 40, 60, 80)


@dataclass(frozen=True, slots=True)
class CaseScores:
    """Scores and labels per case; no raw identifier is in here.

    Attributes:
        table: one row per case, in the manifest's order (redraws depend on it, and must not on the key of the
            hashes): case and patient (keyed hashes), partition, view, sex, age_band,
            origin (strings or missing), then `score_<pathology>` and `label_<pathology>` (float64, NaN not given).
        pathologies: in order.
    """

    table: pd.DataFrame
    pathologies: tuple[str, ...]

    @property
    def scores(self) -> np.ndarray:
        """Return the scores, float64 (cases, pathologies)."""
        return self.table[[f"score_{name}" for name in self.pathologies]].to_numpy(np.float64)

    @property
    def labels(self) -> np.ndarray:
        """Return the labels, float64 (cases, pathologies), NaN not given."""
        return self.table[[f"label_{name}" for name in self.pathologies]].to_numpy(np.float64)

    def units(self, unit: str) -> np.ndarray:
        """Return (cases,) the index of each case's patient (or of the case itself), in order of first occurrence."""
        index: np.ndarray = pd.factorize(self.table[unit])[0]
        return index

    def aligned(self, other: "CaseScores") -> "CaseScores":
        """Return the same scores with cases and pathologies in the order of `other`, which has the same."""
        order = self.table.set_index("case").index.get_indexer(pd.Index(other.table["case"]))
        return CaseScores(self.table.iloc[order].reset_index(drop=True), other.pathologies)

    def where(self, kept: np.ndarray) -> "CaseScores":
        """Return the cases for which `kept` (bool) is true."""
        return CaseScores(self.table[kept].reset_index(drop=True), self.pathologies)

    def save(self, path: Path) -> None:
        """Write as parquet."""
        with replacing(path) as aside:
            self.table.to_parquet(aside, index=False)


def load(path: Path | BinaryIO) -> CaseScores:
    """Read what `CaseScores.save` wrote, from a file or from bytes.

    Raises:
        ValueError: the file lacks columns.
    """
    table = pd.read_parquet(path)
    missing = [name for name in IDENTITY if name not in table]
    pathologies = tuple(name.removeprefix("score_") for name in table.columns if name.startswith("score_"))
    missing += [f"label_{name}" for name in pathologies if f"label_{name}" not in table]
    if missing or not pathologies:
        name = path.name if isinstance(path, Path) else "the content"
        raise ValueError(f"{name} is no table of case scores; it lacks {', '.join(missing) or 'score_ columns'}")
    return CaseScores(table, pathologies)


def collect(
    identity: pd.DataFrame, scores: np.ndarray, labels: np.ndarray, *, pathologies: Sequence[str]
) -> CaseScores:
    """Put a table together.

    Args:
        identity: one row per case with the columns `IDENTITY`.
        scores: (cases, pathologies).
        labels: (cases, pathologies), NaN not given.
        pathologies: names of the columns.
    """
    table = identity[list(IDENTITY)].reset_index(drop=True)
    columns = {f"score_{name}": scores[:, index].astype(np.float64) for index, name in enumerate(pathologies)}
    columns |= {f"label_{name}": labels[:, index].astype(np.float64) for index, name in enumerate(pathologies)}
    return CaseScores(pd.concat([table, pd.DataFrame(columns)], axis=1), tuple(pathologies))


def age_band(years: float) -> str | None:
    """Return the band of an age: 0-17, 18-39, 40-59, 60-79, 80+; None unknown."""
    if np.isnan(years):
        return None
    index = int(np.searchsorted(AGE_BANDS, years, side="right")) - 1
    if index < 0:
        return None
    return f"{AGE_BANDS[index]}-{AGE_BANDS[index + 1] - 1}" if index + 1 < len(AGE_BANDS) else f"{AGE_BANDS[index]}+"
