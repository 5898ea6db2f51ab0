"""What the race knows at its rungs, and what other groups teach it."""

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState, create_trial

from search import improvement, pruners, race_curves
from search.curve_endings import Endings
from search.errors import StudyError
from search.pruners.cell_race import CellRacePruner
from search.pruning import create_group
from search.replay import curves, policies, run
from search.replay.curves import Curve
from search.standings import Past, ended
from search.study_sections import Pruning
from tests.search.recorded import Search

SHARES = [(0.07, 100, 7), (0.28, 25, 7), (0.14, 50, 7), (0.55, 20, 11), (0.1, 25, 3)]


@pytest.mark.parametrize(("share", "epochs", "rung"), SHARES)
def test_a_rung_is_the_first_epoch_that_reaches_its_share(share, epochs, rung):
    assert CellRacePruner(epochs, rungs=[share]).rungs == (rung,)


@pytest.mark.parametrize(("epochs", "rungs"), [(1, ()), (2, (1,)), (3, (1, 2)), (8, (1, 2, 3, 4, 6))])
def test_in_a_short_training_rungs_fall_together_and_none_is_its_end(epochs, rungs):
    assert CellRacePruner(epochs).rungs == rungs


EARLY_BIRD = {0.25: 0.8, 1.0: 0.8}
LATE_RISER = {0.25: 0.7, 1.0: 0.9}
LATE_LOSER = {0.25: 0.5, 1.0: 0.6}
OTHER = {0.25: 0.6, 1.0: 0.6}
HARD = Past([("x", EARLY_BIRD), ("y", LATE_RISER), ("z", OTHER)])
"""y stands second, near the leader, and wins."""
EASY = Past([("x", EARLY_BIRD), ("y", LATE_LOSER), ("z", OTHER)])
"""y stands last and stays there."""


def expected(past, now):
    begun = [(key, {0.25: value}) for key, value in zip("xyz", now, strict=True)]
    return Endings(past, [0.25]).expected(begun, [True] * 3, 0).behind


def test_groups_that_stood_alike_teach_more_than_others():
    """The same three hard and three easy groups are known; which of them counts is read from the first look."""
    past = [HARD] * 3 + [EASY] * 3
    alike_hard, alike_easy = expected(past, (0.4, 0.3, 0.2)), expected(past, (0.4, 0.1, 0.2))
    assert alike_hard[1] > alike_hard[0]
    assert alike_easy[0] > max(alike_easy[1:])


@pytest.mark.parametrize(("groups", "foreseen"), [(1, False), (2, True)])
def test_too_few_groups_that_stood_otherwise_teach_nothing(groups, foreseen):
    """Where `y` leads instead of `x`, each is worth exp(-2/3 / (2 * 0.5**2)) = 0.26 of one that stood the same."""
    begun = [(key, {0.25: value}) for key, value in zip("xyz", (0.3, 0.4, 0.2), strict=True)]
    assert (Endings([HARD] * groups, [0.25]).expected(begun, [True] * 3, 0) is not None) is foreseen


def test_what_is_taught_does_not_depend_on_the_unit_of_the_metric():
    small, large = expected([HARD] * 4, (0.4, 0.3, 0.2)), expected([HARD] * 4, (40.0, 30.0, 20.0))
    assert large == pytest.approx([100 * end for end in small])


def test_stopped_trials_are_not_expected_to_end_but_still_say_whom_the_group_is_like():
    begun = [("x", {0.25: 0.4, 0.5: 0.4}), ("y", {0.25: 0.3, 0.5: 0.35}), ("z", {0.25: 0.2})]
    ends = Endings([HARD] * 4, [0.25, 0.5]).expected(begun, [True, True, False], 1)
    assert ends.behind.shape == ends.doubts.shape == (2,)
    assert np.isfinite([ends.behind, ends.doubts]).all()


def test_a_group_is_foreseen_without_its_own_end():
    """Nothing foresaw the one group that is known: it is not believed, and what it did is the doubt."""
    only = Endings([HARD], [0.25]).expected([("x", {0.25: 0.8}), ("y", {0.25: 0.7})], [True] * 2, 0)
    assert only.behind == pytest.approx([0.0, -0.1])
    assert only.doubts.min() > 0.05


@pytest.mark.parametrize(
    ("groups", "keys", "early"),
    [(20, "xyz", True), (19, "xyz", False), (20, None, False), (20, "xyz yzx zxy", False)],
    ids=["many alike", "too few", "other names", "names that mean nothing"],
)
def test_the_rungs_are_early_where_many_groups_had_the_same_hyperparameters(groups, keys, early):
    named = [keys.split()[g % len(keys.split())] if keys else (f"{g}x", f"{g}y", f"{g}z") for g in range(groups)]
    past = [Past(list(zip(names, (EARLY_BIRD, LATE_RISER, OTHER), strict=True))) for names in named]
    assert CellRacePruner(48, past=past).rungs == ((1, 2, 3, 6, 12, 24, 36) if early else (6, 12, 18, 24, 36))
    assert CellRacePruner(48, past=past, restarts=True).rungs == ((1, 2, 4, 8) if early else (6, 12, 24))


def test_a_quota_counts_the_trials_that_began():
    """Of 16, four reached the second rung: there 16^0.5 = 4 may go on, not 4^0.5 = 2."""
    study = optuna.create_study(direction="maximize")
    for number in range(16):
        curve = {1: 0.1 * number} | ({2: 0.1 * number} if number >= 12 else {})
        state = TrialState.RUNNING if number >= 12 else TrialState.PRUNED
        study.add_trial(create_trial(state=state, intermediate_values=curve, value=0.0 if number < 12 else None))
    pruner = CellRacePruner(4, rungs=[0.25, 0.5], exponents=[0.5, 0.5])
    decided = [pruner.explain(study, trial) for trial in study.trials[12:]]
    assert [stops for stops, _ in decided] == [False] * 4
    assert "place 4 of 4 (4 go on)" in decided[0][1]


@pytest.mark.parametrize(
    ("trials", "rungs", "quotas"),
    [
        (3, (3, 5, 8, 10, 15), [3, 2, 2, 2, 2]),
        (5, (3, 5, 8, 10, 15), [4, 3, 3, 2, 2]),
        (4, (3, 5, 8, 10, 15), [4, 3, 3, 2, 2]),
        (15, (3, 5, 8, 10, 15), [10, 6, 6, 4, 3]),
        (16, (2, 4, 7, 13), [11, 8, 7, 4]),
        (100, (2, 4, 7, 13), [51, 32, 20, 10]),
    ],
)
def test_many_trials_are_looked_at_earlier_and_leave_more_to_the_late_rungs(trials, rungs, quotas):
    pruner = CellRacePruner(20, trials=trials, slope_credit=0.0, margin=0.0)
    assert pruner.rungs == rungs
    for rung, quota in zip(rungs, quotas, strict=True):
        race = optuna.create_study(direction="maximize")
        for number in range(trials):
            curve = {epoch: 0.05 * epoch + 0.0001 * number for epoch in range(1, rung + 1)}
            race.add_trial(create_trial(state=TrialState.RUNNING, intermediate_values=curve))
        stopped = [pruner.explain(race, trial)[0] for trial in race.trials]
        assert stopped == [True] * (trials - quota) + [False] * quota


def test_what_noise_does_not_tell_from_the_leader_goes_on_beyond_the_quota():
    """One may go on. `near` is 0.004 behind, `far` 0.2, and all curves scatter by some 0.02 around a flat line."""
    study = optuna.create_study(direction="maximize")
    for level in (0.8, 0.796, 0.6):
        curve = {epoch: level + (0.02 if epoch % 2 else 0.0) for epoch in range(1, 6)}
        study.add_trial(create_trial(state=TrialState.RUNNING, intermediate_values=curve))
    noise = race_curves.standing(study.trials[0], 5, study.direction).noise
    assert 0.01 < noise < 0.02
    settings = {"rungs": [0.5], "exponents": [0.0]}
    for margin, stopped in ((1.0, [False, False, True]), (0.0, [False, True, True])):
        pruner = CellRacePruner(10, **settings, margin=margin)
        assert [pruner.prune(study, trial) for trial in study.trials] == stopped
    assert f"margin {noise:.4f}" in CellRacePruner(10, **settings).explain(study, study.trials[1])[1]


def test_seeds_tell_the_noise_of_a_mean_over_them():
    """Between two seeds 0.02 around one mean and none around the other: sqrt((0.0008 + 0) / 2 / 2 seeds)."""
    race = create_group(
        Pruning(settings={"margin": 1.0}), epochs=8, trials=2, direction="maximize", space={"x": [1.0, 2.0]}
    )
    for trial, (x, value) in {"a0": (1.0, 0.80), "a1": (1.0, 0.76), "b0": (2.0, 0.7), "b1": (2.0, 0.7)}.items():
        race.add(trial, {"x": x}, point=str(x))
        race.report(trial, 1, value)
    assert race.decide("b0").reason.endswith("0.0800 behind by value and slope over 2 seeds, margin 0.0141")


def test_who_is_far_behind_stops_whatever_its_place():
    """Two may go on. The leader rose from 0.5 to 0.8; `far` stands at 0.6 since the third epoch."""
    study = optuna.create_study(direction="maximize")
    for curve in ([0.5, 0.7, 0.8, 0.8, 0.8], [0.5, 0.6, 0.6, 0.6, 0.6]):
        study.add_trial(create_trial(state=TrialState.RUNNING, intermediate_values=dict(enumerate(curve, 1))))
    far = study.trials[1]
    assert CellRacePruner(10, rungs=[0.5], exponents=[1.0]).prune(study, far) is True
    assert CellRacePruner(4, rungs=[0.5], exponents=[1.0]).prune(study, far) is False  # epoch 5 is no rung there


@pytest.mark.parametrize(
    ("curves", "stopped"),
    [
        (([0.7, 0.7], [0.7, 0.7], [0.7, 0.7]), [False, True, True]),  # who was entered first
        (([0.6, 0.7], [0.8, 0.8]), [True, False]),  # both are expected at 0.8, where the second stands already
    ],
)
def test_a_tie_is_decided_by_where_trials_stand_and_then_by_their_order(curves, stopped):
    study = optuna.create_study(direction="maximize")
    for curve in curves:
        study.add_trial(create_trial(state=TrialState.RUNNING, intermediate_values=dict(enumerate(curve, 1))))
    pruner = CellRacePruner(8, rungs=[0.25], exponents=[0.0], slope_credit=0.2)
    assert [pruner.prune(study, trial) for trial in study.trials] == stopped


def test_a_slope_is_believed_for_a_share_of_the_remaining_epochs():
    """It rises by 0.1 an epoch and has two of four to go: 0.7 + 0.3 x 2 x 0.1 is 0.04 behind 0.8."""
    study = optuna.create_study(direction="maximize")
    for curve in ([0.8, 0.8], [0.6, 0.7]):
        study.add_trial(create_trial(state=TrialState.RUNNING, intermediate_values=dict(enumerate(curve, 1))))
    pruner = CellRacePruner(4, rungs=[0.5], exponents=[0.0], slope_credit=0.3)
    assert ", 0.0400 behind by value and slope" in pruner.explain(study, study.trials[1])[1]


@pytest.mark.parametrize(
    ("curve", "slope", "noise"),
    [
        ([0.7], 0.0, 0.0),
        ([0.6, 0.7], 0.1, 0.0),
        ([0.7, 0.6], 0.0, 0.0),  # what falls is not expected to fall on
        ([0.5, 0.6, 0.5, 0.6], 0.0, 0.004**0.5),  # 0.02 an epoch, a standard error is 0.028
        ([0.5, 0.6, 0.7, 0.85], 0.115 - (0.000375 / 5) ** 0.5, 0.000375**0.5),
        ([0.1, 0.5, 0.6, 0.7, 0.85], 0.115 - (0.000375 / 5) ** 0.5, 0.000375**0.5),  # of the last four
    ],
)
def test_a_slope_counts_beyond_one_standard_error(curve, slope, noise):
    trial = create_trial(state=TrialState.RUNNING, intermediate_values=dict(enumerate(curve, 1)))
    found = race_curves.standing(trial, 5, optuna.study.StudyDirection.MAXIMIZE)
    assert (found.slope, found.noise) == pytest.approx((slope, noise), abs=1e-12)
    assert found.value == curve[-1]


def test_of_a_trial_that_has_gone_on_counts_where_it_stood_at_the_rung():
    """Others were added after it had finished."""
    study = optuna.create_study(direction="maximize")
    for state, curve in ((TrialState.COMPLETE, [0.5, 0.5, 0.9, 0.9]), (TrialState.RUNNING, [0.6, 0.6])):
        value = curve[-1] if state is TrialState.COMPLETE else None
        study.add_trial(create_trial(state=state, value=value, intermediate_values=dict(enumerate(curve, 1))))
    reason = CellRacePruner(4, rungs=[0.5]).explain(study, study.trials[1])[1]
    assert "value 0.6000, place 1 of 2" in reason


@pytest.mark.parametrize("factor", [100, 0.01])
def test_no_unit_of_the_metric_decides_where_nothing_is_known_of_other_groups(factor):
    rng = np.random.default_rng(3)
    rises = rng.uniform(0.2, 0.4, (30, 5, 1)) * (1 - np.exp(-np.arange(1, 17) / rng.uniform(2, 9, (30, 5, 1))))
    values = rises + rng.normal(0, 0.01, rises.shape)
    decided = []
    for unit in (1, factor):
        groups = [
            {str(t): Curve(np.arange(1, 17), unit * curve, np.ones(16)) for t, curve in enumerate(group)}
            for group in values
        ]
        policy = policies.pruned("cell_race", {})
        decided.append([policy(group, np.random.default_rng(0)).rows for group in groups])
    assert decided[0] == decided[1]


def test_rows_that_are_not_paid_for_are_not_seen():
    """Each row is a training of its own. Between the rungs `a` looks like a riser, but nobody looked."""
    rows = [
        {"group": "g", "trial": trial, "epoch": epoch, "value": value, "cost": epoch}
        for trial, values in {"a": [0.1, 0.1, 0.1, 0.5, 0.5, 0.5, 0.5, 0.9], "b": [0.6] * 8}.items()
        for epoch, value in enumerate(values, 1)
    ]
    policy = policies.pruned("cell_race", {"rungs": [0.5], "exponents": [0.0], "slope_credit": 1.0})
    finished = {
        restarts: policy(
            curves.of_table(pd.DataFrame(rows), name="t", restarts=restarts)["g"], np.random.default_rng(0)
        ).finished
        for restarts in (True, False)
    }
    groups = curves.of_table(pd.DataFrame(rows), name="t")
    assert finished[True](groups["g"]) == ["b"]
    assert finished[False](groups["g"]) == ["a", "b"]


def test_groups_that_share_a_curve_do_not_teach_each_other():
    """Drawn from one table, they would tell each other how the very same trial ends."""
    rng = np.random.default_rng(0)
    rows = [
        {"group": "g", "trial": f"t{trial}", "epoch": epoch, "value": float(rng.random())}
        for trial in range(6)
        for epoch in range(1, 9)
    ]
    drawn = run.equal_groups(curves.of_table(pd.DataFrame(rows), name="t"), size=4, draws=25, seed=0)
    asked = run.asked(["cell_race"])
    carried, alone = (next(run.replay(drawn, asked, seeds=1, carry=carry)).as_json() for carry in (True, False))
    assert carried == alone


def test_only_the_judged_groups_are_replayed_and_the_others_teach():
    rows = [
        {"group": f"g{g}", "trial": trial, "epoch": e, "value": v + 0.001 * g}
        for g in range(8)
        for trial, curve in {"slow": [0.1, 0.2, 0.6, 0.9], "quick": [0.6, 0.7, 0.7, 0.7], "mid": [0.5] * 4}.items()
        for e, v in enumerate(curve, 1)
    ]
    groups = curves.of_table(pd.DataFrame(rows), name="t")
    found = next(run.replay(groups, run.asked(["cell_race"]), seeds=1, judged=["g3"]))
    assert found.regrets.shape == (1, 1)
    assert found.regrets[0, 0] == 0.0


def test_groups_with_other_trials_do_not_bring_the_rungs_forward():
    """25 groups share their trials' names among themselves, but not with the one that is judged."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "group": f"g{g}",
            "trial": f"{'own' if g == 0 else 'theirs'} {t}",
            "epoch": e,
            "value": t + float(rng.random()),
        }
        for g in range(26)
        for t in range(6)
        for e in range(1, 49)
    ]
    groups = curves.of_table(pd.DataFrame(rows), name="t")
    asked = run.asked(["cell_race"])
    carried, alone = (
        next(run.replay(groups, asked, seeds=1, carry=carry, judged=["g0"])).as_json() for carry in (True, False)
    )
    assert carried == alone
    taught = next(run.replay(groups, asked, seeds=1, judged=["g1"])).as_json()
    assert taught["cost"] < alone["cost"]


def test_for_its_distance_alone_a_trial_stops_only_if_it_is_far_behind_by_every_reckoning():
    """`y` stands 0.3 behind, but elsewhere its like won; without the others' word it stops."""
    now = {"x": 0.8, "y": 0.5, "z": 0.75}
    past = [Past([("k=x", {0.25: 0.8, 1.0: 0.8}), ("k=y", {0.25: 0.5, 1.0: 0.9}), ("k=z", {0.25: 0.75, 1.0: 0.7})])] * 4
    study = optuna.create_study(direction="maximize")
    space = {"k": optuna.distributions.CategoricalDistribution(["x", "y", "z"])}
    for key, value in now.items():
        study.add_trial(
            create_trial(
                state=TrialState.RUNNING, params={"k": key}, distributions=space, intermediate_values={2: value}
            )
        )
    settings = {"rungs": [0.25], "exponents": [0.0]}
    y = study.trials[1]
    assert CellRacePruner(8, **settings).prune(study, y) is True
    stops, reason = CellRacePruner(8, **settings, past=past).explain(study, y)
    assert stops is False
    assert "0.0000 behind by what other groups taught" in reason


@pytest.mark.parametrize(("ahead", "doubt", "expected"), [(-0.1, 0.0, 0.0), (0.2, 0.0, 0.2), (0.0, 1.0, 0.39894228)])
def test_expected_improvement(ahead, doubt, expected):
    assert improvement.expected_improvement(ahead, doubt) == pytest.approx(expected)


def test_a_trial_stops_where_too_little_is_expected_to_be_missed():
    """`y` always ended 0.2 behind `x` where nothing scattered; where it won every other time, it goes on."""
    study = optuna.create_study(direction="maximize")
    space = {"k": optuna.distributions.CategoricalDistribution(["x", "y", "z"])}
    for key, value in {"x": 0.8, "y": 0.79, "z": 0.3}.items():
        study.add_trial(
            create_trial(
                state=TrialState.RUNNING, params={"k": key}, distributions=space, intermediate_values={2: value}
            )
        )

    def group(end):
        return Past([("k=x", {0.25: 0.8, 1.0: 0.9}), ("k=y", {0.25: 0.79, 1.0: end}), ("k=z", {0.25: 0.3, 1.0: 0.4})])

    settings = {"rungs": [0.25], "exponents": [1.0]}
    sure, doubtful = [group(0.7)] * 6, [group(0.7), group(0.98)] * 3
    decided = {
        name: CellRacePruner(8, **settings, past=past).explain(study, study.trials[1])
        for name, past in {"sure": sure, "doubtful": doubtful}.items()
    }
    assert decided["sure"][0] is True
    assert "expected to improve on those ahead by 0.0000" in decided["sure"][1]
    assert decided["doubtful"][0] is False
    assert CellRacePruner(8, **settings, past=sure).prune(study, study.trials[0]) is False
    assert CellRacePruner(8, **settings, past=sure, tolerance=0).prune(study, study.trials[1]) is False
    # An improvement of 0.0198 is asked of three quarters of a training: 0.018 or 0.021 where a whole one owes more.
    for tolerance, stops in ((0.024, False), (0.028, True)):
        pruner = CellRacePruner(8, **settings, past=doubtful, tolerance=tolerance)
        assert pruner.prune(study, study.trials[1]) is stops


@pytest.mark.parametrize(
    ("trials", "stops"), [(0, False), (15, False), (16, True), (40, True), (47, True), (60, False)]
)
def test_how_little_stops_a_trial_depends_on_how_many_there_are(trials, stops):
    """0.0007 is expected of 3/4 of a training, 0.0009 of a whole one; 0.0006, 0.0012 or 0.048 / n are asked of it."""
    study = optuna.create_study(direction="maximize")
    space = {"k": optuna.distributions.CategoricalDistribution(["x", "y"])}
    for key, value in [("x", 0.8), ("y", 0.79)]:
        asked = {"params": {"k": key}, "distributions": space}
        study.add_trial(create_trial(state=TrialState.RUNNING, intermediate_values={2: value}, **asked))
    alike = [("k=x", {0.25: 0.8, 1.0: 0.9}), ("k=z", {0.25: 0.3, 1.0: 0.4})]
    past = [Past([*alike, ("k=y", {0.25: 0.79, 1.0: end})]) for end in (0.88, 0.88, 0.88, 0.91) * 3]
    pruner = CellRacePruner(8, rungs=[0.25], exponents=[1.0], past=past, trials=trials)
    found, reason = pruner.explain(study, study.trials[1])
    assert "expected to improve on those ahead by 0.0007" in reason
    assert found is stops


@pytest.mark.slow
def test_what_hundreds_of_stopped_trials_would_have_added_adds_up():
    """What is worth most is much the same in all groups; which of the best wins differs, and each seldom does."""
    rng = np.random.default_rng(0)
    traits, epochs = rng.normal(size=(150, 3)), np.arange(1, 25)
    tables = []
    for group in range(24):
        ends = 0.8 + 0.05 * traits @ rng.normal([1, 0.5, 0.2], 0.3) + rng.normal(0, 0.01, len(traits))
        quickness = np.exp(-1.5 + 0.4 * traits[:, 0] + rng.normal(0, 0.5, len(traits)))
        values = ends[:, None] - 0.35 * np.exp(-quickness[:, None] * epochs) + rng.normal(0, 0.001, (150, 24))
        places = {"trial": np.repeat(np.arange(150), 24), "epoch": np.tile(epochs, 150), "value": values.ravel()}
        tables.append(pd.DataFrame({"group": f"g{group}", **places}))
    groups = curves.of_table(pd.concat(tables), name="t")
    ours, one_by_one = (
        next(run.replay(groups, run.asked([text]), seeds=1)).as_json()
        for text in ("cell_race", "cell_race: {tolerance: 0.0012}")
    )
    assert ours["regret_mean"] < one_by_one["regret_mean"] / 2
    assert one_by_one["cost"] < ours["cost"] < 0.1


IN_COMMON = [(0.7, 0.7), (0.98, 0.98)] * 3
OF_THEIR_OWN = [(0.7, 0.98)] * 6


@pytest.mark.parametrize("seeds", [1, 2, 4])
@pytest.mark.parametrize(("ends", "improvement"), [(IN_COMMON, "0.0072"), (OF_THEIR_OWN, "0.0000")])
def test_more_seeds_make_surer_only_of_what_is_not_common_to_them(seeds, ends, improvement):
    """y is foreseen 0.0063 behind x: groups in which all its seeds overtook are groups that can overtake again."""
    study = optuna.create_study(direction="maximize")
    space = {"k": optuna.distributions.CategoricalDistribution(["x", "y"])}
    for key, value in [("x", 0.8), ("y", 0.79)] * seeds:
        asked = {"params": {"k": key}, "distributions": space, "user_attrs": {pruners.POINT: key}}
        study.add_trial(create_trial(state=TrialState.RUNNING, intermediate_values={2: value}, **asked))
    alike = [("k=x", {0.25: 0.8, 1.0: 0.9}), ("k=z", {0.25: 0.3, 1.0: 0.4})]
    past = [Past([*alike * 2, *(("k=y", {0.25: 0.79, 1.0: end}) for end in of_seeds)]) for of_seeds in ends]
    _, reason = CellRacePruner(8, rungs=[0.25], exponents=[1.0], past=past).explain(study, study.trials[1])
    assert f"expected to improve on those ahead by {improvement}" in reason


@pytest.mark.parametrize(
    ("first", "second", "mean", "deviation"),
    [
        ((0.0, 1.0), (0.0, 1.0), np.pi**-0.5, (1 - 1 / np.pi) ** 0.5),
        ((0.8, 0.0), (0.7, 0.0), 0.8, 0.0),
        ((0.8, 0.01), (0.1, 0.01), 0.8, 0.01),
        ((0.0, 0.0), (0.0, 1.0), 0.39894228, (0.5 - 0.5 / np.pi) ** 0.5),
    ],
)
def test_the_larger_of_two_ends(first, second, mean, deviation):
    """Exact for normal variables: of two alike, far apart, and one that is certain."""
    assert improvement.larger(*first, *second) == pytest.approx((mean, deviation), abs=1e-7)
    assert improvement.larger(*second, *first) == pytest.approx((mean, deviation), abs=1e-7)


def test_a_trial_is_asked_what_it_adds_to_all_those_ahead_of_it_that_go_on():
    ends = [(0.80, 0.01), (0.79, 0.01), (0.79, 0.01)]
    of_two, of_three = (improvement.improvements(ends, quota=3, least=least) for least in (1.0, 0.0))
    assert of_two[1:] == pytest.approx([0.00199640] * 2, abs=1e-6)  # the second one stops, and is nobody's rival
    assert of_three[1] == of_two[1]
    assert 0 < of_three[2] < of_two[2]
    assert improvement.improvements(ends, quota=1, least=0.0) == pytest.approx(of_two)


def test_a_study_that_chooses_by_the_best_epoch_is_foreseen_by_it():
    """`y` is the best of all at half the epochs, and the worst in the end."""
    curves = [
        ("x", {0.25: 0.8, 0.5: 0.8, 1.0: 0.8}),
        ("y", {0.25: 0.75, 0.5: 0.9, 1.0: 0.4}),
        ("z", {0.25: 0.6, 1.0: 0.6}),
    ]
    now = [("x", {0.25: 0.7}), ("y", {0.25: 0.65}), ("z", {0.25: 0.5})]
    by_best, by_last = (
        Endings([Past(curves, by_best=best)] * 4, [0.25]).expected(now, [True] * 3, 0).behind for best in (True, False)
    )
    assert by_best.argmax() == 1
    assert by_last.argmin() == 1


def test_a_trial_that_was_undefined_at_first_teaches_what_is_known_of_it():
    """Others that were stopped before its first value are held against that value."""
    curves = [("x", {0.25: 0.7, 1.0: 0.8}), ("y", {0.25: 0.6}), ("z", {0.5: 0.65, 1.0: 0.9})]
    now = [("x", {0.25: 0.7}), ("y", {0.25: 0.6})]
    ends = Endings([Past(curves, by_best=True)] * 4, [0.25, 0.5]).expected(now, [True] * 2, 0)
    assert ends.behind[0] > ends.behind[1]


def test_of_a_metric_that_is_better_when_smaller_the_value_is_told_as_it_is():
    race = create_group(Pruning(), epochs=8, trials=3, direction="minimize", space={"x": [1.0, 2.0, 3.0]})
    for number, losses in enumerate([(0.5, 0.4), (0.7, 0.75), (0.6, 0.6)]):
        race.add(f"t{number}", {"x": float(number + 1)})
        for epoch, loss in enumerate(losses, 1):
            race.report(f"t{number}", epoch, loss)
    assert "value 0.7500, place 3 of 3" in race.decide("t1").reason


def test_who_came_to_its_end_early_ended_where_it_stood():
    """`x` leads when patience ends it; `y` would have been ahead later, and was where it trained on."""
    leader, others = {0.25: 0.8, 0.5: 0.8}, [("y", {0.25: 0.7, 0.5: 0.75, 1.0: 0.9}), ("z", {0.25: 0.6, 1.0: 0.6})]
    early, pruned = Past([("x", ended(leader)), *others]), Past([("x", leader), *others])
    now = [("x", {0.25: 0.7}), ("y", {0.25: 0.6}), ("z", {0.25: 0.5})]
    of_ended, of_pruned = (Endings([past] * 4, [0.25]).expected(now, [True] * 3, 0).behind for past in (early, pruned))
    assert of_ended.argmax() == 1
    assert of_ended[0] < of_pruned[0]
    assert ended({0.5: 0.7, 1.0: 0.9}) == {0.5: 0.7, 1.0: 0.9}


def test_doubt_is_that_of_trials_that_stood_as_far_behind():
    """The leader always ended where it stood; who was far behind ended anywhere."""
    ends = (0.1, 0.7, 0.2, 0.6, 0.3, 0.5)
    past = [
        Past([("x", {0.25: 0.8, 1.0: 0.8}), ("y", {0.25: 0.3, 1.0: end}), ("z", {0.25: 0.7, 1.0: 0.7})])
        for end in ends * 4
    ]
    now = [("new", {0.25: 0.8}), ("x", {0.25: 0.79}), ("y", {0.25: 0.3}), ("z", {0.25: 0.3})]
    doubts = Endings(past, [0.25]).expected(now, [True] * 4, 0).doubts
    assert doubts[0] < 0.1 < doubts[2]
    assert doubts[3] > 3 * doubts[1]  # z was near in the other groups, and is far behind here


def test_curves_that_have_flattened_do_not_overtake():
    """`y` gains 0.1 where all still rise by as much; where nothing moves any more, neither does it."""
    past = [
        Past(
            [
                ("x", {0.25: 0.6, 0.5: 0.7, 1.0: 0.75}),
                ("y", {0.25: 0.55, 0.5: 0.65, 1.0: 0.8}),
                ("z", {0.25: 0.55, 0.5: 0.6, 1.0: 0.65}),
            ]
        )
    ] * 4
    rung = 1
    rising = [("x", {0.25: 0.6, 0.5: 0.7}), ("y", {0.25: 0.55, 0.5: 0.65}), ("z", {0.25: 0.55, 0.5: 0.6})]
    flat = [(key, {0.25: curve[0.5], 0.5: curve[0.5]}) for key, curve in rising]
    moves = []
    for now in (rising, flat):
        ends = Endings(past, [0.25, 0.5]).expected(now, [True] * 3, rung).behind
        moves.append((ends[1] - ends[0]) - (now[1][1][0.5] - now[0][1][0.5]))
    assert moves[0] > 1.5 * moves[1]


def test_a_noisy_epoch_at_a_rung_does_not_say_where_a_curve_stands():
    """Two curves rise alike; `x` has a lucky epoch at the rung. What counts is the line through the recent ones."""
    steady = {epoch / 20: 0.6 + 0.01 * epoch for epoch in range(1, 11)}
    lucky = steady | {0.5: steady[0.5] + 0.05}
    past = [Past([("x", {**steady, 1.0: 0.8}), ("y", {**steady, 1.0: 0.8}), ("z", {0.5: 0.5, 1.0: 0.5})])] * 4
    ends = Endings(past, [0.5]).expected([("x", lucky), ("y", steady), ("z", {0.5: 0.5})], [True] * 3, 0)
    assert 0 < ends.behind[0] - ends.behind[1] < 0.03


@pytest.mark.parametrize("teachers", [0, 4])
def test_who_was_undefined_until_after_a_rung_stands_nowhere_there(teachers):
    """A study was over when others were added: they meet at rungs before `late` was defined."""
    before = {"late": [None] * 6 + [0.5 + 0.01 * n for n in range(10)], "whole": [0.5 + 0.01 * n for n in range(16)]}
    names = {name: float(n) for n, name in enumerate([*before, "new", "newer"])}
    others = {f"{name} {t}": [0.4 + 0.02 * n for n in range(16)] for t in range(teachers) for name in names}
    searched = names | {name: names[name.split()[0]] for name in others}
    cells = dict.fromkeys(names, "cell") | {name: f"cell {name.split()[1]}" for name in others}
    taught = {"cell": tuple(f"cell {t}" for t in range(teachers))}
    first = Search(before | others, cells=cells, searched=searched, teachers=taught)
    first.run()
    curves = before | {name: [0.4 + 0.02 * n for n in range(16)] for name in ("new", "newer")} | others
    more = Search(curves, cells=cells, searched=searched, teachers=taught)
    entered = [event for event in more.events if event["kind"] == "trial" and event["trial"] in {"new", "newer"}]
    more = Search(curves, cells=cells, searched=searched, teachers=taught, events=[*first.events, *entered])
    more.run()
    assert None not in more.ends().values()
    rungs = {event["epoch"]: event["reason"] for event in more.state.trials["new"].decisions}
    assert "of 3 (" in rungs[2]  # whole, new and newer


NESTED = {"patient": {"wrapped_pruner": "cell_race"}}


@pytest.mark.parametrize("wrapped", ["cell_race", {"cell_race": {"margin": 2.0}}, NESTED])
def test_patience_does_not_hold_a_race_back(wrapped):
    with pytest.raises(StudyError, match=r"cell_race decides where the trials of a group wait.*: nothing would be"):
        pruners.create("patient", {"wrapped_pruner": wrapped}, epochs=8)
