import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_curve

from trainers.evaluation import calibration, ranking, redraws, thresholds
from trainers.evaluation.case_scores import CaseScores, collect
from trainers.evaluation.comparison import compare, p_value
from trainers.evaluation.delong import delong, delong_test
from trainers.evaluation.family import p_value as family_p_value
from trainers.evaluation.family import redraw
from trainers.evaluation.intervals import bca, percentile
from trainers.evaluation.multiplicity import adjust
from trainers.evaluation.paper import paper_p_values, paper_table
from trainers.evaluation.redraws import Bootstrap
from trainers.evaluation.seeds import over_seeds
from trainers.evaluation.subgroups import by_subgroup, comparable
from trainers.evaluation.subgroups import table as subgroup_table
from trainers.evaluation.summary import summarize

NAN = float("nan")
# 113 patients with subarachnoid haemorrhage (Turck et al., Intensive Care Med. 36:107, 2010; the aSAH data of pROC):
# rank of serum s100b among its distinct values / WFNS grade. AUROC and DeLong see nothing but ranks.
GOOD_OUTCOME = (
    "2/1 2/1 2/1 2/1 2/2 3/1 3/1 3/3 4/1 4/1 5/1 5/1 5/1 5/1 5/2 5/3 6/1 6/1 6/1 6/1 6/2 6/2 7/1 7/1 7/1 7/1 7/2 "
    "7/2 8/1 8/1 8/1 8/1 8/2 8/2 8/2 9/1 9/1 9/2 9/2 11/1 11/1 11/2 12/1 12/1 12/1 12/2 13/1 13/2 13/2 13/2 14/1 "
    "14/2 14/4 15/2 15/4 16/1 17/1 17/2 20/5 24/4 26/4 27/3 28/4 30/4 32/2 34/4 35/5 36/4 36/5 37/1 39/1 39/5 "
)
POOR_OUTCOME = (
    "1/5 5/1 5/2 5/2 6/1 7/2 7/2 8/2 8/2 9/2 10/5 11/3 11/4 12/2 14/4 18/5 19/4 21/2 22/4 23/4 25/2 26/5 27/5 "
    "29/5 31/2 33/5 33/5 37/4 38/5 40/5 41/5 42/2 43/5 44/4 44/5 45/5 46/5 47/5 48/5 49/4 50/5 "
)


def haemorrhages() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return outcome (1 poor), s100b ranks and WFNS grades."""
    good, poor = ([pair.split("/") for pair in text.split()] for text in (GOOD_OUTCOME, POOR_OUTCOME))
    marker, grade = np.array(good + poor, dtype=np.float64).T
    return np.repeat([0.0, 1.0], [len(good), len(poor)]), marker, grade


def table(labels: np.ndarray, scores: np.ndarray, **columns: object) -> CaseScores:
    cases = len(labels)
    plain = {"partition": "test", "view": "PA", "sex": "F", "age_band": "18-39", "origin": None}
    identity = pd.DataFrame(
        {
            "case": [f"c{index:05d}" for index in range(cases)],
            "patient": [f"p{index:05d}" for index in range(cases)],
            **plain,
            **columns,
        },
        index=range(cases),
    )
    return collect(identity, scores, labels, pathologies=[f"f{index}" for index in range(labels.shape[1])])


def test_delong_golden_value() -> None:
    outcome, marker, grade = haemorrhages()
    assert (len(outcome), outcome.sum()) == (113, 41)
    found = delong(outcome, marker)
    # pROC: "Area under the curve: 0.7314, 95% CI: 0.6301-0.8326 (DeLong)"
    assert [round(value or 0, 4) for value in (found.value, found.low, found.high)] == [0.7314, 0.6301, 0.8326]
    # pROC's own test of roc.test(wfns, s100b): Z, p and interval to every printed digit
    paired = delong_test(outcome, grade, marker)
    assert paired.z == pytest.approx(2.20898359144091, abs=1e-13)
    assert paired.p_value == pytest.approx(0.0271757822291882, abs=1e-14)
    assert paired.difference.low == pytest.approx(0.0104061769564846, abs=1e-14)
    assert paired.difference.high == pytest.approx(0.174214419249478, abs=1e-14)
    one_sided = delong_test(outcome, grade, marker, alternative="greater")
    assert one_sided.p_value == pytest.approx(0.0271757822291882 / 2)


def test_delong_of_equal_curves_and_of_one_class() -> None:
    outcome, marker, _ = haemorrhages()
    assert delong_test(outcome, marker, marker).z is None
    assert delong(np.ones(5), np.arange(5.0)).value is None


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # sorted 0.005 0.01 0.03 0.04; BH: × 4/1, 4/2, 4/3, 4/4 → 0.02 0.02 0.04 0.04, smallest from the right
        ("benjamini_hochberg", [0.02, 0.04, 0.04, 0.02]),
        # Holm: × 4, 3, 2, 1 → 0.02 0.03 0.06 0.04, largest from the left
        ("holm", [0.03, 0.06, 0.06, 0.02]),
        ("none", [0.01, 0.04, 0.03, 0.005]),
    ],
)
def test_adjusted_p_values(method: str, expected: list[float]) -> None:
    assert adjust([0.01, 0.04, 0.03, 0.005], method) == pytest.approx(expected)


def test_a_test_that_was_not_done_is_not_in_the_family() -> None:
    assert adjust([0.02, None, 0.04], "holm") == [pytest.approx(0.04), None, pytest.approx(0.04)]
    assert adjust([None], "holm") == [None]
    with pytest.raises(ValueError, match="between 0 and 1"):
        adjust([1.2])


def test_one_and_two_sided_p_values_count_the_observed_sample() -> None:
    differences = np.array([0.1] * 97 + [-0.1, -0.1])  # 2 of 99 redraws on the far side
    assert p_value(differences, "greater") == pytest.approx(3 / 100)
    assert p_value(differences, "two-sided") == pytest.approx(6 / 100)
    assert p_value(differences, "less") == pytest.approx(98 / 100)
    assert p_value(np.array([NAN]), "greater") is None


def test_thresholds_come_from_validation() -> None:
    labels, scores = np.array([0, 0, 1, 0, 1, 1.0]), np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    # Youden: ≥ 0.5 → 2/3 − 0; ≥ 0.3 → 1 − 1/3: equal, the higher threshold is taken
    assert thresholds.threshold(labels, scores) == 0.5
    assert thresholds.threshold(labels, scores, rule="sensitivity", sensitivity=0.9) == 0.3
    assert thresholds.threshold(np.ones(3), np.arange(3.0)) is None
    with pytest.raises(ValueError, match="needs a target"):
        thresholds.choose(table(labels[:, None], scores[:, None]), rule="sensitivity")


def test_decisions_at_a_threshold() -> None:
    labels = np.array([[1], [1], [1], [0], [0], [0], [0], [NAN]])
    scores = np.array([[0.9], [0.8], [0.2], [0.7], [0.1], [0.1], [0.1], [0.9]])
    evaluation = summarize(table(labels, scores), bootstrap=Bootstrap(redraws=20), at={"f0": 0.5})
    found = {name: evaluation.estimates[name]["f0"].value for name in thresholds.METRICS}
    # 2 of 3 positives found, 1 of 4 negatives called
    assert found == pytest.approx(
        {
            "sensitivity": 2 / 3,
            "specificity": 3 / 4,
            "accuracy": 5 / 7,
            "balanced_accuracy": (2 / 3 + 3 / 4) / 2,
            "precision": 2 / 3,
            "f1": 2 / 3,
        }
    )


def test_macro_of_decisions_is_the_mean_over_the_list() -> None:
    labels = np.array([[1, 1], [1, 0], [0, 1], [0, 0]])
    scores = np.array([[0.9, 0.1], [0.2, 0.2], [0.1, 0.8], [0.3, 0.9]])
    found = summarize(table(labels, scores), bootstrap=Bootstrap(redraws=20), at={"f0": 0.5, "f1": 0.5}).estimates
    assert found["sensitivity"]["macro"].value == pytest.approx((0.5 + 0.5) / 2)
    assert found["specificity"]["macro"].value == pytest.approx((1 + 0.5) / 2)
    without = summarize(table(labels, scores), bootstrap=Bootstrap(redraws=20), at={"f0": 0.5, "f1": None}).estimates
    assert without["sensitivity"]["f1"].value is None and without["sensitivity"]["macro"].value is None


def test_calibration() -> None:
    labels, scores = np.array([1.0, 0.0, 1.0, NAN]), np.array([0.8, 0.3, 0.85, 0.1])
    assert calibration.brier(labels, scores) == pytest.approx((0.04 + 0.09 + 0.0225) / 3)
    # two bins of ten: [0.8, 0.9): mean label 1, mean score 0.825; [0.3, 0.4): 0 against 0.3
    error = 2 / 3 * 0.175 + 1 / 3 * 0.3
    assert calibration.expected_calibration_error(labels, scores, bins=10) == pytest.approx(error)
    assert calibration.expected_calibration_error(np.array([1.0]), np.array([1.0])) == 0.0
    assert calibration.brier(np.array([NAN]), np.array([0.5])) is None


def test_percentile_and_bca_agree_where_nothing_is_skewed() -> None:
    redrawn = np.linspace(-1, 1, 1001)
    plain = percentile(0.0, redrawn)
    corrected = bca(0.0, redrawn, np.linspace(-1, 1, 101))
    assert plain.low == pytest.approx(-0.95) and plain.high == pytest.approx(0.95)
    assert corrected.low == pytest.approx(plain.low, abs=2e-3)
    # Efron and Tibshirani 1993, eq. 14.10: with z0 = 0 and a > 0 both ends move up
    skewed = bca(0.0, redrawn, -np.array([3.0, 0, 0, 0, 0, 0]))
    assert (skewed.low or 0) > (plain.low or 0) and (skewed.high or 0) > (plain.high or 0)


def test_bca_runs_through_summarize() -> None:
    generator = np.random.default_rng(3)
    labels = (generator.random((80, 1)) < 0.3).astype(float)
    scores = 1 / (1 + np.exp(-labels - generator.normal(size=labels.shape)))
    found = summarize(table(labels, scores), bootstrap=Bootstrap(redraws=200, interval="bca")).estimates["auroc"]["f0"]
    assert found.low is not None and found.value is not None and found.high is not None
    assert found.low < found.value < found.high


@pytest.mark.parametrize("interval", ["percentile", "bca"])
@pytest.mark.parametrize(("ill", "told"), [(1, False), (2, False), (3, True)])
@pytest.mark.parametrize("turned", [False, True])
def test_too_few_patients_of_a_class_have_no_interval_and_no_p_value(ill, told, interval, turned) -> None:
    """Nor has their macro; several films of a patient are no more evidence of that kind."""
    generator = np.random.default_rng(0)
    owner = np.repeat(np.arange(60), 3)
    labels = np.stack([owner % 2, (owner < ill) != turned], axis=1).astype(float)
    patients = [f"p{index:02d}" for index in owner]
    first, second = (table(labels, generator.random(labels.shape), patient=patients) for _ in range(2))
    bootstrap = Bootstrap(redraws=50, interval=interval)
    found = summarize(first, bootstrap=bootstrap, at={"f0": 0.5, "f1": 0.5}).estimates
    for metric in ("auroc", "average_precision", "balanced_accuracy"):
        assert None not in [estimate.value for estimate in found[metric].values()]
        assert [found[metric][name].low is not None for name in ("f0", "f1", "macro")] == [True, told, told]
    differences = compare(first, second, bootstrap=bootstrap).differences
    assert [difference.p_value is not None for difference in differences] == [True, told, told]
    assert [difference.difference.low is not None for difference in differences] == [True, told, told]
    one, other = (redraw(side, metric="auroc", bootstrap=bootstrap) for side in (first, second))
    pairs = zip((one.observed - other.observed), (one.values - other.values).T, strict=True)
    assert [family_p_value(observed, values) is not None for observed, values in pairs] == [True, told, told]
    spreads = over_seeds([first, second], bootstrap=bootstrap)
    assert [spread.low is not None for spread in spreads] == [True, told, told]


@pytest.mark.slow
def test_intervals_over_patients_cover_and_over_films_do_not() -> None:
    """Repeated films: the true AUROC lies in a nominal 95 % interval in 93 to 97 % of samples, by patients only."""
    generator = np.random.default_rng(0)
    repetitions, patients, correlation = 300, 220, 0.5
    # label per patient; score = label + N(0, 1), shared within the patient to the degree of `correlation`
    truth = 0.7602499389065233  # Φ(1 / √2)
    covered = {"patient": 0, "case": 0}
    for repetition in range(repetitions):
        films = 1 + generator.poisson(2.6, patients)  # 3.6 on average
        owner = np.repeat(np.arange(patients), films)
        ill = (generator.random(patients) < 0.4).astype(float)
        noise = correlation**0.5 * generator.normal(size=patients)[owner]
        noise += (1 - correlation) ** 0.5 * generator.normal(size=len(owner))
        scores = table(ill[owner][:, None], (ill[owner] + noise)[:, None], patient=[f"p{index:05d}" for index in owner])
        for unit in covered:
            bootstrap = Bootstrap(redraws=300, unit=unit, seed=repetition)
            found = summarize(scores, bootstrap=bootstrap).estimates["auroc"]["f0"]
            covered[unit] += bool((found.low or 0) <= truth <= (found.high or 0))
    assert 0.93 <= covered["patient"] / repetitions <= 0.97
    assert covered["case"] / repetitions < 0.88


def test_the_papers_procedures_by_name() -> None:
    generator = np.random.default_rng(5)
    labels = (generator.random((300, 2)) < 0.3).astype(float)
    good, bad = labels + generator.normal(size=labels.shape), labels + 3 * generator.normal(size=labels.shape)
    rows = paper_table(table(labels, good), redraws_count=50).set_index(["metric", "pathology"])
    youden = rows.loc[("sensitivity", "f0"), "mean"] + rows.loc[("specificity", "f0"), "mean"] - 1
    fixed = thresholds.threshold(labels[:, 0], good[:, 0])
    called = good[:, 0] >= fixed
    once = called[labels[:, 0] == 1].mean() - called[labels[:, 0] == 0].mean()
    assert youden >= once  # refitting in every redraw can only flatter
    verdicts = paper_p_values(table(labels, good), table(labels, bad), redraws_count=50)
    assert [verdict.higher for verdict in verdicts] == ["first"] * 3
    assert [v.higher for v in paper_p_values(table(labels, bad), table(labels, good), redraws_count=50)] == [
        "second"
    ] * 3


@pytest.mark.parametrize("top", [0.95, 0.45], ids=["some scores from 0.5 on", "none"])
def test_redraws_of_one_class_are_called_at_one_half_as_in_the_papers_code(top: float) -> None:
    """One positive in 60: about a third of the redraws, (59/60)^60, miss it."""
    generator = np.random.default_rng(3)
    labels, scores = np.zeros((60, 1)), np.sort(generator.uniform(0, top, (60, 1)), axis=0)
    labels[40] = 1
    rows = paper_table(table(labels, scores), redraws_count=200, seed=0).set_index(["metric", "pathology"])
    expected: dict[str, list[float]] = {"sensitivity": [], "specificity": [], "accuracy": []}
    for weights in redraws.draw(60, redraws=200, seed=0).T:
        chosen = np.repeat(np.arange(60), weights)
        truth, value = labels[chosen, 0] == 1, scores[chosen, 0]
        cut = 0.5
        if truth.any():
            false_rate, true_rate, cuts = roc_curve(truth, value)
            cut = cuts[np.argmax(true_rate - false_rate)]
            expected["sensitivity"].append(float((value[truth] >= cut).mean()))
        expected["specificity"].append(float((value[~truth] < cut).mean()))
        expected["accuracy"].append(float(((value >= cut) == truth).mean()))
    assert 50 < 200 - len(expected["sensitivity"]) < 100
    for metric, values in expected.items():
        assert rows.loc[(metric, "f0"), "mean"] == pytest.approx(np.mean(values), abs=1e-12)


def test_the_papers_table_leaves_a_pathology_without_any_label_undefined() -> None:
    rows = paper_table(table(np.full((4, 1), NAN), np.full((4, 1), 0.7)), redraws_count=5)
    assert rows["mean"].isna().all()


def test_subgroups_are_named_even_when_too_small() -> None:
    labels = np.tile([[0.0], [1.0]], (40, 1))
    scores = np.random.default_rng(0).random((80, 1))
    groups = by_subgroup(table(labels, scores, sex=["F"] * 70 + ["M"] * 10), bootstrap=Bootstrap(redraws=10))
    assert [(group.column, group.value, group.cases) for group in groups] == [("sex", "F", 70), ("sex", "M", 10)]
    assert groups[1].evaluation is None
    assert set(subgroup_table(groups)["group"]) == {"F"}


def test_the_macros_of_a_division_are_over_the_pathologies_that_its_groups_share() -> None:
    """Both groups are scored alike, but the hard pathology has no positive case among men."""
    generator = np.random.default_rng(0)
    labels = np.tile([[0.0, 0.0], [1.0, 1.0]], (60, 1))
    scores = labels * [2.0, 0.5] + generator.normal(size=labels.shape)
    labels[80:, 1] = 0
    sexes = ["F"] * 80 + ["M"] * 40
    groups = by_subgroup(table(labels, scores, sex=sexes), columns=["sex"], bootstrap=Bootstrap(redraws=10))
    for group in groups:
        assert group.evaluation is not None
        assert group.evaluation.macro_over == ("f0",)
        for estimates in group.evaluation.estimates.values():
            assert estimates["macro"] == estimates["f0"]
    assert groups[0].evaluation is not None and groups[0].evaluation.estimates["auroc"]["f1"].value is not None


def test_a_group_in_which_nothing_is_defined_does_not_take_the_macro_from_the_others() -> None:
    labels = np.tile([[0.0], [1.0]], (60, 1))
    labels[80:] = 0
    sexes = ["F"] * 80 + ["M"] * 40
    scores = np.random.default_rng(0).random((120, 1))
    groups = by_subgroup(table(labels, scores, sex=sexes), columns=["sex"], bootstrap=Bootstrap(redraws=10))
    values = [group.evaluation and group.evaluation.estimates["auroc"]["macro"].value for group in groups]
    assert values[0] is not None
    assert values[1] is None


def stored(group: str, target: str, value: float | None, counts: tuple[int | None, int | None]) -> dict[str, object]:
    row = {"column": "sex", "group": group, "cases": 100, "metric": "auroc", "target": target, "value": value}
    bounds = (None, None) if value is None else (value - 0.1, value + 0.1)
    return row | dict(zip(("low", "high", "positives", "negatives"), (*bounds, *counts), strict=True))


def test_stored_macros_over_other_pathologies_are_averaged_anew_without_an_interval() -> None:
    """As versions before stored them: women's macro is over two pathologies, men's over one."""
    rows = [
        stored("F", "easy", 0.832, (20, 80)),
        stored("F", "hard", 0.726, (9, 91)),
        stored("F", "macro", 0.779, (None, None)),
        stored("M", "easy", 0.805, (20, 80)),
        stored("M", "hard", None, (0, 100)),
        stored("M", "macro", 0.805, (None, None)),
    ]
    found = {(row["group"], row["target"]): row for row in comparable(rows)}
    shares = {"macro_over": 1, "targets": 2}
    assert found["F", "macro"] == rows[2] | shares | {"value": 0.832, "low": None, "high": None}
    assert found["M", "macro"] == rows[5] | shares
    assert [found["F", name] for name in ("easy", "hard")] == rows[:2]


def test_the_spread_between_seeds_is_kept_apart_from_sampling() -> None:
    generator = np.random.default_rng(7)
    labels = (generator.random((200, 1)) < 0.4).astype(float)
    same = table(labels, labels + generator.normal(size=labels.shape))
    spread = over_seeds([same, same, same], bootstrap=Bootstrap(redraws=100))[0]
    assert spread.between_seeds == 0 and spread.sampling > 0
    different = [table(labels, labels + generator.normal(size=labels.shape)) for _ in range(3)]
    assert (over_seeds(different, bootstrap=Bootstrap(redraws=100))[0].between_seeds or 0) > 0
    assert over_seeds([same], bootstrap=Bootstrap(redraws=100))[0].between_seeds is None


def test_redraws_beyond_what_float32_counts_exactly_are_exact() -> None:
    ranked = ranking.rank(np.array([0, 1, 0, 1.0]), np.arange(4.0), units=np.arange(4), count=4)
    weights = np.array([[2**24 - 1], [1], [2], [1]], np.float32)
    assert ranked is not None
    assert ranked.auroc(weights)[0] == ((2**24 - 1) + (2**24 + 1)) / (2 * (2**24 + 1))  # 2**24 + 1 is no float32
