"""The one look at the test partition: what is scored, what is read again, and at which thresholds it is judged."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from trainers.evaluation import winner
from trainers.evaluation.case_scores import CaseScores, collect, load
from trainers.evaluation.redraws import Bootstrap
from trainers.evaluation.run import by_case
from trainers.trial import Operation, TrialConfig

NAN = float("nan")
SCORES = {
    "val": ([0, 0, 1, 1], [0.1, 0.4, 0.6, 0.9]),  # at 0.6 all are told apart
    "test": ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.9]),  # at 0.6 one of two positives is found; at 0.3 both would be
}


def scored(partition: str, more: float = 0.0) -> CaseScores:
    labels, scores = SCORES[partition]
    identity = pd.DataFrame(
        {
            "case": [f"{partition}{number}" for number in range(4)],
            "patient": [f"{partition}{number}" for number in range(4)],
            "partition": partition,
            "view": "PA",
            "sex": ["F", "M", "F", "M"] if partition == "test" else ["F", "F", "M", "M"],
            "age_band": None,
            "origin": None,
        }
    )
    columns = (np.array(values, dtype=np.float64)[:, None] for values in (np.array(scores) + more, labels))
    return collect(identity, *columns, pathologies=["nodule"])


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch, trial: Callable[..., TrialConfig], tmp_path: Path):
    """Look at a winner, and return what was scored for it and what was found."""
    config = trial()

    def asked(stored: list[str] | None, external: str = "") -> tuple[list[str], dict]:
        others = {name: trial(dataset=config.dataset.model_copy(update={"name": name})) for name in external}
        told: list[str] = []

        def evaluate(one: TrialConfig, *, operation: Operation, checkpoint_folder: Path, partition: str) -> CaseScores:
            told.append(f"{one.dataset.name} {partition}")
            return scored(partition, more=0.05 if one.dataset.name == "b" else 0.0)

        monkeypatch.setattr(winner, "evaluate", evaluate)
        found = winner.evaluate_winner(
            config,
            operation=SimpleNamespace(),
            checkpoint_folder=tmp_path,
            folder=tmp_path / "winner",
            asked=winner.Asked(
                Bootstrap(redraws=5),
                external={name: (other, SimpleNamespace()) for name, other in others.items()},
                stored=stored,
            ),
        )
        return told, found

    return asked


def test_decisions_on_test_are_made_at_the_thresholds_of_validation(look, tmp_path: Path) -> None:
    _, found = look(None)
    assert found["thresholds"] == {"nodule": 0.6}
    assert found["metrics"]["test/sensitivity/nodule"] == 0.5
    assert found["metrics"]["test/auroc/nodule"] == 1.0
    rows = {(row["metric"], row["target"]): row for row in found["rows"]}
    assert (rows["sensitivity", "nodule"]["value"], rows["specificity", "nodule"]["value"]) == (0.5, 1.0)
    assert (rows["auroc", "nodule"]["positives"], rows["auroc", "nodule"]["negatives"]) == (2, 2)
    assert rows["auroc", "macro"]["positives"] is None
    written = tmp_path / "winner"
    assert json.loads((written / "evaluation.json").read_text()) == found
    table = load(written / "scores.parquet").table
    assert table["partition"].tolist() == ["val"] * 4 + ["test"] * 4
    assert found["sha256"] == {"scores.parquet": hashlib.sha256((written / "scores.parquet").read_bytes()).hexdigest()}


OWN = ["phantom val", "phantom test"]


@pytest.mark.parametrize(
    ("stored", "external", "again"),
    [
        (None, "", OWN),  # no look was recorded: what lies there is of one that was cut off
        ([], "", []),
        (None, "a", [*OWN, "a test"]),
        ([], "a", ["a test"]),
        (["a"], "a", []),
        (["a"], "ab", ["b test"]),
    ],
)
def test_no_image_is_looked_at_twice(look, stored: list[str] | None, external: str, again: list[str]) -> None:
    assert look(None, "ab")[0] == [*OWN, "a test", "b test"]
    told, found = look(stored, external)
    assert told == again
    assert sorted(found["sha256"]) == sorted(["scores.parquet", *(f"scores_{name}.parquet" for name in external)])
    assert {row["dataset"] for row in found["external"]} == set(external)
    assert {name.split("/")[0] for name in found["metrics"]} == {"test", *(f"external_{name}" for name in external)}


def test_scores_that_are_lost_are_made_again(look, tmp_path: Path) -> None:
    look(None, "a")
    (tmp_path / "winner" / "scores_a.parquet").unlink()
    assert look(["a"], "a")[0] == ["a test"]


def test_cases_are_scored_on_the_shared_pathologies_by_hard_labels(tmp_path: Path, trial) -> None:
    """The data name three findings in an order of their own, of which the network knows two."""
    material = SimpleNamespace(
        pathologies=("edema", "mass", "nodule"),
        labels=np.array([[1, 0, 0.3], [0, 0, 0.7], [NAN, 1, 0.5], [0, 0, 0]], dtype=np.float32),
        instances=pd.DataFrame(
            {"case": ["x", "a", "b", "a"], "patient": ["p", "q", "r", "q"], "partition": "test", "view": "PA"}
            | {"sex": ["F", "F", None, "F"], "age": [40.0, 17.0, NAN, 17.0], "origin": None}
        ),
    )
    scores = np.array([[0.2, 0.9], [0.6, 0.5], [0.4, 0.7]])
    operation = SimpleNamespace(key_folder=None, cache=tmp_path)
    found = by_case(trial(), material, scores, np.array([1, 2, 3]), (("nodule", "edema"), operation))
    assert found.pathologies == ("nodule", "edema")
    np.testing.assert_allclose(found.scores, [[0.3, 0.8], [0.6, 0.5]])  # case a: the mean over its two films
    np.testing.assert_array_equal(found.labels, [[1, 0], [NAN, NAN]])
    assert found.table["age_band"].fillna("unknown").tolist() == ["0-17", "unknown"]
    assert not set(found.table["case"]) & {"a", "b"} and not set(found.table["patient"]) & {"q", "r"}
