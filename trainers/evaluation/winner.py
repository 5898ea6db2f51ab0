"""The one look at the test partition that a cell's winner gets: scores to disk, figures to the driver."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from trainers.evaluation import thresholds
from trainers.evaluation.case_scores import CaseScores
from trainers.evaluation.redraws import Bootstrap
from trainers.evaluation.run import evaluate
from trainers.evaluation.summary import Evaluation, summarize
from trainers.trial import Operation, TrialConfig

SCORES = "scores.parquet"
SUMMARY = "evaluation.json"
FEWEST_CASES = 30
"""A sub-source with fewer test cases than this gets no figures of its own."""


def evaluate_winner(
    config: TrialConfig, *, operation: Operation, checkpoint_folder: Path, folder: Path, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Score the test partition once, at thresholds chosen on validation.

    Writes `scores.parquet` (validation and test cases, identifiers hashed) and `evaluation.json` into `folder`.

    Args:
        config: of the winner.
        operation: where and with what.
        checkpoint_folder: its best checkpoint.
        folder: appears with both files in it.
        bootstrap: of the intervals; the same for all winners of a data set.

    Returns:
        metrics: named scalars of the test partition, e.g. test/auroc/macro and test/auroc/macro/low.
        rows: a list of metric, target, value, low, high, positives, negatives.
        by_origin: the same with `origin` and `cases`, where test cases come from more than one sub-source.
        thresholds: by pathology, from validation.
    """
    validation = evaluate(config, operation=operation, checkpoint_folder=checkpoint_folder, partition="val")
    test = evaluate(config, operation=operation, checkpoint_folder=checkpoint_folder, partition="test")
    chosen = thresholds.choose(validation)
    whole = summarize(test, bootstrap=bootstrap, at=chosen)
    found = {
        "metrics": whole.scalars("test"),
        "rows": rows(whole),
        "by_origin": _by_origin(test, bootstrap),
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


def _by_origin(test: CaseScores, bootstrap: Bootstrap) -> list[dict[str, Any]]:
    origins = test.table["origin"]
    counts = origins.value_counts()
    if len(counts) < 2:
        return []
    found = []
    for origin, cases in counts.items():
        if cases >= FEWEST_CASES:
            part = summarize(test.where((origins == origin).to_numpy(bool)), bootstrap=bootstrap)
            found += [{"origin": origin, "cases": int(cases), **row} for row in rows(part)]
    return found


def _write(path: Path, content: dict[str, Any]) -> None:
    aside = path.with_name(f".{path.name}.writing")
    aside.write_text(json.dumps(content, indent=1, sort_keys=True))
    aside.replace(path)
