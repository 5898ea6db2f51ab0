import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution

from search import selection
from search.groups import Entry, in_order
from search.live_regret import live_regret
from search.pruning import Decision, create_group, distribution, spared
from search.study_sections import Pruning
from tests.search.recorded import PRIMARY, Search
from trainers.trial import EpochMetrics, TrialState

CLEAR = {  # b leads from the start, the others never come near
    "a": [0.50, 0.51, 0.52, 0.52, 0.53, 0.53, 0.54, 0.54],
    "b": [0.70, 0.75, 0.78, 0.80, 0.81, 0.82, 0.82, 0.83],
    "c": [0.55, 0.56, 0.56, 0.57, 0.57, 0.57, 0.58, 0.58],
}
LATE = {  # b learns late and wins: its slope must keep it alive
    "a": [0.70, 0.72, 0.73, 0.735, 0.74, 0.74, 0.74, 0.74],
    "b": [0.55, 0.60, 0.65, 0.70, 0.74, 0.77, 0.79, 0.80],
}


def test_a_clear_race_keeps_the_leader_and_stops_the_others_early():
    search = Search(CLEAR)
    search.run()
    assert search.ends() == {"a": "PRUNED", "b": "COMPLETE", "c": "PRUNED"}
    assert {t: len(p.epochs) for t, p in search.state.trials.items()} == {"a": 2, "b": 8, "c": 3}


def test_a_trial_that_learns_late_is_not_stopped():
    search = Search(LATE)
    search.run()
    assert search.ends()["b"] == "COMPLETE"


def test_every_decision_says_what_was_compared():
    search = Search(CLEAR)
    search.run()
    reasons = [e["reason"] for e in search.events if e["kind"] == "decision"]
    assert any(r.startswith("goes on at epoch 2: value 0.7500, place 1 of 3 (2 go on)") for r in reasons)
    assert all("epoch" in r for r in reasons)


def test_the_dearest_cells_start_first_and_each_in_the_middle_of_what_is_searched():
    """Costs of all epochs: 5 x 2 x 4 = 40 of "wide", 30 x 1 = 30 of "dear" and 10 x 2 = 20 of "long"."""

    def entry(cell, x, seed, epochs, cost):
        return Entry(f"{cell} {x} {seed}", cell, cell, {"x": x}, epochs, cost=cost)

    long = [entry("long", 1, 0, 10, 2.0)]
    wide = [entry("wide", x, seed, 4, 1.0) for x in range(1, 6) for seed in (0, 1)]
    dear = [entry("dear", 1, 0, 1, 30.0)]
    names = [one.trial for one in in_order([*long, *wide, *dear])]
    assert names == [
        *(f"wide {x} {seed}" for x in (3, 2, 4, 1, 5) for seed in (0, 1)),
        "dear 1 0",
        "long 1 0",
    ]


@pytest.mark.parametrize(("pruner", "looks"), [("cell_race", [1, 2, 8]), ("median", [1, 2, 8]), ("none", [8, 8, 8])])
def test_a_trial_is_looked_at_again_where_its_pruner_may_stop_it(pruner, looks):
    """At its start, after the first epoch, and when it was spared."""
    search = Search(CLEAR, pruning=Pruning(pruner=pruner))
    groups, entry, found = search.schedule._groups, search.entries[0], []
    for events in (
        [],
        [
            {"kind": "epoch", "trial": "a", "epoch": 1, "timestamp_ms": 1, "metrics": {PRIMARY: 0.5}},
            {"kind": "decision", "trial": "a", "epoch": 1, "action": "keep", "reason": ""},
        ],
        [{"kind": "decision", "trial": "a", "epoch": 1, "action": "spare", "reason": ""}],
    ):
        search.record(*events)
        found.append(groups.next_look(entry))
    assert found == looks


@pytest.mark.parametrize("slots", [1, 2, 3, 8])
@pytest.mark.parametrize("seed", range(5))
def test_the_result_does_not_depend_on_which_trial_runs_first(slots, seed):
    alone = Search(CLEAR | {f"{k}2": v for k, v in LATE.items()}, cells={"a2": "two", "b2": "two"})
    alone.run()
    together = Search(alone.curves, cells={"a2": "two", "b2": "two"})
    together.run(slots=slots, order=random.Random(seed).choice)
    assert together.ends() == alone.ends()
    assert {t: len(p.epochs) for t, p in together.state.trials.items()} == {
        t: len(p.epochs) for t, p in alone.state.trials.items()
    }


curve = st.lists(st.floats(0, 1), min_size=6, max_size=6)


@pytest.mark.parametrize(
    ("values", "space"),
    [
        ([1e-5, 1e-3, 1e-4], FloatDistribution(1e-5, 1e-3, log=True)),
        ([0.0, 0.1], FloatDistribution(0.0, 0.1)),
        ([-1, 1], FloatDistribution(-1.0, 1.0)),
        ([True, False], CategoricalDistribution([True, False])),
        ([0.1, "cosine", None], CategoricalDistribution([0.1, "cosine", "None"])),
    ],
)
def test_searched_numbers_are_told_to_optuna_on_their_scale_and_all_else_as_choices(values, space):
    assert distribution(values) == space


def test_what_one_of_optunas_pruners_had_before_it_is_told():
    pruning = Pruning(pruner="median", settings={"n_startup_trials": 1})
    group = create_group(pruning, epochs=3, trials=3, direction="maximize", space={"x": [1.0, 2.0, 3.0]})
    for number, values in enumerate(([0.8, 0.9], [0.7, 0.8], [0.5])):
        group.add(str(number), {"x": number + 1.0})
        for epoch, value in enumerate(values, 1):
            group.report(str(number), epoch, value)
        if number == 0:
            assert group.decide("0").reason.endswith(
                "at epoch 2 with 0.9000; no other trial of its group has been there"
            )
        if len(values) == 2:
            group.tell(str(number), TrialState.COMPLETE, values[-1])
    assert group.decide("2") == Decision(
        True,
        "MedianPruner stops it at epoch 1 with 0.5000; 2 others there from 0.7000 to 0.8000, median 0.7500",
    )


@settings(max_examples=60)
@given(
    curves=st.lists(curve, min_size=2, max_size=9),
    pruner=st.sampled_from(["cell_race", "median", "successive_halving", "hyperband", "none"]),
    slots=st.integers(1, 4),
    failing=st.sets(st.integers(0, 8), max_size=2),
    seed=st.integers(0, 100),
)
def test_a_cell_never_loses_its_last_live_trial(curves, pruner, slots, failing, seed):
    named = {f"t{i}": c for i, c in enumerate(curves)}
    cells = {name: f"cell{i % 2}" for i, name in enumerate(named)}
    settings_of = {"n_startup_trials": 1} if pruner == "median" else {}
    search = Search(
        named,
        cells=cells,
        pruning=Pruning(pruner=pruner, settings=settings_of, spare_share=0.0),
        fails={f"t{i}": 3 for i in failing},
    )
    search.run(slots=slots, order=random.Random(seed).choice)
    for cell in set(cells.values()):
        states = [search.ends()[t] for t, c in cells.items() if c == cell]
        assert "COMPLETE" in states or set(states) == {"FAILED"}


@pytest.mark.parametrize("killed_after", range(0, 20))
def test_a_schedule_rebuilt_from_the_ledger_ends_the_same(killed_after):
    undisturbed = Search(CLEAR)
    undisturbed.run()
    killed = Search(CLEAR)
    killed.run(slots=2, stop_after=killed_after)
    again = Search(CLEAR, events=killed.events)
    again.run(slots=2)
    assert again.ends() == undisturbed.ends()
    told = [(e["trial"], e["epoch"]) for e in again.events if e["kind"] == "epoch"]
    assert len(told) == len(set(told))


def test_nothing_is_left_to_do_the_second_time():
    search = Search(CLEAR)
    search.run()
    again = Search(CLEAR, events=search.events)
    assert again.schedule.finished
    assert again.schedule.next() is None


def test_a_pruned_trial_comes_back_when_all_others_of_its_cell_fail():
    search = Search({"a": [0.5] * 8, "b": [0.9] * 8}, fails={"b": 5})
    search.run()
    assert search.ends() == {"a": "COMPLETE", "b": "FAILED"}
    assert "reopened" in [e["kind"] for e in search.events]


def test_spared_trials_run_on():
    search = Search(CLEAR, pruning=Pruning(spare_share=1.0))
    search.run()
    assert set(search.ends().values()) == {"COMPLETE"}
    assert {e["action"] for e in search.events if e["kind"] == "decision"} == {"keep", "spare"}


def test_an_epoch_told_again_changes_nothing():
    search = Search(CLEAR)
    search.run()
    before = list(search.events)
    assert search.schedule.epoch("b", EpochMetrics(epoch=3, timestamp_ms=9, metrics={PRIMARY: 0.1})) is False
    assert search.events == before


@pytest.mark.parametrize(
    "tell",
    [
        lambda schedule, result: schedule.ended("a", result),
        lambda schedule, result: schedule.failed("a", "bug", "too late"),
        lambda schedule, result: schedule.interrupted("a", "node_lost", "too late"),
        lambda schedule, result: schedule.released("a"),
    ],
)
def test_what_is_heard_of_a_trial_after_its_end_changes_nothing(tell):
    search = Search(CLEAR)
    search.run()
    before = list(search.events)
    tell(search.schedule, search.state.trials["b"].result)
    assert search.events == before


def test_a_running_trial_that_tells_an_epoch_again_goes_on():
    """Its checkpoint tells it after the process was lost."""
    search = Search(CLEAR)
    trial = search.schedule.next().trial
    assert search.schedule.epoch(trial, EpochMetrics(epoch=1, timestamp_ms=8, metrics={PRIMARY: 0.5})) is True
    before = list(search.events)
    assert search.schedule.epoch(trial, EpochMetrics(epoch=1, timestamp_ms=9, metrics={PRIMARY: 0.1})) is True
    assert search.events == before


@pytest.mark.parametrize(("epochs", "ends"), [(2, "COMPLETE"), (3, "PRUNED")])
def test_a_trial_at_its_last_epoch_is_not_stopped_any_more(epochs, ends):
    """The pruner would stop "poor" after the second one: of two epochs that is the end, which costs nothing."""
    pruning = Pruning(pruner="median", settings={"n_startup_trials": 1, "n_warmup_steps": 2}, spare_share=0.0)
    search = Search({"good": [0.9] * epochs, "poor": [0.5] * epochs}, pruning=pruning)
    search.run()
    assert search.ends() == {"good": "COMPLETE", "poor": ends}


def test_a_trial_without_a_defined_metric_is_not_compared():
    search = Search({"a": [None] * 8, "b": CLEAR["b"]})
    search.run()
    assert search.ends() == {"a": "COMPLETE", "b": "COMPLETE"}


def test_seeds_are_of_one_point_whatever_order_the_file_lists_its_values_in():
    search = Search({"a": [0.5], "b": [0.9]})
    state = search.state
    state.trials["a"].searched = {"learning_rate": 1e-4, "weight_decay": 0.1}
    state.trials["b"].searched = {"weight_decay": 0.1, "learning_rate": 1e-4}
    assert state.trials["a"].point == state.trials["b"].point == "learning_rate=0.0001, weight_decay=0.1"


def test_when_the_one_that_won_is_asked_for_no_more_the_best_of_the_stopped_goes_on():
    """No cell without a finished trial, whatever was taken out of the study file."""
    first = Search(CLEAR)
    first.run()
    assert first.ends() == {"a": "PRUNED", "b": "COMPLETE", "c": "PRUNED"}
    changed = Search({"a": CLEAR["a"], "c": CLEAR["c"]}, events=first.events)
    changed.run()
    assert changed.ends() == {"a": "PRUNED", "b": "COMPLETE", "c": "COMPLETE"}
    number = len(changed.events)
    again = Search({"a": CLEAR["a"], "c": CLEAR["c"]}, events=changed.events)
    again.run()
    assert len(again.events) == number


@settings(max_examples=60)
@given(
    curves=st.lists(curve, min_size=3, max_size=6),
    pruner=st.sampled_from(["cell_race", "median", "successive_halving", "hyperband", "patient"]),
    failing=st.sets(st.integers(0, 5), max_size=2),
    within=st.sampled_from(["cell", "study"]),
)
def test_a_search_that_is_killed_anywhere_and_started_again_ends_the_same(curves, pruner, failing, within):
    """What a pruner wrote down about trials must outlive the driver, too: halving compares with it."""
    named = {f"t{i}": c for i, c in enumerate(curves)}
    cells = {trial: f"cell{i % 2}" for i, trial in enumerate(named)}
    words = {
        "cells": cells,
        "fails": {f"t{i}": 3 for i in failing},
        "pruning": Pruning(pruner=pruner, spare_share=0.2),
        "within": within,
    }
    whole = Search(named, **words)
    whole.run()
    for end in whole.ends_of_records[:: max(1, len(whole.ends_of_records) // 12)]:
        again = Search(named, events=whole.events[:end], **words)
        again.run()
        assert again.ends() == whole.ends()
        assert {t: len(p.epochs) for t, p in again.state.trials.items()} == {
            t: len(p.epochs) for t, p in whole.state.trials.items()
        }


def test_a_trial_that_came_to_its_own_end_as_the_driver_died_is_not_stopped_there():
    """Its last epoch was told, its end was not: who asks first hears of the end before the rung is decided."""
    curves = CLEAR | {"a": [0.50, 0.40, 0.40, 0.40, 0.40, 0.40, 0.40, 0.40]}
    whole = Search(curves, own_ends={"a": 2})
    whole.run()
    assert whole.ends()["a"] == "COMPLETE"
    for end in whole.ends_of_records:
        again = Search(curves, own_ends={"a": 2}, events=whole.events[:end])
        again.run()
        assert again.ends() == whole.ends()
        decisions = [[e for e in search.events if e["kind"] == "decision"] for search in (again, whole)]
        assert decisions[0] == decisions[1]


SEEDS = {  # "low" ends better on average, one seed of "high" best of all
    "low": (
        [0.60, 0.70, 0.76, 0.78, 0.79, 0.80],
        [0.60, 0.69, 0.75, 0.78, 0.79, 0.798],
        [0.59, 0.69, 0.75, 0.77, 0.78, 0.796],
    ),
    "high": (
        [0.70, 0.76, 0.79, 0.80, 0.81, 0.812],
        [0.62, 0.70, 0.73, 0.75, 0.76, 0.77],
        [0.61, 0.69, 0.73, 0.75, 0.76, 0.765],
    ),
    "poor": ([0.50, 0.51, 0.52, 0.52, 0.52, 0.52],) * 3,
}


def mirrored(curves, **words):
    """Carry a search out as it is, and one whose metric is the negative and better when smaller."""
    negative = {trial: [None if value is None else -value for value in curve] for trial, curve in curves.items()}
    searches = Search(curves, **words), Search(negative, direction="minimize", **words)
    for search in searches:
        search.run()
    return searches


HARD = {"h1": [0.5] * 8, "h2": [0.75] * 8, "h3": [0.6] * 8}


@pytest.mark.parametrize(
    ("curves", "words"),
    [
        (CLEAR, {}),
        (LATE, {}),
        (CLEAR, {"pruning": Pruning(spare_share=1.0)}),
        (CLEAR, {"fails": {"b": 5}}),  # the better of the pruned ones is brought back
        (CLEAR | {"a": [None] * 8}, {"fails": {"b": 5}}),
        (CLEAR, {"pruning": Pruning(pruner="median", settings={"n_startup_trials": 1})}),
        (
            {"e1": [0.9] * 8, "e2": [0.91] * 8, **HARD},
            {
                "within": "study",
                "cells": {"e1": "easy", "e2": "easy"} | dict.fromkeys(HARD, "hard"),
                "pruning": Pruning(spare_share=0.0, settings={"rungs": [0.25], "exponents": [0.2]}),
            },
        ),
    ],
)
def test_a_metric_that_is_better_when_smaller_is_searched_as_its_negative_would_be(curves, words):
    larger, smaller = mirrored(curves, **words)
    assert smaller.ends() == larger.ends()
    epochs = [{trial: len(p.epochs) for trial, p in search.state.trials.items()} for search in (larger, smaller)]
    assert epochs[0] == epochs[1]
    cells = {trial: progress.cell for trial, progress in larger.state.trials.items()}
    won = [[winner.trial for winner in selection.winners(search.state, cells)] for search in (larger, smaller)]
    assert won[0] == won[1]
    regrets = [live_regret(search.state, cells) for search in (larger, smaller)]
    assert regrets[0] == regrets[1]


@pytest.mark.parametrize(
    ("selected", "epoch_2"),
    [("loss", {}), ("metric", {"val/loss": 0.1}), ("loss", {"val/loss": 0.9})],
)
def test_a_trial_is_judged_at_the_epoch_that_its_recipe_would_choose(selected, epoch_2):
    """The metric is best in the second epoch, the loss in the third; one that told no loss is not chosen by it."""
    search = Search({"a": [0.6, 0.9, 0.7, 0.5]})
    progress = search.state.trials["a"]
    progress.config = {"recipe": {"selection": selected}}
    losses = ({"val/loss": 0.5}, epoch_2, {"val/loss": 0.2}, {"val/loss": 0.3})
    for epoch, (value, loss) in enumerate(zip(search.curves["a"], losses, strict=True), 1):
        told = EpochMetrics(epoch=epoch, timestamp_ms=epoch, metrics={PRIMARY: value, **loss})
        search.record({"kind": "epoch", "trial": "a", **told.model_dump(mode="json")})
    assert progress.judged(1.0) == (0.7 if selected == "loss" else 0.9)
    assert progress.judged(-1.0) == (0.7 if selected == "loss" else 0.5)


@pytest.mark.parametrize("slots", [1, 4])
def test_seeds_of_the_same_hyperparameters_go_on_or_stop_together(slots):
    """A cell's winner is the point with the best mean over seeds: of survivors it would be another one."""
    curves = {f"{point} {seed}": curve for point, seeds in SEEDS.items() for seed, curve in enumerate(seeds)}
    searched = {trial: float(list(SEEDS).index(trial.split()[0])) for trial in curves}
    search = Search(curves, searched=searched)
    search.run(slots=slots)
    by_point = {point: {search.ends()[f"{point} {seed}"] for seed in range(3)} for point in SEEDS}
    assert by_point["poor"] == {"PRUNED"}
    assert by_point["low"] == {"COMPLETE"}
    assert len(by_point["high"]) == 1
    (winner,) = selection.winners(search.state, dict.fromkeys(curves, "cell"))
    assert winner.trial == "low 0"
    assert any("over 3 seeds" in e["reason"] for e in search.events if e["kind"] == "decision")


def test_seeds_do_not_make_a_group_one_of_many_trials():
    curves = {f"{point} {seed}": [0.5] * 20 for point in range(8) for seed in range(2)}
    few = Search(curves, searched={trial: float(trial[0]) for trial in curves})
    many = Search(curves)
    assert few.schedule._groups.of("0 0").race.rungs == (3, 5, 8, 10, 15)
    assert many.schedule._groups.of("0 0").race.rungs == (2, 4, 7, 13)


def test_equal_hyperparameters_of_two_cells_are_no_seeds_of_one_another():
    """Compared within the study, a good cell does not carry a poor one along."""
    curves = {"good": CLEAR["b"], "poor": CLEAR["a"], "poor too": CLEAR["c"]}
    cells = {"good": "one", "poor": "two", "poor too": "two"}
    search = Search(curves, cells=cells, searched=dict.fromkeys(curves, 1.0) | {"poor too": 2.0}, within="study")
    search.run()
    assert search.ends()["good"] == "COMPLETE"
    assert sorted(search.ends()[trial] for trial in ("poor", "poor too")) == ["COMPLETE", "PRUNED"]


EASY = {f"e{i}": [0.9 + 0.001 * i] * 8 for i in range(3)}


@pytest.mark.parametrize("best", ["h1", "h2", "h3"])
def test_of_a_cell_that_loses_against_others_the_best_trial_stays(best):
    """Whichever of them is asked first."""
    hard = {trial: [0.75 if trial == best else 0.5] * 8 for trial in ("h1", "h2", "h3")}
    settings = Pruning(spare_share=0.0, within="study", settings={"rungs": [0.25], "exponents": [0.2]})
    cells = {trial: "easy" if trial in EASY else "hard" for trial in EASY | hard}
    search = Search(EASY | hard, cells=cells, within="study", pruning=settings)
    search.run()
    assert {trial for trial in hard if search.ends()[trial] == "COMPLETE"} == {best}
    (kept,) = [e for e in search.events if e["kind"] == "decision" and e["trial"] == best]
    assert kept["reason"].startswith("last live trial of its cell, goes on; ")


def test_a_rung_is_no_rung_for_a_trial_that_ends_there():
    """A group may have trials of several lengths; at its end nothing is saved by stopping one."""
    curves = {"short": [0.6] * 2, "shorter": [0.5] * 2, "long": [0.9] * 8, "longer": [0.8] * 8}
    cells = {trial: trial.removesuffix("er") for trial in curves}
    settings = Pruning(spare_share=0.0, within="study", settings={"rungs": [0.25], "exponents": [0.0]})
    search = Search(curves, cells=cells, within="study", pruning=settings)
    search.run()
    assert search.ends() == {"short": "COMPLETE", "shorter": "COMPLETE", "long": "COMPLETE", "longer": "PRUNED"}


def test_a_spared_trial_does_not_count_as_the_last_one_of_its_cell():
    """It would not be there without the draw: "h2" ends as if "h1" had stopped."""
    curves = EASY | {"h1": [0.5] * 8, "h2": [0.75] * 8}
    cells = {trial: "easy" if trial in EASY else "hard" for trial in curves}
    draws = (Pruning(spare_share=0.5, spare_seed=seed) for seed in range(99))
    seed = next(one.spare_seed for one in draws if spared(one, "h1") and not spared(one, "h2"))
    settings = {"rungs": [0.25, 0.5], "exponents": [0.86, 0.2]}  # four of five, then two
    pruning = Pruning(spare_share=0.5, spare_seed=seed, within="study", settings=settings)
    search = Search(curves, cells=cells, within="study", pruning=pruning)
    search.run()
    assert search.state.trials["h1"].spared_at == 2
    *_, last = search.state.trials["h2"].decisions
    assert (last["epoch"], last["action"]) == (4, "keep")
    assert last["reason"].startswith("last live trial of its cell, goes on; stops at epoch 4")


def test_of_a_cell_that_loses_against_others_all_seeds_of_the_best_point_stay():
    hard = {
        "h1a": [0.60] * 8,
        "h1b": [0.62] * 8,
        "h2a": [0.73] * 8,
        "h2b": [0.69] * 8,
        "h3a": [0.74] * 8,
        "h3b": [0.5] * 8,
    }
    points = {trial: float(trial[1]) for trial in EASY | hard}
    settings = Pruning(spare_share=0.0, within="study", settings={"rungs": [0.25], "exponents": [0.0]})
    cells = {trial: "easy" if trial in EASY else "hard" for trial in EASY | hard}
    search = Search(EASY | hard, cells=cells, searched=points, within="study", pruning=settings)
    search.run()
    assert {trial for trial in hard if search.ends()[trial] == "COMPLETE"} == {"h2a", "h2b"}
