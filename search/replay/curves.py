"""Recorded learning curves by comparison group, from a table or from a study folder."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from search import ledger
from search.errors import StudyError
from search.study_state import StudyState, name_in_cell
from trainers.trial import TrialState

COLUMNS = ("group", "trial", "epoch", "value")


@dataclass(frozen=True, slots=True)
class Curve:
    """One trial, trained to its end.

    Attributes:
        epochs: int64 (rows,), ascending.
        values: float64 (rows,), larger is better.
        costs: float64 (rows,), of each row alone.
        restarts: whether each row is a training of its own (with more data, say) instead of going on from the one
            before: then only the rows that are looked at cost anything.
        outcome: what a choice of this trial is judged by, larger is better: its value on a test set, say. None: what
            it is chosen by.
        best: what it is chosen by once it has finished, if that is not its value at the end: its best epoch's.
    """

    epochs: np.ndarray
    values: np.ndarray
    costs: np.ndarray
    restarts: bool = False
    outcome: float | None = None
    best: float | None = None

    @property
    def final(self) -> float:
        """What the finished trial is chosen by."""
        return float(self.values[-1]) if self.best is None else self.best

    @property
    def worth(self) -> float:
        """What a choice of this trial is judged by."""
        return self.final if self.outcome is None else self.outcome

    def rows_until(self, epoch: int) -> int:
        """Count the rows up to an epoch."""
        return int(np.searchsorted(self.epochs, epoch, side="right"))


Group = dict[str, Curve]
"""Curves by trial, of trials that are compared with each other."""


def load(path: Path, *, minimize: bool = False, restarts: bool = False) -> dict[str, Group]:
    """Read curves from a CSV or parquet table, or from a study folder.

    Args:
        path: a table with the columns group, trial, epoch, value and optionally cost (of each row alone; 1 where
            it is missing) and outcome (in the last row of a trial, see `Curve`), or a study folder with a ledger.
        minimize: whether smaller values are better; a study folder knows it itself.
        restarts: see `Curve`.

    Raises:
        StudyError: the table cannot be used, with the row and what was expected.
    """
    if (path / "ledger.jsonl").is_file():
        return _of_study(path)
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
    elif path.is_file():
        table = pd.read_csv(path)
    else:
        raise StudyError(f"{path}: neither a table (.csv, .parquet) nor a study folder with a ledger")
    return of_table(table, name=str(path), minimize=minimize, restarts=restarts)


def of_table(table: pd.DataFrame, *, name: str, minimize: bool = False, restarts: bool = False) -> dict[str, Group]:
    """Check a table and split it into groups; see `load`."""
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise StudyError(f"{name}: column {', '.join(missing)} is missing; expected {', '.join(COLUMNS)} [, cost]")
    judged_apart = "outcome" in table
    table = table.assign(cost=table.get("cost", 1.0), outcome=table.get("outcome", table["value"]))
    numeric = ["epoch", "value", "cost", "outcome"]
    numbers = table[numeric].apply(pd.to_numeric, errors="coerce")
    last = numbers["epoch"] == numbers.groupby([table["group"], table["trial"]])["epoch"].transform("max")
    broken = numbers[numeric[:3]].isna().any(axis=1) | (numbers["outcome"].isna() & last) | (numbers["cost"] < 0)
    if broken.any():
        row = int(np.flatnonzero(broken)[0])
        raise StudyError(
            f"{name}, row {row + 2}: {dict(table.iloc[row])}: epoch, value and cost must be numbers, cost not "
            f"negative, and so must the outcome in a trial's last row ({int(broken.sum())} such rows); leave rows "
            "without a value out"
        )
    if table.duplicated(["group", "trial", "epoch"]).any():
        row = int(np.flatnonzero(table.duplicated(["group", "trial", "epoch"]))[0])
        raise StudyError(f"{name}, row {row + 2}: the same group, trial and epoch stand in an earlier row")
    table[numeric] = numbers
    sign = -1.0 if minimize else 1.0
    groups: dict[str, Group] = {}
    for (group, trial), rows in table.sort_values("epoch").groupby(["group", "trial"], sort=True):
        curve = Curve(
            rows["epoch"].to_numpy(np.int64),
            sign * rows["value"].to_numpy(),
            rows["cost"].to_numpy(),
            restarts,
            sign * float(rows["outcome"].iloc[-1]) if judged_apart else None,
        )
        groups.setdefault(str(group), {})[str(trial)] = curve
    return groups


def _of_study(folder: Path) -> dict[str, Group]:
    """Take the trials that trained to their end, each at its best epoch, as the study itself chooses among them.

    A pruned trial has no end to be compared.
    """
    state = StudyState.of(ledger.read(folder / "ledger.jsonl").events)
    sign = state.declaration.sign
    groups: dict[str, Group] = {}
    for progress in state.trials.values():
        found = progress.curve
        if progress.state is TrialState.COMPLETE and progress.result and progress.result.best_value is not None:
            epochs = np.array(sorted(found), dtype=np.int64)
            values = sign * np.array([found[int(epoch)] for epoch in epochs])
            groups.setdefault(progress.cell, {})[name_in_cell(progress.searched, progress.seed)] = Curve(
                epochs, values, np.ones(len(epochs)), best=sign * progress.result.best_value
            )
    if not groups:
        raise StudyError(f"{folder}: no trial of this study trained to its end yet")
    return groups
