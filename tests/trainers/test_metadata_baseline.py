"""What view, sex and age alone tell, over the same cases as the networks that it stands beside."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datasets.manifest import Manifest
from trainers.evaluation.auroc import auroc
from trainers.evaluation.metadata import baseline_rows, metadata_baseline


def _manifest(test: list[tuple[str, str, float]]) -> Manifest:
    """Return 40 train images, of which those of view AP are ill, and test images of (case, view, label)."""
    train = [(f"T{row}", "PA" if row % 2 else "AP", float(row % 2 == 0)) for row in range(40)]
    rows = [*train, *test]
    instances = pd.DataFrame(
        {
            "path": [f"{row}.png" for row in range(len(rows))],
            "case": [case for case, _, _ in rows],
            "patient": [case for case, _, _ in rows],
            "view": [view for _, view, _ in rows],
            "age": np.nan,
            "sex": None,
            "origin": None,
            "partition": ["train"] * len(train) + ["test"] * len(test),
        }
    )
    labels = np.array([[label] for _, _, label in rows], np.float32)
    return Manifest("made_up", Path(), instances, labels, ("nodule",), "", "", "published")


def test_a_case_is_counted_once_with_its_mean_score_and_largest_given_label():
    """Case A has three images, one AP; a label given for any of them is the case's. No label at all: C."""
    test = [("A", "AP", np.nan), ("B", "PA", 0), ("A", "PA", 1), ("A", "PA", 0), ("C", "AP", np.nan), ("D", "AP", 0)]
    baseline = metadata_baseline(_manifest(test))
    alone = metadata_baseline(_manifest([("1", "AP", 1), ("2", "PA", 0)]))
    ap, pa = alone.scores[:, 0]
    assert ap > 0.8 > pa
    np.testing.assert_allclose(baseline.scores[:, 0], [(ap + 2 * pa) / 3, pa, ap, ap])  # cases A, B, C, D
    np.testing.assert_array_equal(baseline.labels[:, 0], [1, 0, np.nan, 0])
    assert baseline.auroc["nodule"] == 0.5  # A is above B and below D


@pytest.mark.parametrize(
    ("test", "positives", "negatives", "value"),
    [
        ([("A", "AP", 1), ("A", "AP", 1), ("A", "AP", 1), ("B", "PA", 0)], 1, 1, 1.0),
        ([("A", "AP", 1), ("A", "PA", 0), ("B", "PA", 0), ("B", "PA", np.nan)], 1, 1, 1.0),
        ([("A", "AP", 1), ("A", "AP", 0)], 1, 0, None),  # an image's label of its own would be of both classes
    ],
)
def test_rows_count_cases_as_a_winners_do(test, positives: int, negatives: int, value: float | None):
    rows = {row["target"]: row for row in baseline_rows(_manifest(test))}
    assert (rows["nodule"]["positives"], rows["nodule"]["negatives"]) == (positives, negatives)
    assert rows["nodule"]["value"] == rows["macro"]["value"] == value


def test_its_auroc_is_that_of_its_scores_and_labels():
    rng = np.random.default_rng(0)
    test = [(f"C{n // 3}", ("AP", "PA")[int(rng.integers(2))], float(rng.integers(2))) for n in range(60)]
    baseline = metadata_baseline(_manifest(test))
    assert baseline.scores.shape == baseline.labels.shape == (20, 1)
    assert baseline.auroc["nodule"] == auroc(baseline.labels[:, 0], baseline.scores[:, 0])
