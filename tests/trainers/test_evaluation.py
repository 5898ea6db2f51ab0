from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from trainers.evaluation import calibration, case_scores, family, ranking, redraws, thresholds
from trainers.evaluation.auroc import auroc, average_precision
from trainers.evaluation.case_scores import CaseScores, age_band, collect
from trainers.evaluation.comparison import compare
from trainers.evaluation.intervals import Estimate, bca, jackknife_counts, percentile
from trainers.evaluation.redraws import Bootstrap
from trainers.evaluation.seeds import over_seeds
from trainers.evaluation.subgroups import by_subgroup
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


def drawn(cases: int = 120, *, strength: float = 1.0, seed: int = 0, patients: np.ndarray | None = None) -> CaseScores:
    """Return scores of two pathologies between 0 and 1 that know them by `strength` standard deviations."""
    generator = np.random.default_rng(seed)
    labels = (np.random.default_rng(0).random((cases, 2)) < 0.4).astype(float)
    scores = 1 / (1 + np.exp(-strength * labels - generator.normal(size=labels.shape)))
    return table(labels, scores, patients=patients)


@pytest.mark.parametrize("interval", ["percentile", "bca"])
def test_intervals_have_the_level_that_is_asked_for(interval: redraws.IntervalMethod) -> None:
    wide, narrow = (
        summarize(drawn(), bootstrap=Bootstrap(redraws=200, interval=interval, level=level), at={"f0": 0.5, "f1": 0.5})
        for level in (0.95, 0.5)
    )
    for metric, by_pathology in wide.estimates.items():
        for name, outer in by_pathology.items():
            inner = narrow.estimates[metric][name]
            assert None not in (outer.low, inner.low, inner.high, outer.high)
            assert outer.low < inner.low < inner.high < outer.high, (metric, name)  # type: ignore[operator]


def test_an_evaluation_counts_patients_and_tells_both_ends() -> None:
    found = summarize(drawn(patients=np.arange(120) // 3), bootstrap=Bootstrap(redraws=50))
    assert (found.cases, found.patients) == (120, 40)
    told, estimate = found.scalars("test"), found.estimates["auroc"]["f0"]
    names = [f"test/auroc/f0{end}" for end in ("/low", "", "/high")]
    assert [told[name] for name in names] == [estimate.low, estimate.value, estimate.high]
    assert told[names[0]] < told[names[1]] < told[names[2]]


@pytest.mark.parametrize("target", [None, 0.0, -0.1, 1.01])
def test_a_sensitivity_that_cannot_be_is_refused(target: float | None) -> None:
    with pytest.raises(ValueError, match=r"needs a target in \(0, 1\]"):
        thresholds.choose(drawn(), rule="sensitivity", sensitivity=target)
    assert None not in thresholds.choose(drawn(), rule="sensitivity", sensitivity=1.0).values()


def test_a_case_at_the_threshold_is_called_positive() -> None:
    scores = table(np.array([[1.0], [1], [0], [0]]), np.array([[0.5], [0.4], [0.5], [0.3]]))
    found = summarize(scores, bootstrap=Bootstrap(redraws=5), at={"f0": 0.5}).estimates
    assert [found[name]["f0"].value for name in ("sensitivity", "specificity")] == [0.5, 0.5]


def test_bca_on_paper() -> None:
    even = np.linspace(-1, 1, 1001)  # its quantile q is 2q − 1
    # Left out: mean −1/2, deviations 5/2 and five times −1/2: Σd² = 7.5, Σd³ = 15, a = 15 / (6 · 7.5^1.5) = 0.121716;
    # z = ±1.959964 becomes z / (1 − a·z): −1.582453 and 2.574024, Φ of which is 0.0567729 and 0.9949738
    skewed = bca(0.0, even, -np.array([3.0, 0, 0, 0, 0, 0]))
    assert (skewed.low, skewed.high) == pytest.approx((2 * 0.0567729 - 1, 2 * 0.9949738 - 1), abs=1e-6)
    tied = np.repeat([0.0, 0.5, 1.0], [50, 900, 50])  # half of what equals the value lies below it: no bias
    assert bca(0.5, tied, even) == percentile(0.5, tied)
    for beyond in (-5.0, 5.0):  # all redraws on one side: the correction would be infinite
        assert bca(beyond, even, even) == percentile(beyond, even)
    lost = np.append(even, [NAN, NAN])
    assert bca(0.0, lost, even).undefined_redraws == percentile(0.0, lost).undefined_redraws == 2


def test_one_redraw_is_no_interval() -> None:
    one = np.array([NAN, 0.5, NAN])
    assert percentile(0.5, one) == bca(0.5, one, np.arange(3.0)) == Estimate(0.5, None, None, 2)
    assert bca(0.5, np.arange(3.0), one) == Estimate(0.5)


def test_the_jackknife_leaves_out_neighbours() -> None:
    assert jackknife_counts(5, blocks=2).T.tolist() == [[0, 0, 0, 1, 1], [1, 1, 1, 0, 0]]
    assert jackknife_counts(3).T.tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]


def test_seeds_in_whatever_order_their_cases_stand_give_one_spread() -> None:
    runs = [drawn(seed=seed) for seed in (1, 2, 3)]
    shuffled = CaseScores(runs[2].table.sample(frac=1, random_state=0), ("f1", "f0"))
    spreads = over_seeds(runs, bootstrap=Bootstrap(redraws=60, level=0.5))
    assert over_seeds([*runs[:2], shuffled], bootstrap=Bootstrap(redraws=60, level=0.5)) == spreads
    assert [spread.pathology for spread in spreads] == ["f0", "f1", "macro"]
    for index, spread in enumerate(spreads[:2]):
        values = [auroc(run.labels[:, index], run.scores[:, index]) for run in runs]
        assert spread.values == pytest.approx(values)
        assert (spread.mean, spread.between_seeds) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
        assert spread.sampling is not None and spread.between_seeds is not None
        half = 0.674490 * (spread.sampling**2 + spread.between_seeds**2 / 3) ** 0.5  # Φ(0.674490) = 3/4
        assert (spread.low, spread.high) == pytest.approx((spread.mean - half, spread.mean + half), abs=1e-6)


def test_seeds_of_other_cases_have_no_spread_and_undefined_pathologies_none() -> None:
    with pytest.raises(ValueError, match="case"):
        over_seeds([drawn(), drawn(90)])
    labels = np.stack([np.arange(40) % 2, np.zeros(40)], axis=1).astype(float)
    runs = [table(labels, np.random.default_rng(seed).random(labels.shape)) for seed in (0, 1)]
    assert [spread.pathology for spread in over_seeds(runs, bootstrap=Bootstrap(redraws=20))] == ["f0", "macro"]


def test_groups_are_those_of_the_column_the_unknown_one_too() -> None:
    scores = drawn(100)
    sexes: list[str | None] = ["F"] * 41 + ["M"] * 30 + [None] * 29
    scores.table["sex"] = sexes
    scores.table.loc[scores.table["sex"].isna(), "label_f1"] = 0.0  # a group too small to be shown has no say
    groups = by_subgroup(scores, columns=["view", "sex"], bootstrap=Bootstrap(redraws=10))
    assert [(group.column, group.value, group.cases, group.evaluation is not None) for group in groups] == [
        ("sex", "F", 41, True),
        ("sex", "M", 30, True),
        ("sex", "unknown", 29, False),
    ]
    assert groups[0].evaluation is not None and groups[0].evaluation.macro_over == ("f0", "f1")


def test_bins_of_calibration_and_what_is_no_probability() -> None:
    # the last bin of ten holds 0.95 and 1 itself: |1 − 1.95|; the one before 0.85: |1 − 0.85|
    labels, scores = np.array([0.0, 1, 1]), np.array([1.0, 0.95, 0.85])
    assert calibration.expected_calibration_error(labels, scores, bins=10) == pytest.approx((0.95 + 0.15) / 3)
    for odd in (1.01, -0.01):
        found = summarize(table(labels[:, None], np.array([[odd], [0.5], [0.2]])), bootstrap=Bootstrap(redraws=5))
        assert [found.estimates[metric]["f0"] for metric in ("brier", "ece")] == [Estimate(None)] * 2


@pytest.mark.parametrize(
    ("observed", "redrawn", "expected"),
    [
        (1.0, [0.0, 2.0, NAN], 0.479500),  # their standard deviation is √2: 2 · Φ(−1/√2)
        (-1.0, [0.0, 2.0], 0.479500),
        (0.0, [0.1, 0.1], 1.0),
        (0.1, [0.1, 0.1], None),  # they never differ otherwise: nothing to measure doubt by
        (0.1, [0.1, NAN], None),
        (NAN, [0.0, 2.0], None),
    ],
)
def test_the_p_value_of_a_difference(observed: float, redrawn: list[float], expected: float | None) -> None:
    assert family.p_value(observed, np.array(redrawn)) == (expected and pytest.approx(expected, abs=1e-6))


def test_networks_are_redrawn_on_their_test_cases_and_paired_by_them(tmp_path: Path) -> None:
    scores, bootstrap = drawn(), Bootstrap(redraws=20)
    scores.table.loc[80:, "partition"] = "val"
    scores.save(tmp_path / "scores.parquet")
    (tmp_path / "other.parquet").write_bytes(b"no table")
    found, problem = family.redraw_files(
        [tmp_path / "scores.parquet", tmp_path / "other.parquet"], metric="auroc", bootstrap=bootstrap
    )
    test = scores.where(np.arange(120) < 80)
    expected = family.redraw(test, metric="auroc", bootstrap=bootstrap)
    assert isinstance(found, family.Redrawn) and isinstance(problem, str) and "other.parquet" in problem
    assert (found.cases, found.fingerprint) == (80, expected.fingerprint)
    np.testing.assert_array_equal(found.values, expected.values)
    named = CaseScores(test.table.rename(columns=lambda name: name.replace("f1", "edema")), ("f0", "edema"))
    assert family.redraw(named, metric="auroc", bootstrap=bootstrap).fingerprint != expected.fingerprint
