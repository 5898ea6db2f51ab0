"""Recorded learning curves by comparison group, from a table or from a study folder."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from search import ledger
from search.errors import StudyError
from search.study_state import StudyState, TrialProgress, name_in_cell
from search.wording import counted
from trainers.trial import TrialState

LOG = logging.getLogger(__name__)

COLUMNS = ("group", "trial", "epoch", "value")
MORE_COLUMNS = "[, cost, outcome, point, state]"
NUMERIC = ("epoch", "value", "cost", "outcome")
"""Of them `cost` and `outcome` may be missing."""
LARGEST, LAST_EPOCH = 1e100, 1e15
"""Up to here squares of differences are finite, and epochs are told apart."""


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
        sign: what turns values into those that were recorded, and back: -1 where smaller ones were better, else 1.
        point: what it shares with the trials that differ from it in their seed alone; None: with none.
    """

    epochs: np.ndarray
    values: np.ndarray
    costs: np.ndarray
    restarts: bool = False
    outcome: float | None = None
    best: float | None = None
    sign: float = 1.0
    point: str | None = None

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

STEPS_OF_COST = 10_000
"""In which a training is counted where its rows cost unlike amounts."""
EVEN = 0.05
"""Share of a training by which epochs and their cost may part before that is more than the jitter of a clock."""


def point_of(group: Group, trial: str) -> str:
    """Name what seeds of a trial share; a trial that has none is a point by itself."""
    return group[trial].point or trial


def longest(group: Group) -> int:
    """Return the number of epochs of a full trial of the group."""
    return int(max(curve.epochs[-1] for curve in group.values()))


def by_cost(group: Group) -> Group:
    """Number the epochs of a group by what they cost, if that does not grow evenly with them.

    A rung is a share of a training. In a table whose rows are numbered 1, 2, 3 ... while each takes twice the data of
    the one before, half of the rows is a hundredth of the training.
    """
    last = longest(group)
    whole = [curve for curve in group.values() if curve.epochs[-1] == last]
    epochs = np.unique(np.concatenate([curve.epochs for curve in group.values()]))
    spent = np.sum([np.interp(epochs, curve.epochs, _spent(curve), left=0.0) for curve in whole], axis=0)
    if np.allclose(spent, spent[-1] * epochs / epochs[-1], rtol=0, atol=EVEN * spent[-1]):
        return group
    number = np.arange(len(epochs))  # so that epochs which cost nothing stay apart, too
    steps = np.maximum.accumulate(np.ceil(spent / spent[-1] * STEPS_OF_COST).astype(np.int64) - number) + number
    steps += steps[0] == 0
    return {
        trial: replace(curve, epochs=steps[np.searchsorted(epochs, curve.epochs)]) for trial, curve in group.items()
    }


def _spent(curve: Curve) -> np.ndarray:
    """Return what a curve has cost up to each row, (rows,)."""
    spent: np.ndarray = np.maximum.accumulate(curve.costs) if curve.restarts else np.cumsum(curve.costs)
    return spent


def load(path: Path, *, minimize: bool = False, restarts: bool = False) -> dict[str, Group]:
    """Read curves from a CSV or parquet table, or from a study folder.

    Args:
        path: a table with the columns group, trial, epoch (counted in their smallest step where they are not whole),
            value and optionally cost (of each row alone; the epochs that it was trained for where it is missing),
            outcome (in the last row of a trial, see `Curve`), point (of the trial, see `Curve`) and state (of the
            trial: only those that are COMPLETE have an end), or a study folder with a ledger.
        minimize: whether smaller values are better; a study folder knows it itself.
        restarts: see `Curve`.

    Raises:
        StudyError: the table cannot be used, with the row and what was expected.
    """
    if (path / "ledger.jsonl").is_file():
        return _of_study(path)
    if not path.is_file():
        raise StudyError(f"{path}: neither a table (.csv, .parquet) nor a study folder with a ledger")
    try:
        table = pd.read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    except ValueError as problem:  # what pandas and Arrow raise for a file that is no table
        told = str(problem).splitlines()[0]
        raise StudyError(
            f"{path}: not a table ({told}); expected parquet, or CSV in UTF-8, with the columns {', '.join(COLUMNS)} "
            f"{MORE_COLUMNS}"
        ) from problem
    return of_table(table, name=str(path), minimize=minimize, restarts=restarts)


def _read_csv(path: Path) -> pd.DataFrame:
    """Read names as they stand: a group may be called NA or 007."""
    return pd.read_csv(path, dtype={"group": str, "trial": str, "point": str}, keep_default_na=False, na_values=[""])


def of_table(table: pd.DataFrame, *, name: str, minimize: bool = False, restarts: bool = False) -> dict[str, Group]:
    """Check a table and split it into groups; see `load`."""
    # Numbered as in the file, so that an error names that row even after others were left out.
    table = _checked(_complete(_rows(table, name), name), name, restarts=restarts)
    sign = -1.0 if minimize else 1.0
    groups: dict[str, Group] = {}
    for (group, trial), rows in table.sort_values("epoch").groupby(["group", "trial"], sort=True):
        epochs = rows["epoch"].to_numpy(np.int64)
        trained = (epochs if restarts else np.diff(epochs, prepend=0)).astype(float)
        curve = Curve(
            epochs,
            sign * rows["value"].to_numpy(),
            rows["cost"].to_numpy() if "cost" in rows else trained,
            restarts,
            sign * float(rows["outcome"].iloc[-1]) if "outcome" in rows else None,
            sign=sign,
            point=_named(rows["point"].iloc[0]) if "point" in rows else None,
        )
        groups.setdefault(str(group), {})[str(trial)] = curve
    return groups


def _rows(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Number the rows as in the file; refuse names that are none, and a trial with several points or states."""
    kept = [column for column in table.index.names if column in COLUMNS and column not in table]
    table = table.reset_index(level=kept).reset_index(drop=True)
    for column in table.columns.intersection(["group", "trial", "point", "state"]):
        if pd.api.types.infer_dtype(table[column]) == "mixed":
            nested = ~table[column].map(pd.api.types.is_hashable)
            _refuse(table, name, nested, f"{column} must be a name")
    if not {"group", "trial"} <= set(table):
        return table
    for column in table.columns.intersection(["point", "state"]):
        told = table[column].astype(object).where(table[column].notna(), "").astype(str)
        several = told.groupby([table["group"], table["trial"]]).transform("nunique") > 1
        _refuse(table, name, several, f"the rows of a trial have one {column}")
    return table


def _named(point: Any) -> str | None:
    return None if pd.isna(point) else str(point)


def _complete(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Leave out the trials that the table itself calls pruned, failed or unfinished."""
    if "state" not in table or not {"group", "trial"} <= set(table):
        return table
    whole = table["state"] == TrialState.COMPLETE.value
    if not whole.any() and len(table):
        raise StudyError(f"{name}: no trial is {TrialState.COMPLETE.value} in column state; only those have an end")
    _say_left_out(name, len(table.loc[~whole, ["group", "trial"]].drop_duplicates()))
    return table[whole]


def _say_left_out(name: str, trials: int) -> None:
    if trials:
        LOG.warning("%s: %s left out, which did not train to the end", name, counted(trials, "trial"))


def _checked(table: pd.DataFrame, name: str, *, restarts: bool) -> pd.DataFrame:
    """Return the table with its figures as numbers; refuse what is none, with the row."""
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise StudyError(
            f"{name}: column {', '.join(missing)} is missing; expected {', '.join(COLUMNS)} {MORE_COLUMNS}"
        )
    if table.empty:
        raise StudyError(f"{name}: no rows; expected one for each group, trial and epoch")
    numbers = table[[column for column in NUMERIC if column in table]]
    numbers = numbers.apply(pd.to_numeric, errors="coerce").astype(float)
    broken, epoch = ~np.isfinite(numbers), numbers["epoch"]
    last = epoch == epoch.groupby([table["group"], table["trial"]]).transform("max")
    unnamed = table[["group", "trial"]].isna().any(axis=1)
    _refuse(table, name, unnamed, "group and trial must be named")
    if "outcome" in broken:
        broken["outcome"] &= last
    if "cost" in broken:
        broken["cost"] |= numbers["cost"] < 0
    _refuse(
        table,
        name,
        broken.any(axis=1),
        "epoch, value and cost must be finite numbers, cost not negative, and so must the outcome in a trial's last "
        "row; leave rows without a value out, and mark trials that came to no end in a column state (FAILED)",
    )
    beyond = (numbers.abs() > LARGEST).any(axis=1) | (epoch > LAST_EPOCH)
    _refuse(table, name, beyond, f"values and costs end at {LARGEST:g}, epochs at {LAST_EPOCH:g}")
    epoch = _counted(epoch)
    _refuse(
        table,
        name,
        (epoch < 0) | (epoch % 1 != 0),
        "epoch must be 0 or more, whole or a multiple of the smallest step; number the rows 1, 2, 3 ... and give what "
        "each takes in the column cost",
    )
    twice = table.assign(epoch=epoch).duplicated(["group", "trial", "epoch"])
    _refuse(table, name, twice, "the same group, trial and epoch stand in an earlier row")
    if "cost" in numbers:
        # Where every row is a training of its own, to train all is to pay for the last rows alone.
        paid = numbers["cost"].where(last, 0.0) if restarts else numbers["cost"]
        free = paid.groupby(table["group"]).transform("sum") == 0
        which = "last rows" if restarts else "rows"
        _refuse(
            table, name, free, f"the {which} of this group cost nothing in all; leave the column cost out, or fill it"
        )
    # Epochs count what was trained: those of a table that numbers them from 0 are one more.
    return table.assign(**{**numbers, "epoch": epoch + (epoch.min() == 0)})


def _counted(epoch: pd.Series) -> pd.Series:
    """Count epochs that are not whole, halves of one or shares of the data, in the smallest step between them."""
    if (epoch % 1 == 0).all():
        return epoch
    steps = np.diff(np.unique(np.append(epoch, 0.0)))
    counted = epoch / steps.min()
    return counted.round() if np.allclose(counted, counted.round(), rtol=0, atol=1e-3) else epoch


def _refuse(table: pd.DataFrame, name: str, broken: pd.Series, expected: str) -> None:
    if broken.any():
        row = table.index[broken][0]
        found = ", ".join(f"{column}={value}" for column, value in table.loc[row].items())
        raise StudyError(f"{name}, row {row + 2}: {found}: {expected} ({int(broken.sum())} such rows)")


def _of_study(folder: Path) -> dict[str, Group]:
    """Take the trials that trained to their end, each at its best epoch, as the study itself chooses among them.

    A pruned trial has no end to be compared.
    """
    state = StudyState.of(ledger.read(folder / "ledger.jsonl").events)
    if not state.datasets:
        raise StudyError(f"{folder}: this study has not begun to train")
    sign = state.declaration.sign
    trained: dict[tuple[str, str], list[TrialProgress]] = defaultdict(list)
    for progress in state.trials.values():
        if progress.state is TrialState.COMPLETE and progress.result and progress.result.best_value is not None:
            trained[progress.cell, name_in_cell(progress.searched, progress.seed)].append(progress)
    groups: dict[str, Group] = {}
    for (cell, name), same in trained.items():
        for one in same:
            point = _name_among(one.point or cell, one, same)  # where nothing is searched a cell is one point
            groups.setdefault(cell, {})[_name_among(name, one, same)] = _of_trial(one, sign, point)
    if not groups:
        raise StudyError(f"{folder}: no trial of this study trained to its end yet")
    _say_left_out(str(folder), len(state.trials) - sum(len(group) for group in groups.values()))
    return groups


def _name_among(name: str, progress: TrialProgress, same: Sequence[TrialProgress]) -> str:
    """Name a trial where a study was changed and its cell has others of that name: by epochs, or by identity."""
    if len(same) == 1:
        return name
    lengths = [_epochs(other) for other in same]
    if lengths.count(_epochs(progress)) == 1:
        return f"{name}, epochs={_epochs(progress)}"
    return f"{name}, trial={progress.trial}"


def _epochs(progress: TrialProgress) -> int:
    """Return the epochs that a trial was to be trained for, which patience may have cut short."""
    return int(progress.config.get("recipe", {}).get("epochs", max(progress.epochs)))


def _of_trial(progress: TrialProgress, sign: float, point: str) -> Curve:
    found, result = progress.curve, progress.result
    epochs = np.array(list(found), dtype=np.int64)
    best = None if result is None or result.best_value is None else sign * result.best_value
    values = sign * np.array(list(found.values()))
    return Curve(epochs, values, np.ones(len(epochs)), best=best, sign=sign, point=point)
