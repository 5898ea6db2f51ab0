"""The one look at the test partition that a cell's winner gets: scores to disk, figures to the driver."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from datasets.external import check_external
from datasets.whole_file import replacing
from trainers.checkpoint import sha256
from trainers.evaluation import case_scores, thresholds
from trainers.evaluation.case_scores import CaseScores
from trainers.evaluation.redraws import Bootstrap
from trainers.evaluation.run import evaluate
from trainers.evaluation.subgroups import COLUMNS, by_subgroup
from trainers.evaluation.summary import Evaluation, summarize
from trainers.trial import Operation, TrialConfig

SCORES = "scores.parquet"
SUMMARY = "evaluation.json"


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be measured of a winner beside the test partition as a whole.

    Attributes:
        bootstrap: of the intervals; the same for all winners of a data set.
        subgroups: columns of the case scores whose groups are also evaluated by themselves.
        external: by name, the trial with another data set and where that lies; its test partition is scored on the
            pathologies that both know.
        stored: names of the data sets in `external` whose scores an earlier look has stored, beside those of its own;
            None: there was no earlier look.
    """

    bootstrap: Bootstrap
    subgroups: Sequence[str] = COLUMNS
    external: Mapping[str, tuple[TrialConfig, Operation]] = field(default_factory=dict)
    stored: Sequence[str] | None = None


def evaluate_winner(
    config: TrialConfig, *, operation: Operation, checkpoint_folder: Path, folder: Path, asked: Asked
) -> dict[str, Any]:
    """Score the test partition once, at thresholds chosen on validation.

    Writes `scores.parquet` (validation and test cases, identifiers hashed), `scores_NAME.parquet` for every external
    data set, and `evaluation.json` into `folder`. Scores that an earlier look stored there are summarized as asked for
    now, and no image is looked at again.

    Args:
        config: of the winner.
        operation: where and with what.
        checkpoint_folder: its best checkpoint.
        folder: where the files go.
        asked: what else to measure.

    Returns:
        metrics: named scalars of the test partition, e.g. test/auroc/macro and test/auroc/macro/low.
        rows: a list of metric, target, value, low, high, positives, negatives.
        subgroups: the same with `column`, `group` and `cases`, for groups that are large enough.
        external: the same with `dataset` and `cases`.
        thresholds: by pathology, from validation.
        sha256: of the tables of scores, by the file's name.

    Raises:
        DatasetError: a data set in `external` holds images of the training; nothing was scored then.
    """
    for other, _ in asked.external.values():
        check_external(other.dataset, trained_on=config.dataset)

    def score(trial: TrialConfig, place: Operation, *partitions: str) -> CaseScores:
        parts = [
            evaluate(trial, operation=place, checkpoint_folder=checkpoint_folder, partition=name) for name in partitions
        ]
        return CaseScores(pd.concat([part.table for part in parts], ignore_index=True), parts[-1].pathologies)

    both = _stored(folder / SCORES, asked.stored is not None, lambda: score(config, operation, "val", "test"))
    validation, test = (both.where((both.table["partition"] == name).to_numpy(bool)) for name in ("val", "test"))
    chosen = thresholds.choose(validation)
    whole = summarize(test, bootstrap=asked.bootstrap, at=chosen)
    found: dict[str, Any] = {
        "metrics": whole.scalars("test"),
        "rows": rows(whole),
        "subgroups": [
            {"column": part.column, "group": part.value, "cases": part.cases, **row}
            for part in by_subgroup(test, columns=asked.subgroups, bootstrap=asked.bootstrap)
            if part.evaluation is not None
            for row in rows(part.evaluation)
        ],
        "external": [],
        "thresholds": chosen,
        "sha256": {SCORES: sha256(folder / SCORES)},
    }
    for name, (other, place) in asked.external.items():
        known = name in (asked.stored or ())
        path = folder / f"scores_{name}.parquet"
        scores = _stored(path, known, partial(score, other, place, "test"))
        found["sha256"][path.name] = sha256(path)
        part = summarize(scores, bootstrap=asked.bootstrap)
        found["external"] += [{"dataset": name, "cases": part.cases, **row} for row in rows(part)]
        found["metrics"] |= part.scalars(f"external_{name}")
    _write(folder / SUMMARY, found)
    return found


def _stored(path: Path, known: bool, score: Callable[[], CaseScores]) -> CaseScores:
    """Read scores, or score and store them, so that both give the same figures."""
    if not (known and path.is_file()):
        score().save(path)
    return case_scores.load(path)


def rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return an evaluation's table as plain values, None where undefined."""
    table = evaluation.table().rename(columns={"pathology": "target"}).astype(object)
    plain = table.where(table.notna(), None)[["metric", "target", "value", "low", "high", "positives", "negatives"]]
    found = [{str(key): value for key, value in row.items()} for row in plain.to_dict(orient="records")]
    for row in found:  # pandas made floats of counts, because macro has none
        row |= {key: None if row[key] is None else int(row[key]) for key in ("positives", "negatives")}
    return found


def _write(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as aside:
        aside.write_text(json.dumps(content, indent=1, sort_keys=True))
