import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from trainers.evaluation import case_scores, ranking, redraws
from trainers.evaluation.auroc import auroc, average_precision
from trainers.evaluation.case_scores import CaseScores, age_band, collect
from trainers.evaluation.comparison import compare
from trainers.evaluation.redraws import Bootstrap
from trainers.evaluation.summary import summarize

NAN = float("nan")


def table(labels: np.ndarray, scores: np.ndarray, *, patients: np.ndarray | None = None) -> CaseScores:
    cases = len(labels)
    owners = np.arange(cases) if patients is None else patients
    identity = pd.DataFrame(
        {
            "case": [f"c{index:05d}" for index in range(cases)],
            "patient": [f"p{owner:05d}" for owner in owners],
            "partition": "test",
            "view": ["PA", "AP"][0],
            "sex": "F",
            "age_band": "18-39",
            "origin": None,
        }
    )
    return collect(identity, scores, labels, pathologies=[f"f{index}" for index in range(labels.shape[1])])


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        # pairs (1, 0): 0.8>0.1, 0.8>0.4, 0.35>0.1, 0.35<0.4 → 3 of 4
        ([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 0.75),
        # one tie among four pairs: (0.5 + 1 + 1 + 1) / 4
        ([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8], 0.875),
        ([0, 1], [0.3, 0.3], 0.5),
        # the case without a label does not count
        ([0, 0, 1, 1, NAN], [0.1, 0.4, 0.35, 0.8, 0.9], 0.75),
        ([1, 1], [0.1, 0.2], None),
        ([0, NAN], [0.1, 0.2], None),
        ([], [], None),
    ],
)
def test_auroc(labels: list[float], scores: list[float], expected: float | None) -> None:
    assert auroc(np.array(labels), np.array(scores)) == expected


def test_soft_labels_and_bad_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="0, 1 or NaN"):
        auroc(np.array([0.5, 1]), np.array([0.1, 0.2]))
    with pytest.raises(ValueError, match="1 scores are not finite"):
        auroc(np.array([0, 1]), np.array([0.1, NAN]))


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(3, 60), st.integers(1, 8))
def test_redrawn_statistics_equal_scikit_learn_on_the_same_redraws(seed: int, cases: int, levels: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, cases).astype(float)
    scores = generator.integers(0, levels, cases).astype(float)  # few levels: many ties
    units = generator.integers(0, max(1, cases // 2), cases)
    count = int(units.max()) + 1
    drawn = redraws.draw(count, redraws=5, seed=seed)
    ranked = ranking.rank(labels, scores, units=units, count=count)
    if ranked is None:
        assert auroc(labels, scores) is None
        return
    for metric, reference in (("auroc", roc_auc_score), ("average_precision", average_precision_score)):
        found = ranking.redrawn([ranked], drawn, metric=metric)[:, 0]
        for redraw in range(5):
            weights = drawn[units, redraw]
            chosen = np.repeat(np.arange(cases), weights)
            if len(set(labels[chosen])) < 2:
                assert np.isnan(found[redraw])
            else:
                assert abs(found[redraw] - reference(labels[chosen], scores[chosen])) < 1e-12


def test_average_precision_equals_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    labels, scores = generator.integers(0, 2, 200).astype(float), generator.integers(0, 20, 200).astype(float)
    assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


def test_redraws_are_shared_and_more_of_them_only_add() -> None:
    few, many = redraws.draw(50, redraws=3, seed=7), redraws.draw(50, redraws=9, seed=7)
    assert np.array_equal(few, many[:, :3])
    assert (many.sum(axis=0) == 50).all()


def test_single_class_and_missing_labels_stay_undefined_with_their_counts() -> None:
    labels = np.array([[1, 0, NAN], [0, 0, NAN], [1, 0, 1], [0, NAN, 0]])
    scores = np.array([[0.9, 0.1, 0.5], [0.2, 0.3, 0.5], [0.8, 0.2, 0.6], [0.3, 0.2, 0.1]])
    evaluation = summarize(table(labels, scores), bootstrap=Bootstrap(redraws=50))
    found = evaluation.estimates["auroc"]
    assert found["f0"].value == 1.0
    assert found["f1"].value is None and found["f1"].low is None
    assert (evaluation.counts["f1"].positives, evaluation.counts["f1"].negatives) == (0, 3)
    assert evaluation.counts["f2"].missing == 2
    assert evaluation.macro_over == ("f0", "f2")
    assert found["macro"].value == 1.0
    assert found["f2"].undefined_redraws > 0


def test_macro_over_a_list_with_an_undefined_pathology_is_undefined() -> None:
    labels = np.array([[1, 0], [0, 0], [1, 0], [0, 0]])
    scores = np.random.default_rng(0).random((4, 2))
    evaluation = summarize(table(labels, scores), bootstrap=Bootstrap(redraws=10), macro_over=["f0", "f1"])
    assert evaluation.estimates["auroc"]["macro"].value is None


def test_compare_is_antisymmetric_and_sees_a_better_network() -> None:
    generator = np.random.default_rng(1)
    labels = (generator.random((400, 2)) < 0.3).astype(float)
    good, bad = labels + generator.normal(size=labels.shape), labels + 4 * generator.normal(size=labels.shape)
    forward = compare(table(labels, good), table(labels, bad), bootstrap=Bootstrap(redraws=200))
    backward = compare(table(labels, bad), table(labels, good), bootstrap=Bootstrap(redraws=200))
    assert forward.macro.difference.low is not None and forward.macro.difference.low > 0
    assert forward.macro.p_value == pytest.approx(2 / 201)
    assert backward.macro.difference.value == pytest.approx(-(forward.macro.difference.value or 0))
    assert list(forward.table()["pathology"]) == ["f0", "f1", "macro"]


def test_compare_refuses_other_cases_and_other_labels() -> None:
    labels, scores = np.array([[1.0], [0.0], [1.0]]), np.array([[0.1], [0.2], [0.3]])
    whole = table(labels, scores)
    with pytest.raises(ValueError, match="1 only in the first"):
        compare(whole, whole.where(np.array([True, True, False])))
    with pytest.raises(ValueError, match="1 different labels"):
        compare(whole, table(np.array([[1.0], [0.0], [NAN]]), scores))


def test_case_scores_survive_the_file(tmp_path) -> None:
    whole = table(np.array([[1.0], [NAN]]), np.array([[0.1], [0.2]]))
    whole.save(tmp_path / "scores.parquet")
    again = case_scores.load(tmp_path / "scores.parquet")
    assert again.pathologies == ("f0",)
    assert np.array_equal(again.labels, whole.labels, equal_nan=True)


@pytest.mark.parametrize(
    ("age", "band"), [(0, "0-17"), (17.9, "0-17"), (18, "18-39"), (80, "80+"), (NAN, None), (-1, None)]
)
def test_age_bands(age: float, band: str | None) -> None:
    assert age_band(age) == band
