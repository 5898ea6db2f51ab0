"""What is held against a packaged model, by small stand-ins; a real one is loaded in `end_to_end/test_promote.py`."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from datasets.errors import DatasetError
from mlflow_server import reload
from mlflow_server.reload import Original
from trainers.evaluation.case_scores import IDENTITY, collect


@pytest.mark.parametrize(
    ("ledger", "package", "holds", "evidence"),
    [
        ("a" * 64, "a" * 64, True, "sha256 aaaaaaaaaaaa in all three"),
        ("a" * 64, "b" * 64, False, "ledger aaaaaaaaaaaa, checkpoint aaaaaaaaaaaa, package bbbbbbbbbbbb"),
        ("b" * 64, "a" * 64, False, "ledger bbbbbbbbbbbb, checkpoint aaaaaaaaaaaa, package aaaaaaaaaaaa"),
        ("a" * 64, None, False, "ledger aaaaaaaaaaaa, checkpoint aaaaaaaaaaaa, package None"),
    ],
)
def test_a_hash_is_the_same_in_all_places(ledger, package, holds, evidence):
    found = reload._same("weights", {"ledger": ledger, "checkpoint": "a" * 64, "package": package})
    assert (found.holds, found.evidence) == (holds, evidence)


def test_hashes_that_are_missing_everywhere_are_not_the_same():
    assert not reload._same("weights", dict.fromkeys(("ledger", "checkpoint", "package"))).holds


CASES = ["a", "a", "b", "c"]
"""Of the images, in the manifest's order."""
STORED = {"a": 0.25, "b": 0.5, "c": 0.75}


def measured(scores, pathologies=("nodule",)):
    identity = pd.DataFrame({name: [None] * len(scores) for name in IDENTITY})
    identity["case"] = list(scores)
    values = np.array([[value] * len(pathologies) for value in scores.values()])
    return collect(identity, values, np.zeros_like(values), pathologies=list(pathologies))


@pytest.fixture
def reproduced(monkeypatch):
    """Judge a model that gives these scores by case, on data of this fingerprint."""

    def judge(scores, *, on_disk="f" * 64, package="f" * 64, stored=None, pathologies=("nodule",), tolerance=1e-5):
        def open_images(*_):
            if isinstance(on_disk, Exception):
                raise on_disk
            return SimpleNamespace(
                fingerprint=on_disk,
                rows=lambda partition: {"test": np.arange(len(CASES))}[partition],
                instances=pd.DataFrame({"case": CASES}),
                cache=SimpleNamespace(pixels=np.zeros((len(CASES), 4, 4), np.uint8)),
            )

        def by_case(_, material, predicted, rows, __):
            cases = dict.fromkeys(material.instances["case"].iloc[rows])
            assert len(predicted) == len(rows)
            return measured({case: scores[case] for case in cases}, pathologies)

        monkeypatch.setattr("trainers.material.open_images", open_images)
        monkeypatch.setattr("trainers.evaluation.run.by_case", by_case)
        original = Original(
            checkpoint=None, sha256=None, promises={}, fingerprint="f" * 64, scores=measured(stored or STORED),
            config=None, operation=None,
        )  # fmt: skip
        loaded = SimpleNamespace(predict=lambda pixels: np.zeros((len(pixels), len(pathologies))))
        facts = {"data_fingerprint": package, "pathologies": list(pathologies)}
        return reload._reproduced(loaded, original, facts, tolerance)

    return judge


@pytest.mark.parametrize(
    ("scores", "more", "holds", "evidence"),
    [
        (STORED, {}, True, "largest difference 0.0e+00 over 3 cases"),
        (STORED | {"b": 0.75}, {"tolerance": 0.25}, True, "largest difference 2.5e-01 over 3 cases"),
        (STORED | {"b": 0.25}, {"tolerance": 0.125}, False, "largest difference 2.5e-01 over 3 cases"),
        (STORED, {"stored": {"a": 0.25, "b": 0.5}}, False, "3 cases scored, 2 of them stored"),
        (STORED, {"pathologies": ("mass",)}, False, "3 cases scored, 3 of them stored"),
        (STORED, {"on_disk": "0" * 64}, False, "not the same data: package ffffffffffff, ledger ffffffffffff"),
        (STORED, {"package": "0" * 64}, False, "not the same data: package 000000000000, ledger ffffffffffff"),
        (STORED, {"on_disk": DatasetError("no folder")}, False, "the test images cannot be read: no folder"),
        (STORED, {"on_disk": OSError(5, "I/O error")}, False, "the test images cannot be read: [Errno 5] I/O error"),
    ],
)
def test_a_model_gives_the_stored_scores_on_the_same_data(reproduced, scores, more, holds, evidence):
    found = reproduced(scores, **more)
    assert found.holds is holds
    assert found.evidence.startswith(evidence)


@pytest.mark.parametrize(("limit", "batch"), [(1, 32), (2, 32), (256, 1), (256, 3)])
def test_whole_cases_are_scored_again_in_batches(reproduced, monkeypatch, limit, batch):
    monkeypatch.setattr(reload, "CASES", limit)
    monkeypatch.setattr(reload, "BATCH", batch)
    assert reproduced(STORED).evidence == f"largest difference 0.0e+00 over {min(limit, 3)} cases"
