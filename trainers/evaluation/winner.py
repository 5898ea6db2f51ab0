"""The one look at the test partition that a cell's winner gets: scores to disk, figures to the driver."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from trainers.evaluation import thresholds
from trainers.evaluation.case_scores import CaseScores
from trainers.evaluation.redraws import Bootstrap
from trainers.evaluation.run import evaluate
from trainers.evaluation.subgroups import COLUMNS, by_subgroup
from trainers.evaluation.summary import Evaluation, summarize
from trainers.trial import Operation, TrialConfig

SCORES = "scores.parquet"
SUMMARY = "evaluation.json"


def evaluate_winner(
    config: TrialConfig,
    *,
    operation: Operation,
    checkpoint_folder: Path,
    folder: Path,
    bootstrap: Bootstrap,
    subgroups: Sequence[str] = COLUMNS,
) -> dict[str, Any]:
    """Score the test partition once, at thresholds chosen on validation.

    Writes `scores.parquet` (validation and test cases, identifiers hashed) and `evaluation.json` into `folder`.

    Args:
        config: of the winner.
        operation: where and with what.
        checkpoint_folder: its best checkpoint.
        folder: appears with both files in it.
        bootstrap: of the intervals; the same for all winners of a data set.
        subgroups: columns of the case scores whose groups are also evaluated by themselves.

    Returns:
        metrics: named scalars of the test partition, e.g. test/auroc/macro and test/auroc/macro/low.
        rows: a list of metric, target, value, low, high, positives, negatives.
        subgroups: the same with `column`, `group` and `cases`, for groups that are large enough.
        thresholds: by pathology, from validation.
    """
    validation = evaluate(config, operation=operation, checkpoint_folder=checkpoint_folder, partition="val")
    test = evaluate(config, operation=operation, checkpoint_folder=checkpoint_folder, partition="test")
    chosen = thresholds.choose(validation)
    whole = summarize(test, bootstrap=bootstrap, at=chosen)
    found = {
        "metrics": whole.scalars("test"),
        "rows": rows(whole),
        "subgroups": [
            {"column": part.column, "group": part.value, "cases": part.cases, **row}
            for part in by_subgroup(test, columns=subgroups, bootstrap=bootstrap)
            if part.evaluation is not None
            for row in rows(part.evaluation)
        ],
        "thresholds": chosen,
    }
    both = CaseScores(pd.concat([validation.table, test.table], ignore_index=True), test.pathologies)
    both.save(folder / SCORES)
    _write(folder / SUMMARY, found)
    return found


def rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return an evaluation's table as plain values, None where undefined."""
    table = evaluation.table().rename(columns={"pathology": "target"}).astype(object)
    plain = table.where(table.notna(), None)[["metric", "target", "value", "low", "high", "positives", "negatives"]]
    return [{str(key): value for key, value in row.items()} for row in plain.to_dict(orient="records")]


def _write(path: Path, content: dict[str, Any]) -> None:
    aside = path.with_name(f".{path.name}.writing")
    aside.write_text(json.dumps(content, indent=1, sort_keys=True))
    aside.replace(path)
