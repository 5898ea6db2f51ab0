import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import optuna
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.pruners import PatientPruner
from typer.testing import CliRunner

from search import pruners
from search.cli import app
from search.errors import StudyError
from search.ledger import Ledger
from search.pruning import ComparisonGroup
from search.replay import curves, picture, policies, run
from search.replay.scores import Score, score
from search.study_sections import Pruning
from tests.search.recorded import DECLARATION, Search

RNG = np.random.default_rng(0)


def table(groups=6, trials=5, epochs=8, seed=0):
    """Saturating curves; the trial's name decides how well it ends, the group how hard it is."""
    rng = np.random.default_rng(seed)
    rows = []
    for group in range(groups):
        for trial in range(trials):
            end = 0.7 + 0.02 * trial + 0.01 * rng.normal()
            for epoch in range(1, epochs + 1):
                value = end * (1 - np.exp(-epoch / 2)) + 0.002 * rng.normal()
                rows.append({"group": f"g{group}", "trial": f"t{trial}", "epoch": epoch, "value": value})
    return pd.DataFrame(rows)


GROUPS = curves.of_table(table(), name="table")


def test_the_full_grid_costs_all_and_regrets_nothing():
    found = score("full", dict.fromkeys(GROUPS, policies.full_grid), GROUPS, seeds=2).as_json()
    assert (found["cost"], found["regret_mean"], found["unfinished_groups"], found["within_0_005"]) == (
        1.0,
        0.0,
        0,
        1.0,
    )


@pytest.mark.parametrize("name", ["hyperband", "successive_halving", "median", "cell_race"])
def test_a_replay_is_the_same_every_time(name):
    """Hyperband's brackets, too: Optuna draws them from the name of the study."""
    one, other = (next(run.replay(GROUPS, run.asked([name]), seeds=3)).as_json() for _ in range(2))
    assert one == other


def test_cost_and_regret_are_those_of_the_arithmetic():
    """Of two trials of 4 epochs one stops after 1: cost 5/8; it would have ended 0.1 higher."""
    group = curves.of_table(
        pd.DataFrame(
            [{"group": "g", "trial": "good", "epoch": e, "value": v} for e, v in enumerate([0.1, 0.5, 0.8, 0.9], 1)]
            + [{"group": "g", "trial": "fast", "epoch": e, "value": v} for e, v in enumerate([0.4, 0.6, 0.7, 0.8], 1)]
        ),
        name="t",
    )
    settings_of = {"rungs": [0.25], "exponents": [0.0], "slope_credit": 0.0}
    found = score("x", {"g": policies.pruned("cell_race", settings_of)}, group, seeds=1).as_json()
    assert found["cost"] == pytest.approx(5 / 8)
    assert found["regret_mean"] == pytest.approx(0.1)
    assert found["epochs"] == 5


def test_a_choice_is_judged_by_its_outcome_where_there_is_one():
    """`good` ends best and is what the full grid chooses; on the test set `fast` is 0.05 better."""
    rows = [
        {"group": "g", "trial": trial, "epoch": epoch, "value": value, "outcome": outcome if epoch == 2 else None}
        for trial, values, outcome in (("good", [0.1, 0.9], 0.80), ("fast", [0.4, 0.8], 0.85))
        for epoch, value in enumerate(values, 1)
    ]
    group = curves.of_table(pd.DataFrame(rows), name="t")
    settings_of = {"rungs": [0.5], "exponents": [0.0], "slope_credit": 0.0}
    found = score("x", {"g": policies.pruned("cell_race", settings_of)}, group, seeds=1).as_json()
    assert found["regret_mean"] == pytest.approx(-0.05)
    with pytest.raises(StudyError, match=r"row 3: .*outcome in a trial's last row"):
        curves.of_table(pd.DataFrame(rows).assign(outcome=[0.8, None, 0.85, 0.85]), name="t")


@pytest.mark.parametrize(("minimize", "sign"), [(False, 1.0), (True, -1.0)])
def test_a_choice_is_by_the_best_epoch_of_a_study_and_judged_by_the_outcome_either_way_round(minimize, sign):
    rows = [{"group": "g", "trial": "t", "epoch": e, "value": v, "outcome": 0.3} for e, v in ((1, 0.9), (2, 0.5))]
    curve = curves.of_table(pd.DataFrame(rows), name="t", minimize=minimize)["g"]["t"]
    assert (curve.final, curve.worth) == (sign * 0.5, sign * 0.3)
    assert replace(curve, best=0.9).final == 0.9
    assert replace(curve, best=0.9, outcome=None).worth == 0.9


def test_the_interval_of_a_mean_regret_is_of_95_percent_over_groups():
    """Of 100 groups whose regrets spread evenly over 0 to 1: 0.5 +- 1.96 x sqrt(1 / 12) / 10."""
    regrets = np.linspace(0, 1, 100)[:, None]
    found = Score("one", np.ones(100), regrets, epochs=1.0, unfinished=0.0).as_json()
    low, high = found["regret_mean_low"], found["regret_mean_high"]
    assert (low, high) == pytest.approx((0.5 - 0.0566, 0.5 + 0.0566), abs=0.004)


def test_trials_that_a_table_calls_pruned_have_no_end_to_be_compared(caplog):
    """Pruned at 0.99 after two epochs, `t2` would be the best of its group."""
    rows = table(groups=2, trials=3, epochs=8)
    pruned = rows["trial"] == "t2"
    whole = curves.of_table(rows[~pruned], name="t")
    rows = rows[~pruned | (rows["epoch"] <= 2)].assign(
        state=np.where(pruned[~pruned | (rows["epoch"] <= 2)], "PRUNED", "COMPLETE")
    )
    found = curves.of_table(rows, name="t")
    assert {group: set(trials) for group, trials in found.items()} == {g: set(ts) for g, ts in whole.items()}
    assert "2 trials left out, which did not train to the end" in caplog.text
    with pytest.raises(StudyError, match="no trial is COMPLETE in column state"):
        curves.of_table(rows.assign(state="FAILED"), name="t")


def test_of_very_many_groups_some_teach_all_others(monkeypatch):
    rows = pd.DataFrame(
        [
            {"group": f"g{group}", "trial": f"t{trial}", "epoch": epoch, "value": value}
            for group in range(8)
            for trial, values in enumerate(RNG.random((3, 8)))
            for epoch, value in enumerate(values, 1)
        ]
    )
    monkeypatch.setattr(run, "MOST_TEACHERS", 5)
    assert len(run._past(curves.of_table(rows, name="t"))) == 5
    found = list(run.replay(curves.of_table(rows, name="t"), run.asked(["cell_race"]), seeds=1))
    assert found[0].as_json()["unfinished_groups"] == 0
    assert len(found[0].costs) == 8


@pytest.mark.parametrize("restarts", [False, True])
def test_a_rung_is_a_share_of_what_a_training_costs_however_its_rows_are_numbered(restarts):
    """Sizes 1, 2, 4 ... 128 as epochs, and the same rows numbered 1 to 8 with their costs."""
    rows = table(groups=8, trials=9, epochs=8)
    size = 2.0 ** (rows["epoch"] - 1)
    cost = size if restarts else size.where(size == 1, size / 2)  # each size goes on from the one before
    by_size, by_number = (
        curves.of_table(rows.assign(epoch=epoch, cost=cost), name="t", restarts=restarts)
        for epoch in (size, rows["epoch"])
    )
    one, other = (next(run.replay(g, run.asked(["cell_race"]), seeds=1)).as_json() for g in (by_size, by_number))
    assert one == other
    assert one["cost"] < 0.6


@pytest.mark.parametrize(("restarts", "cost"), [(False, [2, 3, 5]), (True, [2, 5, 10])])
def test_without_a_cost_epochs_cost_alike(restarts, cost):
    rows = [{"group": "g", "trial": "t", "epoch": epoch, "value": 0.5} for epoch in (5, 2, 10)]
    group = curves.of_table(pd.DataFrame(rows), name="t", restarts=restarts)["g"]
    assert group["t"].costs.tolist() == cost


def test_a_clock_that_jitters_does_not_renumber_epochs():
    rows = table(groups=1)
    jitter = np.random.default_rng(0).uniform(0.9, 1.1, len(rows))
    group = curves.of_table(rows.assign(cost=jitter), name="t")["g0"]
    assert curves.by_cost(group) is group


@given(
    st.lists(
        st.lists(st.one_of(st.just(0.0), st.floats(1e-9, 1e9)), min_size=2, max_size=30), min_size=1, max_size=4
    ).filter(lambda costs: sum(map(sum, costs)) > 0)
)
def test_epochs_numbered_by_cost_keep_their_order(costs):
    rows = [
        {"group": "g", "trial": f"t{trial}", "epoch": epoch, "value": 0.5, "cost": cost}
        for trial, of_trial in enumerate(costs)
        for epoch, cost in enumerate(of_trial, 1)
    ]
    group = curves.of_table(pd.DataFrame(rows), name="t")["g"]
    paced = curves.by_cost(group)
    for trial, curve in paced.items():
        assert curve.epochs[0] >= 1
        assert (np.diff(curve.epochs) > 0).all()
        assert (curve.costs == group[trial].costs).all()


def test_where_rows_are_trainings_of_their_own_only_looks_cost():
    rows = table(groups=1, trials=4, epochs=8).assign(cost=lambda t: t["epoch"])
    group = curves.of_table(rows, name="t", restarts=True)
    settings_of = {"rungs": [0.25], "exponents": [0.0]}
    replayed = policies.pruned("cell_race", settings_of)(group["g0"], RNG)
    assert replayed.cost == 4 * 2 + 8  # all at epoch 2, one at epoch 8
    assert policies.full_grid(group["g0"], RNG).cost == 4 * 8


def test_who_is_left_alone_is_looked_at_no_more():
    rows = table(groups=1, trials=3, epochs=8).assign(cost=lambda t: t["epoch"])
    alone = curves.of_table(rows[rows["trial"] == "t0"], name="t", restarts=True)["g0"]
    three = curves.of_table(rows, name="t", restarts=True)["g0"]
    settings_of = {"rungs": [0.25, 0.5, 0.75], "exponents": [0.0, 0.0, 0.0]}
    race = policies.pruned("cell_race", settings_of)
    assert race(alone, RNG).cost == 8
    assert race(three, RNG).cost == 3 * 2 + 8


def test_a_patient_pruner_holds_another_one_back():
    impatient = score("m", dict.fromkeys(GROUPS, policies.pruned("median", {"n_startup_trials": 1})), GROUPS, seeds=2)
    costs = [impatient.as_json()["cost"]]
    for patience in (1, 8):
        settings_of = {"wrapped_pruner": {"median": {"n_startup_trials": 1}}, "patience": patience}
        patient = score("p", dict.fromkeys(GROUPS, policies.pruned("patient", settings_of)), GROUPS, seeds=2)
        costs.append(patient.as_json()["cost"])
    assert costs[0] < costs[1] <= costs[2] == 1.0
    with pytest.raises(StudyError, match="no pruner 'madian'"):
        pruners.create("patient", {"wrapped_pruner": "madian"}, epochs=8)
    with pytest.raises(StudyError, match="patience"):
        pruners.create("PatientPruner", {"patience": -1}, epochs=8)
    with pytest.raises(StudyError, match="hyperband: reduction_factor must be at least 2; it takes: min_resource"):
        pruners.create("hyperband", {"reduction_factor": 1}, epochs=8)


def test_a_patient_pruner_alone_stops_what_has_not_improved():
    asked = {"own": pruners.create("patient", {"patience": 1}, epochs=6), "optunas": PatientPruner(None, patience=1)}
    told = {}
    for name, pruner in asked.items():
        study = optuna.create_study(direction="maximize", pruner=pruner)
        trial = study.ask()
        told[name] = []
        for epoch, value in enumerate((0.9, 0.8, 0.7, 0.6), 1):
            trial.report(value, epoch)
            told[name].append(trial.should_prune())
    assert told["own"] == told["optunas"] == [False, False, True, True]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("successive_halving", {"reduction_factor": 2.5}),
        ("median", {"n_startup_trials": 1.5}),
        ("hyperband", {"max_resource": 4.5}),
        ("patient", {"wrapped_pruner": {"median": {"n_warmup_steps": 0.5}}}),
    ],
)
def test_a_fraction_for_a_whole_number_is_refused_before_the_search(name, settings):
    with pytest.raises(StudyError, match="must be a whole number"):
        pruners.create(name, settings, epochs=8)


def test_numbers_with_exponents_are_numbers_on_the_command_line():
    assert run.asked(["cell_race: {tolerance: 1e-4, rungs: [5e-1]}"])["cell_race"][1] == {
        "tolerance": 1e-4,
        "rungs": [0.5],
    }


@pytest.mark.parametrize(("settings_of", "prunes"), [({}, True), ({"max_resource": "auto"}, False)])
def test_hyperband_is_told_how_long_a_training_is_and_need_not_wait_for_one(settings_of, prunes):
    trials = [f"t{n}" for n in range(9)]
    group = ComparisonGroup(pruners.create("hyperband", settings_of, epochs=9), "maximize", {"trial": trials})
    stopped = []
    for n, trial in enumerate(trials):
        group.add(trial, {"trial": trial})
        group.report(trial, 1, -n / 10)
        stopped.append(group.decide(trial).stops)
    assert any(stopped) is prunes


@pytest.mark.parametrize("seed", range(6))
def test_seeds_race_in_a_replay_as_they_do_in_a_search(seed):
    rng = np.random.default_rng(seed)
    rows = [
        {"group": "cell", "trial": f"{point} seed={s}", "point": f"p{point}", "epoch": epoch, "value": value}
        for point in range(4)
        for s in range(3)
        for epoch, value in enumerate(
            (0.6 + 0.03 * point + 0.02 * rng.normal()) * (1 - np.exp(-np.arange(1, 13) / 4)), 1
        )
    ]
    (group,) = curves.of_table(pd.DataFrame(rows), name="t").values()
    live = Search(
        {trial: curve.values.tolist() for trial, curve in group.items()},
        searched={trial: float(trial[0]) for trial in group},
    )
    live.run()
    replayed = policies.pruned("cell_race", {})(group, RNG)
    assert replayed.rows == {trial: len(progress.epochs) for trial, progress in live.state.trials.items()}
    assert 0 < replayed.cost < 12 * len(group)


def test_where_nothing_is_searched_the_seeds_of_a_cell_are_one_point(tmp_path):
    search = Search({"a": [0.4, 0.5], "b": [0.6, 0.7]}, searched={"a": 1, "b": 1})
    search.run()
    for seed, event in enumerate(event for event in search.events if event["kind"] == "trial"):
        event.update(searched={}, seed=seed)
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        ledger.append(*search.events)
    (group,) = curves.load(tmp_path).values()
    assert {trial: curves.point_of(group, trial) for trial in group} == {"seed=0": "cell", "seed=1": "cell"}


@pytest.mark.parametrize("empty", [None, float("nan"), pd.NA])
def test_a_trial_without_a_point_shares_it_with_none(empty):
    plain, named = table(), table().assign(point=empty)
    both = [curves.of_table(rows, name="t") for rows in (plain, named)]
    asked = run.asked(["cell_race", "median"])
    told = [[found.as_json() for found in run.replay(groups, asked, seeds=2)] for groups in both]
    assert told[0] == told[1]


def test_how_often_it_is_repeated_changes_nothing_for_a_policy_without_chance():
    top = dict.fromkeys(GROUPS, policies.one_shot(0.25, first=0.1))
    told = [score("top", top, GROUPS, seeds=seeds).as_json() for seeds in (1, 5)]
    assert told[0] == pytest.approx(told[1])


def test_a_regret_of_exactly_the_limit_is_within_it():
    rows = [{"group": "g", "trial": trial, "epoch": 1, "value": value} for trial, value in (("a", 0.905), ("b", 0.9))]
    group = curves.of_table(pd.DataFrame(rows), name="t")
    found = score("second", {"g": lambda *_: policies.Replayed({"b": 1}, 1.0)}, group, seeds=1).as_json()
    assert found["regret_worst"] > 0.005  # in floating point
    assert found["within_0_005"] == 1.0


def test_a_point_is_chosen_by_the_mean_over_its_seeds():
    """`lucky` has the best single seed; of the point that is chosen all seeds count, trained or not."""
    ends = {"lucky": (0.95, 0.55), "good": (0.85, 0.83), "half": (0.9, 0.4)}
    rows = [
        {"group": "g", "trial": f"{point}{s}", "point": point, "epoch": e, "value": value * e / 2}
        for point, values in ends.items() for s, value in enumerate(values) for e in (1, 2)
    ]  # fmt: skip
    groups = curves.of_table(pd.DataFrame(rows), name="t")

    def policy(finished):
        return {"g": lambda group, _: policies.Replayed({t: 2 if t in finished else 1 for t in group}, 1.0)}

    for finished, regret in (
        (["lucky0", "lucky1", "good0", "good1"], 0.0),
        (["lucky0", "half0", "half1"], 0.84 - 0.65),  # lucky finished with fewer seeds
        (["lucky0", "good0"], 0.84 - 0.75),
    ):
        assert score("t", policy(finished), groups, seeds=1).as_json()["regret_mean"] == pytest.approx(regret)


def test_the_last_trial_of_a_group_is_never_stopped():
    """A bound that nobody reaches: in a search the last live trial of a cell goes on."""
    found = next(run.replay(GROUPS, run.asked(["threshold: {lower: 0.99}"]), seeds=2)).as_json()
    assert found["unfinished_groups"] == 0


@pytest.mark.parametrize(("name", "of_class"), [("median", "MedianPruner"), ("hyperband", "HyperbandPruner")])
def test_a_pruner_under_its_classs_name_is_the_same_one(name, of_class):
    assert run.asked([of_class])[of_class][1] == run.asked([name])[name][1] != {}


WITHOUT_BOUNDS = [n for n in pruners.names() if n.islower() and n != "threshold"]


def settings_for(name):
    return {"n_startup_trials": 1} if name == "median" else {"percentile": 25.0} if name == "percentile" else {}


@pytest.mark.parametrize("name", WITHOUT_BOUNDS)
def test_every_pruner_leaves_a_finished_run_in_every_group(name):
    policy = policies.pruned(name, settings_for(name))
    found = score(name, dict.fromkeys(GROUPS, policy), GROUPS, seeds=2).as_json()
    assert found["unfinished_groups"] == 0
    assert 0 < found["cost"] <= 1
    assert found["regret_worst"] >= found["regret_p90"] >= 0


@pytest.mark.parametrize("name", WITHOUT_BOUNDS)
def test_a_pruner_that_compares_decides_alike_whichever_way_is_better(name):
    losses = curves.of_table(table().assign(value=lambda t: -t["value"]), name="t", minimize=True)
    asked = {name: (name, settings_for(name))}
    one, other = (next(run.replay(groups, asked, seeds=2)).as_json() for groups in (GROUPS, losses))
    assert one == other


LOSSES = {"high": [0.9, 0.8, 0.3], "low": [0.4, 0.3, 0.2]}


def losses_in_a_table(folder):
    rows = [("cell", trial, e, v) for trial, values in LOSSES.items() for e, v in enumerate(values, 1)]
    pd.DataFrame(rows, columns=list(curves.COLUMNS)).to_csv(folder / "t.csv", index=False)
    return curves.load(folder / "t.csv", minimize=True)


def losses_of_a_study(folder):
    search = Search(LOSSES, pruning=Pruning(pruner="none"))
    search.run()
    declaration = {"declaration": {**DECLARATION, "direction": "minimize"}}
    with Ledger(folder / "ledger.jsonl") as ledger:
        ledger.append(*(event | declaration if event["kind"] == "data" else event for event in search.events))
    return curves.load(folder)


@pytest.mark.parametrize("source", [losses_in_a_table, losses_of_a_study])
@pytest.mark.parametrize(
    ("bounds", "rows"),
    [({"upper": 0.5}, [1, 3]), ({"lower": 0.35}, [3, 2]), ({"lower": 0.0, "upper": 1.0}, [3, 3])],
)
def test_bounds_are_those_of_the_recorded_values_where_smaller_is_better(tmp_path, source, bounds, rows):
    (group,) = source(tmp_path).values()
    replayed = policies.pruned("threshold", bounds)(group, np.random.default_rng(0))
    assert [replayed.rows[trial] for trial in group] == rows


@settings(max_examples=40)
@given(
    values=st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=9), min_size=1, max_size=12),
    minimize=st.booleans(),
)
def test_the_race_always_ends_with_a_finished_run(values, minimize):
    rows = [
        {"group": "g", "trial": f"t{i}", "epoch": e, "value": v}
        for i, curve in enumerate(values)
        for e, v in enumerate(curve, 1)
    ]
    groups = curves.of_table(pd.DataFrame(rows), name="t", minimize=minimize)
    found = score("x", {"g": policies.pruned("cell_race", {})}, groups, seeds=1).as_json()
    assert found["unfinished_groups"] == 0
    assert found["regret_mean"] >= 0


def test_what_other_groups_taught_saves_a_late_winner():
    """`slow` is last at the rung in every group and wins every group: only the others can tell."""
    rows = [
        {"group": f"g{g}", "trial": trial, "epoch": e, "value": v + 0.001 * g}
        for g in range(8)
        for trial, curve in {
            "slow": [0.1, 0.2, 0.6, 0.9],
            "quick": [0.6, 0.7, 0.7, 0.7],
            "mid": [0.5, 0.6, 0.6, 0.6],
        }.items()
        for e, v in enumerate(curve, 1)
    ]
    groups = curves.of_table(pd.DataFrame(rows), name="t")
    asked = run.asked(["cell_race"])
    blind = next(run.replay(groups, asked, seeds=1, carry=False)).as_json()
    taught = next(run.replay(groups, asked, seeds=1, carry=True)).as_json()
    assert blind["regret_mean"] == pytest.approx(0.2)
    assert taught["regret_mean"] == 0.0


@pytest.mark.parametrize("loss", [1e6, 1e14, 1e20])
def test_how_far_trials_exploded_decides_nothing(loss):
    """Its regression was singular with the largest, and foresaw improvements of thousands with the others."""

    def replayed(loss):
        rows = table(groups=5, trials=5, epochs=16)
        far = (rows["trial"] == "t0") & (rows["epoch"] > 1)
        rows.loc[far, "value"] = -loss * np.random.default_rng(0).uniform(1, 1.1, far.sum())
        return next(run.replay(curves.of_table(rows, name="t"), run.asked(["cell_race"]), seeds=1)).as_json()

    assert replayed(loss) == replayed(1e4)
    assert replayed(loss)["regret_mean"] < 0.01


def test_a_group_teaches_itself_nothing():
    """With one group there is no other to learn from: carrying over changes nothing."""
    groups = {"g0": GROUPS["g0"]}
    scores = [
        next(run.replay(groups, run.asked(["cell_race"]), seeds=1, carry=carry)).as_json() for carry in (True, False)
    ]
    assert scores[0] == scores[1]


def test_the_command_prints_a_line_per_pruner(tmp_path):
    table().to_csv(tmp_path / "curves.csv", index=False)
    done = CliRunner().invoke(
        app, ["replay", str(tmp_path / "curves.csv"), "--pruner", "cell_race", "--json", "--seeds", "1"]
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    names = [row["pruner"] for row in rows]
    assert names[0] == "cell_race"
    assert {"full_grid", "random_equal_cost", "median", "successive_halving", "hyperband", "asha"} <= set(names)
    keys = {"pruner", "cost", "regret_mean", "regret_p90", "regret_worst", "within_0_005", "unfinished_groups"}
    assert all(keys <= set(row) for row in rows)


@pytest.mark.parametrize(("name", "begins"), [("replay.png", b"\x89PNG"), ("new/replay.svg", b"<?xml")])
def test_the_command_draws_what_it_printed(tmp_path, name, begins):
    table().to_csv(tmp_path / "curves.csv", index=False)
    file = tmp_path / name
    asked = ["replay", str(tmp_path / "curves.csv"), "--seeds", "1", "--json", "--figure", str(file)]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    drawn = file.read_bytes()
    assert drawn.startswith(begins)
    if file.suffix == ".svg":
        printed = [json.loads(line)["pruner"] for line in done.stdout.splitlines()]
        names = {name.replace("_", " ") for name in printed if not name.startswith("one_shot") and name != "full_grid"}
        assert {f">{name}</text>" in drawn.decode() for name in {*names, "one shot top k"}} == {True}
    assert CliRunner().invoke(app, asked).exit_code == 0
    assert file.read_bytes() == drawn


def test_a_picture_has_a_panel_per_table_and_tells_what_it_shows():
    scores = list(run.replay(GROUPS, run.asked(["median"]), seeds=1))
    drawn = picture.draw({"one": scores, "another": scores}, asked=["median"])
    text = drawn.svg.decode()
    assert text.count(">mean regret</text>") == 2
    assert ">one</text>" in text
    assert ">another</text>" in text
    found = next(score for score in scores if score.pruner == "median").as_json()
    assert drawn.alt.count(f"median {found['cost']:.0%} and {found['regret_mean']:.4f}") == 2


def test_a_figure_in_another_format_is_refused_before_anything_is_replayed(tmp_path):
    with pytest.raises(StudyError, match=r"curves\.gif: expected a name that ends in \.png or \.svg"):
        CliRunner().invoke(
            app, ["replay", "nothing.csv", "--figure", str(tmp_path / "curves.gif")], catch_exceptions=False
        )


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("cell_race", ("cell_race", {})),
        ("median", ("median", {"n_startup_trials": 1})),
        ("median: {n_startup_trials: 3}", ("median", {"n_startup_trials": 3})),
        ("percentile: {percentile: 25.0}", ("percentile", {"percentile": 25.0})),
    ],
)
def test_a_pruner_is_asked_by_its_name_or_with_settings(text, read):
    assert run.asked([text]) == {read[0]: read}


def test_one_pruner_with_several_settings_has_a_row_for_each():
    texts = ["median: {n_startup_trials: 0}", "median: {n_startup_trials: 3}"]
    found = run.replay(GROUPS, run.asked([*texts, "cell_race"]), seeds=1)
    assert [next(found).pruner for _ in range(3)] == [*texts, "cell_race"]


def of_curves(**values):
    rows = [
        {"group": "g", "trial": trial, "epoch": epoch, "value": value}
        for trial, curve in values.items()
        for epoch, value in enumerate(curve, 1)
    ]
    return curves.of_table(pd.DataFrame(rows), name="t")["g"]


@pytest.mark.parametrize(
    ("share", "finished"),
    [(0.1, "a"), (0.54, "a"), (0.55, "ab"), (0.99, "abc"), (1.0, "abcd")],  # the first looks take 4 of 40, each end 9
)
def test_one_shot_trains_as_many_of_the_best_as_it_can_pay_and_one_whatever_it_costs(share, finished):
    ahead = {"d": 0.6, "b": 0.8, "a": 0.9, "c": 0.7}
    group = of_curves(**{trial: [first] + [1 - first] * 9 for trial, first in ahead.items()})
    found = policies.one_shot(share, first=0.1)(group, RNG)
    assert sorted(found.finished(group)) == list(finished)
    assert found.cost == 4 + 9 * len(finished)


def test_asha_stops_who_is_not_among_the_best_quarter_of_those_before():
    """At epochs 1, 4 and 16 of 17; equals of the bound go on, and so does the first one."""
    flat = {"first": 0.4, "low": 0.1, "near": 0.3, "best": 0.5, "late": 0.35}
    group = of_curves(**{trial: [value] * 17 for trial, value in flat.items()}, falls=[0.6] * 3 + [0.2] * 14)
    order = SimpleNamespace(permutation=lambda _: [*flat, "falls"])
    # The bounds at epoch 1: 0.4, 0.325 of (0.4, 0.1), 0.35, 0.425 and 0.4.
    rows = {"first": 17, "low": 1, "near": 1, "best": 17, "late": 1, "falls": 4}
    assert policies.asha()(group, order).rows == rows
    alike = of_curves(a=[0.5] * 17, b=[0.5] * 17, c=[0.5] * 17)
    assert policies.asha()(alike, np.random.default_rng(0)).finished(alike) == ["c", "a", "b"]


def test_comparators_get_what_the_first_of_the_asked_pruners_spent():
    groups = {name: GROUPS[name] for name in ("g0", "g1")}
    found = {one.pruner: one for one in run.replay(groups, run.asked(["cell_race", "none"]), seeds=1)}
    spent = float(found["cell_race"].costs.mean())
    assert spent < found["none"].costs.mean() == 1.0
    random = policies.random_subset(spent)
    same = score("random_equal_cost", dict.fromkeys(groups, random), groups, seeds=1)
    assert found["random_equal_cost"].as_json() == same.as_json()


@pytest.mark.parametrize(("budget", "shares"), [(0.04, []), (0.15, ["5%", "10%"]), (0.9, ["5%", "10%", "20%"])])
def test_a_first_look_at_all_that_costs_more_than_there_is_has_no_row(budget, shares):
    names = [name for name in run._comparators(budget) if name.startswith("one_shot")]
    assert names == [f"one_shot_top_k_after_{share}_equal_cost" for share in shares]


def test_random_choices_cost_what_they_are_given():
    """Every group draws for itself whether it gets one trial more."""
    groups = curves.of_table(table(groups=60, trials=5, epochs=8), name="t")
    (found,) = (s for s in run.replay(groups, run.asked(["none"]), seeds=1) if s.pruner == "full_grid")
    assert found.costs.mean() == 1.0
    policy = dict.fromkeys(groups, policies.random_subset(0.5))
    assert score("random", policy, groups, seeds=4).costs.mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("text", ["median: 3", "null", "[median]", "median: {", "a: {}\nb: {}"])
def test_a_pruner_that_is_not_asked_so_is_refused(text):
    with pytest.raises(StudyError, match="expected a name"):
        run.asked([text])


def test_parquet_is_read_as_csv_is(tmp_path):
    table().to_csv(tmp_path / "t.csv", index=False)
    pd.read_csv(tmp_path / "t.csv").to_parquet(tmp_path / "t.parquet")
    one, two = (curves.load(tmp_path / name) for name in ("t.csv", "t.parquet"))
    assert one["g1"]["t2"].values.tolist() == two["g1"]["t2"].values.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="value"), "column value is missing; expected group, trial, epoch, value"),
        (lambda t: t.assign(value=t["value"].astype(object).where(t.index != 3, "high")), "row 5: .*must be finite"),
        (lambda t: t.assign(value=t["value"].where(t.index != 3, np.inf)), "row 5: .*must be finite"),
        (lambda t: t.assign(cost=np.inf), "row 2: .*must be finite"),
        (lambda t: t.assign(cost=(t["group"] != "g1").astype(float)), "row 42: .*cost nothing in all"),
        (lambda t: t.assign(epoch=t["epoch"] ** 0.5), "row 3: .*whole or a multiple of the smallest step"),
        (lambda t: t.assign(epoch=t["epoch"] - 2), "row 2: .*0 or more"),
        (lambda t: t.assign(trial=t["trial"].where(t.index != 3)), "row 5: .*must be named"),
        (lambda t: t.head(0), "no rows"),
        (lambda t: pd.concat([t, t.head(1)]), "the same group, trial and epoch stand in an earlier row"),
        (lambda t: t.assign(cost=-1.0), "row 2: .*cost not negative"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_its_row(change, message):
    with pytest.raises(StudyError, match=message):
        curves.of_table(change(table()), name="t.csv")


def test_a_row_is_that_of_the_file_where_trials_are_left_out(tmp_path):
    """Of `t0`, which was pruned, the first 8 rows of the group tell nothing; the broken one is the 10th."""
    rows = table().assign(state=lambda t: np.where(t["trial"] == "t0", "PRUNED", "COMPLETE"))
    broken = rows.assign(value=rows["value"].where(rows.index != 9, np.inf))
    broken.to_csv(tmp_path / "t.csv", index=False)
    assert (tmp_path / "t.csv").read_text().splitlines()[11 - 1] == "g0,t1,2,inf,COMPLETE"
    with pytest.raises(StudyError, match=r"t\.csv, row 11: group=g0, trial=t1, epoch=2, value=inf"):
        curves.load(tmp_path / "t.csv")
    with pytest.raises(StudyError, match="row 11: "):
        curves.of_table(broken.set_index(np.zeros(len(broken))), name="t")  # whatever its index says


@pytest.mark.parametrize(
    ("name", "content"),
    [("empty.csv", b""), ("word.csv", "größer".encode("utf-16")), ("torn.csv", b'a,"b'), ("broken.parquet", b"PAR1")],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StudyError, match=f"{name}.*(not a table|is missing)"):
        curves.load(tmp_path / name)


def test_names_are_read_as_they_stand(tmp_path):
    content = "group,trial,epoch,value\nNA,007,1,0.5\nNA,None,1,0.6\n"
    (tmp_path / "t.csv").write_text(content)
    assert {group: list(trials) for group, trials in curves.load(tmp_path / "t.csv").items()} == {"NA": ["007", "None"]}


@pytest.mark.parametrize("step", [0.1, 0.5, 1 / 64, 0.3])
def test_epochs_that_are_not_whole_are_counted_in_their_smallest_step(step):
    halves = curves.of_table(table().assign(epoch=lambda t: t["epoch"] * step), name="t.csv")
    assert halves["g1"]["t2"].epochs.tolist() == list(range(1, 9))


def test_epochs_numbered_from_0_are_replayed_as_those_numbered_from_1():
    from_0 = table().assign(epoch=lambda t: t["epoch"] - 1)
    one, other = (curves.of_table(t, name="t.csv") for t in (table(), from_0))
    assert one["g1"]["t2"].epochs.tolist() == other["g1"]["t2"].epochs.tolist()


def test_what_is_neither_table_nor_study_is_refused(tmp_path):
    with pytest.raises(StudyError, match="neither a table"):
        curves.load(tmp_path)


def test_rows_that_are_trainings_of_their_own_must_cost_something_at_the_end():
    """To train all is to pay for the last rows alone; what is spent before is no part of that."""
    free = table(groups=2).assign(cost=lambda t: ((t["epoch"] < 8) | (t["group"] == "g0")).astype(float))
    assert curves.of_table(free, name="t.csv").keys() == {"g0", "g1"}
    with pytest.raises(StudyError, match=r"row 42: .*the last rows of this group cost nothing in all"):
        curves.of_table(free, name="t.csv", restarts=True)


def test_a_trial_of_other_epochs_is_another_trial(tmp_path):
    """A study of 2 epochs was changed to 3: both trainings of x=1 stand in its ledger; of x=2 only one."""
    search = Search({"a": [0.4, 0.5], "b": [0.6, 0.7, 0.8], "c": [0.3, 0.2, 0.1]}, searched={"a": 1, "b": 1, "c": 2})
    search.run()
    for event in search.events:
        if event["kind"] == "trial":
            event["config"] = {"recipe": {"epochs": {"a": 2, "b": 3, "c": 3}[event["trial"]]}}
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        ledger.append(*(event for event in search.events if event["kind"] != "decision"))
    (group,) = curves.load(tmp_path).values()
    assert {name: curve.values.tolist() for name, curve in group.items()} == {
        "x=1, seed=0, epochs=2": [0.4, 0.5],
        "x=1, seed=0, epochs=3": [0.6, 0.7, 0.8],
        "x=2, seed=0": [0.3, 0.2, 0.1],
    }


def test_trials_of_one_name_and_length_are_told_apart_by_their_identity(tmp_path):
    search = Search({"a": [0.4, 0.5], "b": [0.6, 0.7]}, searched={"a": 1, "b": 1})
    search.run()
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        ledger.append(*search.events)
    (group,) = curves.load(tmp_path).values()
    assert set(group) == {"x=1, seed=0, trial=a", "x=1, seed=0, trial=b"}


def test_where_every_row_is_a_training_of_its_own_asha_pays_for_every_look():
    rows = [(t, e, v) for t, v in (("a", 0.9), ("b", 0.5)) for e in range(1, 17)]
    told = pd.DataFrame([{"group": "g", "trial": t, "epoch": e, "value": v} for t, e, v in rows])
    costs = set()
    for seed in range(8):
        group = curves.of_table(told, name="t", restarts=True)["g"]
        costs.add(policies.asha()(group, np.random.default_rng(seed)).cost)
    looks = 1 + 4 + 16
    assert costs == {looks + 1, 2 * looks}  # b is stopped at once, or comes first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"point": ["p", "q"]}, "the rows of a trial have one point"),
        ({"point": ["p", None]}, "the rows of a trial have one point"),
        ({"state": ["COMPLETE", "PRUNED"]}, "the rows of a trial have one state"),
        ({"trial": [["a"], ["a"]]}, "trial must be a name"),
        ({"group": [{"a": 1}, {"a": 1}]}, "group must be a name"),
    ],
)
def test_names_that_are_none_and_trials_of_two_points_or_states_are_refused(change, message):
    told = {"group": ["g", "g"], "trial": ["t", "t"], "epoch": [1, 2], "value": [0.1, 0.2]} | change
    with pytest.raises(StudyError, match=f"table, row [23]: .*{message}"):
        curves.of_table(pd.DataFrame(told), name="table")


def test_names_may_stand_in_the_index():
    told = table(groups=2, trials=2)
    indexed = curves.of_table(told.set_index(["group", "trial"]), name="table")
    plain = curves.of_table(told, name="table")
    assert {g: list(group) for g, group in indexed.items()} == {g: list(group) for g, group in plain.items()}
