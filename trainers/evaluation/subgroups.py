"""The same figures within sexes, age bands, views and sub-sources.

Pathologies differ in difficulty, so means over different ones cannot be compared: a group without a case of a hard one
would look better. All macro means of one division are therefore over the pathologies that its groups share.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pandas as pd

from trainers.evaluation.case_scores import CaseScores
from trainers.evaluation.redraws import Bootstrap
from trainers.evaluation.summary import MACRO, Evaluation, summarize

COLUMNS = ("sex", "age_band", "view", "origin")
FEWEST = 30
"""Cases of a group that is evaluated by itself."""
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Subgroup:
    """One group's evaluation.

    Attributes:
        column: what divides, e.g. sex.
        value: e.g. F; "unknown" where it is missing.
        cases: in the group.
        evaluation: None where there are fewer cases than asked for; its macro is over what the division shares.
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
    fewest: int = FEWEST,
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
        parts = {value: scores.where((values == value).to_numpy(bool)) for value in sorted(values.unique())}
        over = shared(_defined(part) for part in parts.values() if len(part.table) >= fewest)
        for value, part in parts.items():
            cases = len(part.table)
            evaluation = summarize(part, bootstrap=bootstrap, macro_over=over) if cases >= fewest else None
            found.append(Subgroup(column, value, cases, evaluation))
    return found


def shared(defined: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Return the pathologies that are defined in all sets of cases; one without any has no say, and no macro."""
    first, *others = [names for names in defined if names] or [()]
    return tuple(name for name in first if all(name in names for names in others))


def defined(rows: Mapping[str, Row]) -> tuple[str, ...]:
    """Return the pathologies of which both classes occur, of one metric's rows by target."""
    return tuple(name for name, row in rows.items() if name != MACRO and row["positives"] and row["negatives"])


def averaged(rows: Mapping[str, Row], over: Sequence[str]) -> dict[str, Any]:
    """Return the macro row over the named pathologies, of one metric's stored rows by target.

    Returns:
        the stored row if it averages the same; else one without an interval, whose redraws are gone. `macro_over` is
        how many pathologies it averages, `targets` how many there are.
    """
    values = [rows[name]["value"] for name in over]
    value = fmean(values) if values and None not in values else None
    counts = {"macro_over": len(over), "targets": len(rows) - 1}
    known = rows[MACRO]["value"]
    same = known is value if known is None or value is None else math.isclose(known, value, abs_tol=1e-12)
    if same:
        return {**rows[MACRO], **counts}
    return {**rows[MACRO], "value": value, "low": None, "high": None, **counts}


def comparable(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return one network's stored rows of groups, every macro over the pathologies that its division shares.

    Earlier versions averaged in each group what is defined there; `averaged` tells them apart by their values.
    """
    by_group: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        by_group.setdefault((row["column"], row["metric"], row["group"]), {})[row["target"]] = row
    found: list[dict[str, Any]] = []
    for (column, metric, _), targets in by_group.items():
        over = shared(defined(one) for (*division, _), one in by_group.items() if division == [column, metric])
        found += [averaged(targets, over) if name == MACRO else dict(row) for name, row in targets.items()]
    return found


def _defined(scores: CaseScores) -> tuple[str, ...]:
    both = (scores.labels == 1).any(axis=0) & (scores.labels == 0).any(axis=0)
    return tuple(name for name, given in zip(scores.pathologies, both, strict=True) if given)


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
