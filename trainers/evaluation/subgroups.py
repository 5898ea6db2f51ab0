"""The same figures within sexes, age bands, views and sub-sources."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from trainers.evaluation.case_scores import CaseScores
from trainers.evaluation.redraws import Bootstrap
from trainers.evaluation.summary import Evaluation, summarize

COLUMNS = ("sex", "age_band", "view", "origin")


@dataclass(frozen=True, slots=True)
class Subgroup:
    """One group's evaluation.

    Attributes:
        column: what divides, e.g. sex.
        value: e.g. F; "unknown" where it is missing.
        cases: in the group.
        evaluation: None where there are fewer cases than asked for.
    """

    column: str
    value: str
    cases: int
    evaluation: Evaluation | None


def by_subgroup(
    scores: CaseScores,
    *,
    columns: Sequence[str] = COLUMNS,
    bootstrap: Bootstrap | None = None,
    fewest: int = 30,
) -> list[Subgroup]:
    """Evaluate every group of every column; columns with a single group are left out.

    Args:
        scores: of one partition.
        columns: of the case scores.
        bootstrap: of the intervals; each group redraws its own patients.
        fewest: smaller groups are named with their size and not evaluated.
    """
    found = []
    for column in columns:
        values = scores.table[column].astype(object).where(scores.table[column].notna(), "unknown").astype(str)
        if values.nunique() < 2:
            continue
        for value in sorted(values.unique()):
            part = scores.where((values == value).to_numpy(bool))
            cases = len(part.table)
            evaluation = summarize(part, bootstrap=bootstrap) if cases >= fewest else None
            found.append(Subgroup(column, value, cases, evaluation))
    return found


def table(subgroups: Sequence[Subgroup], *, metric: str = "auroc") -> pd.DataFrame:
    """Return one row per group and pathology: column, group, cases, and the estimate."""
    rows = [
        {
            "column": group.column,
            "group": group.value,
            "cases": group.cases,
            "pathology": name,
            "value": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
        }
        for group in subgroups
        if group.evaluation is not None
        for name, estimate in group.evaluation.estimates[metric].items()
    ]
    return pd.DataFrame(rows)
