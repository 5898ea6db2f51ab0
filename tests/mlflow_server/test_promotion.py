import threading

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, PERMISSION_DENIED
from mlflow.tracking import MlflowClient

from mlflow_server import promotion
from mlflow_server.errors import PromotionError, TrackingError
from mlflow_server.promotion import MEASURED_SINCE, Bound, Measured, Policy, Reason
from mlflow_server.promotion import judge as judge_measured
from mlflow_server.registry import CLAIM, CLAIMED, MADE_OF, Registry
from mlflow_server.server import ServerSettings, command, environment
from trainers.evaluation.case_scores import IDENTITY, collect
from trainers.evaluation.comparison import Comparison, Difference, compare
from trainers.evaluation.intervals import Estimate
from trainers.evaluation.redraws import Bootstrap

EXTERNAL = {"elsewhere": Bound("non_inferiority", 0.02)}


def scores(strength, *, seed=0, cases=200, first=0):
    """Case scores that separate the classes of two pathologies by `strength` standard deviations."""
    rng = np.random.default_rng(seed)
    labels = np.random.default_rng(1).integers(0, 2, (cases, 2)).astype(float)
    identity = pd.DataFrame({name: [None] * cases for name in IDENTITY})
    identity["case"] = [f"c{first + i}" for i in range(cases)]
    identity["patient"] = [f"p{(first + i) // 2}" for i in range(cases)]
    return collect(identity, rng.normal(size=(cases, 2)) + strength * labels, labels, pathologies=["a", "b"])


def policy(rule="superiority", margin=0.0, **more):
    return Policy(Bound(rule, margin), "auroc", Bootstrap(redraws=300), **more)


def judge(challenger, champion, policy, **more):
    """Judge on the test partition alone."""
    return judge_measured(Measured(challenger), Measured(champion) if champion is not None else None, policy, **more)


def condition(decision, words):
    """The one reason whose condition has the words."""
    (found,) = [reason for reason in decision.reasons if words in reason.condition]
    return found


def probabilities(sharpness, *, lost=False):
    """Two pathologies; `lost` takes all knowledge of the second from the scores."""
    found = scores(0.0)
    rng = np.random.default_rng(5)
    values = 1 / (1 + np.exp(-sharpness * (2 * found.labels - 1) - rng.normal(size=found.labels.shape)))
    if lost:
        values[:, 1] = rng.uniform(size=len(values))
    return collect(found.table[list(IDENTITY)], values, found.labels, pathologies=["a", "b"])


def labelled(*columns, score=0.5):
    """Cases that all get one score, with these labels of each pathology."""
    labels = np.array(columns, dtype=float).T
    identity = scores(1.0, cases=len(labels)).table[list(IDENTITY)]
    return collect(identity, np.full(labels.shape, score), labels, pathologies=["a", "b"][: len(columns)])


def test_the_first_model_is_promoted():
    assert judge(scores(1.0), None, policy()).promoted


def test_one_pathology_with_both_classes_makes_a_first_model_known():
    assert judge(labelled([0, 1, 1], [0, 0, 0]), None, policy()).promoted


def test_a_model_that_was_measured_anew_since_is_told_as_such():
    decision = judge(scores(1.0), None, policy(), without_rival=MEASURED_SINCE)
    assert decision.promoted
    assert (decision.reasons[0].condition, decision.reasons[0].evidence) == MEASURED_SINCE


def test_metric_and_redraws_are_those_of_the_policy():
    own, other, bootstrap = scores(2.0), scores(0.5), Bootstrap(redraws=50, level=0.8, seed=3)
    asked = Policy(Bound("superiority", 0.0), "average_precision", bootstrap, external=EXTERNAL)
    decision = judge_measured(Measured(own, {"elsewhere": own}), Measured(other, {"elsewhere": other}), asked)
    expected = compare(own, other, metric="average_precision", bootstrap=bootstrap)
    assert list(decision.differences) == expected.rows()
    found = expected.macro.difference
    told = f"challenger minus champion {found.value:+.4f}, interval {found.low:+.4f} to {found.high:+.4f} (50 paired"
    for words in ("superiority: ", "on elsewhere, "):
        assert condition(decision, words).evidence.startswith(told)


def test_a_first_model_of_which_nothing_is_known_is_refused():
    unknown = scores(1.0)
    table, values = unknown.table[list(IDENTITY)], unknown.scores
    negative = collect(table, values, np.zeros_like(unknown.labels), pathologies=["a", "b"])
    decision = judge(negative, None, policy())
    assert not decision.promoted
    assert condition(decision, "no champion yet").evidence.endswith("no pathology has both classes")


@pytest.mark.parametrize(
    ("challenger", "champion", "rule", "margin", "promoted"),
    [
        (2.0, 0.5, "superiority", 0.0, True),
        (2.0, 0.5, "superiority", 0.5, False),
        (0.5, 2.0, "superiority", 0.0, False),
        (1.0, 1.0, "superiority", 0.0, False),
        (1.0, 1.0, "non_inferiority", 0.02, True),
        (0.5, 2.0, "non_inferiority", 0.02, False),
    ],
)
def test_the_lower_bound_decides(challenger, champion, rule, margin, promoted):
    decision = judge(scores(challenger), scores(champion), policy(rule, margin))
    assert decision.promoted is promoted
    assert "challenger minus champion" in decision.reasons[0].evidence
    assert [row["pathology"] for row in decision.differences] == ["a", "b", "macro"]


def test_one_patient_with_a_finding_does_not_promote():
    """All redraws that are defined hold that patient, so the interval would be of negatives alone."""
    sides = [scores(strength) for strength in (2.0, 0.5)]
    labels = sides[0].labels.copy()
    labels[:, 1] = sides[0].table["patient"] == "p0"
    rare = [collect(side.table[list(IDENTITY)], side.scores, labels, pathologies=["a", "b"]) for side in sides]
    decision = judge(*rare, policy())
    assert not decision.promoted
    assert decision.reasons[0].evidence.endswith(", without an interval: fewer than 3 patients of a class for b")


def test_scores_of_other_cases_cannot_be_compared():
    decision = judge(scores(2.0), scores(1.0, first=50), policy())
    assert not decision.promoted
    assert "50 only in the first" in decision.reasons[0].evidence


def test_a_pathology_that_got_lost_refuses_a_challenger_that_is_better_on_the_whole():
    champion, challenger = probabilities(0.2), probabilities(3.0, lost=True)
    before = condition(judge(challenger, probabilities(1.0), policy("non_inferiority", 0.5)), "lower bound")
    assert before.holds
    decision = judge(challenger, probabilities(1.0), policy("non_inferiority", 0.5, per_pathology=0.02))
    found = condition(decision, "significantly worse by more than 0.02")
    assert not decision.promoted
    assert not found.holds
    assert found.evidence.startswith("b -")
    assert "a " not in found.evidence
    allowed = judge(challenger, champion, policy("non_inferiority", 0.5, per_pathology=0.9))
    assert condition(allowed, "significantly worse").holds


@pytest.mark.parametrize(
    ("interval", "holds", "evidence"),
    [
        (Estimate(-0.10, -0.30, +0.01), True, "none of 1 is"),
        (Estimate(-0.10, -0.30, -0.01), True, "none of 1 is"),
        (Estimate(-0.10, -0.30, -0.02), True, "none of 1 is"),  # at the bound, not below it
        (Estimate(-0.10, -0.30, -0.03), False, "a -0.1000 (-0.3000 to -0.0300)"),
        (Estimate(None), True, "none of 0 is, 1 undefined"),
    ],
)
def test_a_pathology_is_worse_where_its_whole_interval_lies_below_what_is_allowed(
    monkeypatch, interval, holds, evidence
):
    """However bad the macro mean is: that has a condition of its own."""
    differences = (Difference("a", interval, 0.5, 0.5), Difference("macro", Estimate(-0.5, -0.6, -0.4), 0.5, None))
    recorded = Comparison("auroc", "two-sided", "benjamini_hochberg", Bootstrap(), differences)
    monkeypatch.setattr(promotion, "compare", lambda *_, **__: recorded)
    found = condition(judge(scores(1.0), scores(1.0), policy(per_pathology=0.02)), "significantly worse")
    assert (found.holds, found.evidence) == (holds, evidence)


@pytest.mark.parametrize(
    ("measured", "largest", "holds", "evidence"),
    [
        # 1 of 4 is positive where the score says 0.5: an error of 0.25
        (labelled([1, 0, 0, 0]), 0.25, True, "0.2500 over 1 of 1 pathologies"),
        (labelled([1, 0, 0, 0]), 0.24, False, "0.2500 over 1 of 1 pathologies"),
        (labelled([1, 0, 0, 0], [0, 0, 0, 0]), 0.25, True, "0.2500 over 1 of 2 pathologies"),
        (labelled([0, 0, 0, 0]), 0.25, False, "undefined: no pathology has both classes"),
        (labelled([1, 0, 0, 0], score=1.5), 1.0, False, "the scores are no probabilities: some lie outside 0 to 1"),
        (labelled([1, 0, 0, 0], score=-0.5), 1.0, False, "the scores are no probabilities: some lie outside 0 to 1"),
    ],
)
def test_the_mean_calibration_error_decides(measured, largest, holds, evidence):
    found = condition(judge(measured, None, policy(calibration=largest)), "calibration error")
    assert (found.holds, found.evidence) == (holds, evidence)


@pytest.mark.parametrize(
    ("labels", "least", "evidence"),
    [
        ([1, 1, 0, 0], 2, "all 1 have"),
        ([1, 1, 0, 0, 0], 3, "a 2 positive, 3 negative"),
        ([1, 1, 1, 0, 0], 3, "a 3 positive, 2 negative"),
        ([1, 1, 1, 0, 0, float("nan")], 3, "a 3 positive, 2 negative"),  # not given is neither
    ],
)
def test_every_pathology_needs_so_many_cases_of_either_class(labels, least, evidence):
    found = condition(judge(labelled(labels), None, policy(minimum_positives=least)), f"at least {least} positive")
    assert (found.holds, found.evidence) == (evidence == "all 1 have", evidence)


def test_badly_calibrated_scores_are_refused_even_without_a_champion():
    sharp = probabilities(3.0)
    assert judge(sharp, None, policy(calibration=0.2)).promoted
    decision = judge(probabilities(0.2), None, policy(calibration=0.01))
    assert not decision.promoted
    assert "over 2 of 2 pathologies" in condition(decision, "calibration error is at most 0.01").evidence
    assert "no probabilities" in condition(judge(scores(1.0), None, policy(calibration=0.5)), "calibration").evidence


def test_too_few_cases_are_named_with_their_numbers():
    decision = judge(scores(2.0), scores(0.5), policy(minimum_positives=100))
    labels = scores(2.0).labels[:, 0]
    found = condition(decision, "at least 100 positive")
    assert not decision.promoted
    assert f"a {int(labels.sum())} positive, {int((1 - labels).sum())} negative" in found.evidence
    assert judge(scores(2.0), scores(0.5), policy(minimum_positives=50)).promoted


def test_every_reason_is_reported_and_one_that_fails_refuses():
    broken = Reason("the packaged weights are those of the ledger", False, "ledger 12, package 13")
    decision = judge(scores(2.0), scores(0.5), policy(per_pathology=0.02, minimum_positives=5), checks=[broken])
    assert [reason.holds for reason in decision.reasons] == [True, True, True, False]
    assert not decision.promoted
    asked = policy(minimum_positives=5, external=EXTERNAL)
    unpaired = judge(scores(2.0), scores(0.5, first=50), asked, checks=[broken])
    assert [reason.holds for reason in unpaired.reasons] == [False, False, True, False]


@pytest.mark.parametrize(
    ("own", "other", "holds", "evidence"),
    [
        (scores(1.0), scores(1.0), True, "challenger minus champion +0.0000"),
        (scores(0.5), scores(2.0), False, "challenger minus champion -0."),
        (None, scores(1.0), False, "the challenger was not measured on it; see evaluation.external"),
        (scores(1.0), None, False, "the champion was not measured on it"),
        (scores(1.0), scores(1.0, first=50), False, "not the same test cases: not the same cases: 50 only in"),
    ],
)
def test_every_external_set_has_to_pass_as_well(own, other, holds, evidence):
    challenger = Measured(scores(2.0), {} if own is None else {"elsewhere": own})
    champion = Measured(scores(0.5), {} if other is None else {"elsewhere": other})
    decision = judge_measured(challenger, champion, policy(external=EXTERNAL))
    found = condition(decision, "on elsewhere, non_inferiority: the lower bound")
    assert "above -0.02" in found.condition
    assert (decision.promoted, found.holds) == (holds, holds)
    assert found.evidence.startswith(evidence)
    assert condition(decision, "superiority: the lower bound").holds


def test_the_first_model_must_have_been_measured_elsewhere_too():
    decision = judge_measured(Measured(scores(1.0), {"elsewhere": scores(1.0)}), None, policy(external=EXTERNAL))
    assert decision.promoted
    assert condition(decision, "on elsewhere").evidence == "nothing to compare with; measured on 200 cases"
    assert not judge_measured(Measured(scores(1.0)), None, policy(external=EXTERNAL)).promoted


@pytest.fixture(scope="module")
def registry_uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db"


@pytest.fixture
def registered(registry_uri, request, tmp_path):
    """A registry and two versions of one model."""
    client = MlflowClient(registry_uri)
    experiment = client.create_experiment(request.node.name)
    runs = [client.create_run(experiment).info.run_id for _ in range(2)]
    registry = Registry(registry_uri)
    versions = [
        registry.register(request.node.name, source=str(tmp_path), run_id=run, tags={"radsweep.trial": run})
        for run in runs
    ]
    return registry, versions


def test_a_run_is_registered_once(registered, tmp_path):
    registry, versions = registered
    again = registry.register(versions[0].name, source=str(tmp_path), run_id=versions[0].run_id, tags={})
    assert again.version == versions[0].version
    assert registry.version_of(versions[1].name, versions[1].run_id, None).version == versions[1].version


def test_a_run_may_be_registered_under_two_names(registered, registry_uri, tmp_path):
    registry, (first, _) = registered
    name = f"{first.name}-2"
    other = registry.register(name, source=str(tmp_path), run_id=first.run_id, tags={}, description="its card")
    assert (other.name, other.version) == (name, "1")
    assert MlflowClient(registry_uri).get_model_version(name, "1").description == "its card"


@pytest.mark.parametrize(
    ("step", "of", "code"),
    [
        # A registry that does not say who is champion is not one without: the next would be promoted unrivalled.
        ("get_model_version_by_alias", lambda registry, version: registry.champion(version.name), INTERNAL_ERROR),
        # Nor is it another's claim if this user may make none.
        ("create_registered_model", lambda registry, version: registry.crown(version, instead_of=None),
         PERMISSION_DENIED),
    ],
)  # fmt: skip
def test_an_error_of_the_registry_is_told_as_such(registered, monkeypatch, step, of, code):
    registry, (first, _) = registered

    def broken(*_, **__):
        raise MlflowException("out of order", code)

    monkeypatch.setattr(registry._client, step, broken)
    with pytest.raises(MlflowException, match="out of order"):
        of(registry, first)


def test_a_run_that_is_measured_anew_is_another_version(registered, tmp_path):
    registry, (first, _) = registered
    again = {"source": str(tmp_path), "run_id": first.run_id}
    measured = [registry.register(first.name, **again, tags={MADE_OF: made_of}) for made_of in ("a", "b", "a")]
    assert measured[0].version == measured[2].version
    assert len({version.version for version in (first, *measured)}) == 3
    assert registry.version_of(first.name, first.run_id, "b").version == measured[1].version


def test_the_alias_moves_from_version_to_version(registered):
    registry, (first, second) = registered
    assert registry.champion(first.name) is None
    registry.crown(first, instead_of=None)
    registry.crown(second, instead_of=first)
    assert registry.champion(first.name).version == second.version


def test_a_promotion_that_was_overtaken_is_refused(registered, registry_uri):
    registry, (first, second) = registered
    registry.crown(first, instead_of=None)
    with pytest.raises(PromotionError, match="the champion changed to version 1 while this promotion was judged"):
        registry.crown(second, instead_of=None)
    assert registry.champion(first.name).version == first.version
    MlflowClient(registry_uri).delete_registered_model_alias(first.name, "champion")
    with pytest.raises(PromotionError, match="the champion changed to version none while this promotion was judged"):
        registry.crown(second, instead_of=first)
    assert registry.champion(first.name) is None


def test_a_crowned_challenger_is_no_challenger_any_more(registered):
    registry, (first, second) = registered
    registry.challenge(second)
    registry.crown(first, instead_of=None)
    assert registry.find(f"models:/{first.name}@challenger").version == second.version
    registry.crown(second, instead_of=first)
    with pytest.raises(PromotionError, match="challenger"):
        registry.find(f"models:/{first.name}@challenger")


def test_of_promotions_at_the_same_time_one_is_carried_out_and_the_others_are_told(registered, registry_uri):
    registry, (first, second) = registered
    registry.crown(first, instead_of=None)
    start, ends = threading.Barrier(4), []

    def crown():
        own = Registry(registry_uri)
        start.wait()
        try:
            own.crown(second, instead_of=first)
            ends.append("crowned")
        except PromotionError as refused:
            ends.append(str(refused))

    threads = [threading.Thread(target=crown) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends.count("crowned") == 1
    assert all("promotion" in end for end in ends if end != "crowned")
    assert registry.champion(first.name).version == second.version


def test_the_claim_of_a_dead_promotion_is_told_and_taken_away(registered, registry_uri):
    registry, (first, _) = registered
    MlflowClient(registry_uri).create_registered_model(f"{first.name}{CLAIM}", description=f"{CLAIMED} somebody")
    with pytest.raises(PromotionError, match=f"`python -m mlflow_server unlock {first.name}`"):
        registry.crown(first, instead_of=None)
    assert registry.unlock(first.name)
    assert not registry.unlock(first.name)
    registry.crown(first, instead_of=None)


def test_a_missing_artifact_is_named(registered):
    registry, (first, _) = registered
    with pytest.raises(PromotionError, match=r"no artifact evaluation/scores\.parquet"):
        registry.artifact(first.run_id, "evaluation/scores.parquet")


def test_an_unknown_model_has_no_champion(registry_uri):
    assert Registry(registry_uri).champion("nobody") is None


def test_the_server_listens_on_loopback_alone_and_runs_no_jobs(tmp_path):
    words = command(ServerSettings(tmp_path))
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert words[words.index("--allowed-hosts") + 1] == "127.0.0.1:5000,localhost:5000"
    assert environment()["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    with pytest.raises(TrackingError, match="has no authentication and listens on this machine only"):
        command(ServerSettings(tmp_path, host="0.0.0.0"))
