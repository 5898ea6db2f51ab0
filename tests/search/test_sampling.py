import math
from types import SimpleNamespace

import pytest
from optuna.distributions import FloatDistribution

from search import samplers, sampling
from search.errors import StudyError
from search.grid import Grid
from search.identity import entry_event, identified, key_of
from search.study import Machine, StudyRun
from search.study_config import StudyConfig
from search.study_folder import StudyFolder
from search.study_sections import Range
from search.study_state import OVER_BUDGET, StudyState, TrialProgress
from tests.search.recorded import DECLARATION, PRIMARY
from trainers.trial import TrialResult, TrialState

SAMPLERS = ["tpe", "gp", "cmaes", "qmc", "random"]
AXES = {"dataset": "phantom", "initialization": "random", "backbone": ["test_vit3", "test_convnext2"], "resolution": 32}
BEST = 1e-5
"""Off the middle of the range, where CMA-ES begins."""


def study(sampler: str, *, recipe=None, **more) -> StudyConfig:
    space = {"learning_rate": {"low": 1e-6, "high": 1e-1, "log": True}, "batch_size": {"low": 4, "high": 64}}
    content = {"name": "s", "axes": AXES, "search": space, "seeds": [0, 1], "recipe": recipe or {}}
    return StudyConfig.model_validate({**content, "sampling": {"sampler": sampler, "trials": 10, **more}})


def opened(fingerprint: str = "f") -> StudyState:
    key = key_of(sampling.examples(study("random")).datasets[0])
    data = {"kind": "data", "key": key, "dataset": "d", "fingerprint": fingerprint, "declaration": DECLARATION}
    return StudyState.of([data])


def nearness(searched) -> float:
    """Better the nearer the learning rate is to BEST."""
    return 1 - abs(math.log10(searched["learning_rate"] / BEST)) / 5


def all_finish(wanted: Grid, state: StudyState) -> None:
    """Train what is new of a round to its end."""
    for identity in entered(wanted, state):
        end(state, identity)


def one_of_a_round_finishes(wanted: Grid, state: StudyState) -> None:
    """Prune all but the best point of every cell's round, as a race does."""
    new = [state.trials[identity] for identity in entered(wanted, state)]
    best = {progress.cell: progress.point for progress in sorted(new, key=value_of)}
    for progress in new:
        end(state, progress.trial, pruned=progress.point != best[progress.cell])


def the_worst_is_the_best(wanted: Grid, state: StudyState) -> None:
    for identity in entered(wanted, state):
        end(state, identity, sign=-1)


def value_of(progress) -> float:
    return nearness(progress.searched)


def entered(wanted: Grid, state: StudyState) -> list[str]:
    new = {name: trial for name, trial in identified(wanted, state).items() if name not in state.trials}
    for name, trial in new.items():
        state.apply(entry_event(name, trial))
    return list(new)


def end(state: StudyState, trial: str, *, pruned: bool = False, sign: int = 1) -> None:
    value = sign * value_of(state.trials[trial])
    state.apply({"kind": "epoch", "trial": trial, "epoch": 1, "timestamp_ms": 0, "metrics": {PRIMARY: value}})
    result = None if pruned else {"state": "COMPLETE", "epochs": 1, "best_epoch": 1, "best_value": value}
    told = {"state": "PRUNED" if pruned else "COMPLETE", "reason": "", "time_ms": 0, "result": result}
    state.apply({"kind": "ended", "trial": trial, **told})


def carry_out(asked: StudyConfig, state: StudyState, rounds: int = 99, train=all_finish) -> list[int]:
    """Draw and train; returns the number of points by round."""
    sizes = []
    wanted = sampling.expand(asked, state)
    while len(sizes) < rounds:
        train(wanted, state)
        more = sampling.draw(asked, wanted, state)
        if more is None:
            break
        sizes.append((len(more.trials) - len(wanted.trials)) // len(asked.seeds) // len(more.cells))
        wanted = more
    return sizes


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_cell_gets_its_points_in_rounds_inside_the_bounds(sampler):
    state = opened()
    sizes = carry_out(study(sampler), state)
    assert sizes == ([10] if sampler in samplers.BLIND else [4, 4, 2])
    points = sampling.drawn(study(sampler), state)
    assert {cell: len(found) for cell, found in points.items()} == {
        "phantom/random/test_vit3/32": 10,
        "phantom/random/test_convnext2/32": 10,
    }
    for point in (point for found in points.values() for point in found):
        assert 1e-6 <= point["learning_rate"] <= 1e-1
        assert 4 <= point["batch_size"] <= 64
        assert isinstance(point["batch_size"], int)
        assert float(f"{point['learning_rate']:.4g}") == point["learning_rate"]


def test_every_cell_and_every_seed_of_a_sampler_draws_points_of_its_own():
    drawn = []
    for seed in (0, 1):
        state = opened()
        carry_out(study("random", seed=seed), state)
        drawn += sampling.drawn(study("random", seed=seed), state).values()
    points = [str(point) for points in drawn for point in points]
    assert len(set(points)) == len(points) == 40


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_study_that_goes_on_draws_what_an_undisturbed_one_draws(sampler):
    whole, cut = opened(), opened()
    carry_out(study(sampler), whole)
    for _ in range(5):
        carry_out(study(sampler), cut, rounds=1)
    carry_out(study(sampler), cut)
    assert sampling.drawn(study(sampler), cut) == sampling.drawn(study(sampler), whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "train", "points"),
    [
        ("tpe", all_finish, 48),
        ("gp", all_finish, 16),
        ("cmaes", all_finish, 24),
        ("gp", one_of_a_round_finishes, 16),
        ("cmaes", one_of_a_round_finishes, 24),
    ],
)
def test_a_sampler_that_learns_ends_nearer_to_the_best_than_chance(sampler, train, points):
    """So it must where most points are pruned, too, as by the default pruner."""

    def distance(name: str) -> float:
        asked, state = study(name, trials=points), opened()
        carry_out(asked, state, train=train)
        last = [point for found in sampling.drawn(asked, state).values() for point in found[points // 2 :]]
        return sum(abs(math.log10(point["learning_rate"] / BEST)) for point in last) / len(last)

    assert distance(sampler) < 0.7 * distance("random")


def test_more_points_later_keep_the_earlier_ones():
    state = opened()
    carry_out(study("tpe", trials=6), state)
    before = sampling.drawn(study("tpe", trials=6), state)
    carry_out(study("tpe", trials=9), state)
    after = sampling.drawn(study("tpe", trials=9), state)
    assert all(after[cell][:6] == points and len(after[cell]) == 9 for cell, points in before.items())


def test_the_plan_counts_what_will_be_drawn():
    examples = sampling.examples(study("tpe"))
    assert (len(examples.cells), len(examples.trials)) == (2, 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampling": {"sampler": "tpe"}}, "sampling: tpe needs `trials`"),
        ({"sampling": {}}, "sampling: search.learning_rate is a range; choose a sampler, or list values"),
        ({"search": {"learning_rate": {"low": 1, "high": 1}}}, "low must be below high"),
        ({"search": {"learning_rate": {"low": 0, "high": 1, "log": True}}}, "above 0 if log"),
        ({"search": {"learning_rate": {"low": "x", "high": 1}}}, "low"),
    ],
)
def test_a_wrong_sampling_is_told(change, message):
    content = {"name": "s", "axes": AXES, "search": {"learning_rate": {"low": 1e-6, "high": 1e-1}}}
    with pytest.raises(ValueError, match=message):
        StudyConfig.model_validate({**content, **change})


def test_a_plan_counts_no_more_points_than_there_are():
    space = {"learning_rate": [1e-3, 1e-4], "weight_decay": [0.0, 0.1]}
    content = {"name": "s", "axes": AXES, "search": space, "sampling": {"sampler": "tpe", "trials": 9}}
    wanted = sampling.examples(StudyConfig.model_validate(content))
    assert len(wanted.trials) == 4 * len(wanted.cells)


@pytest.mark.parametrize(
    ("sampler", "settings"),
    [
        ("tpe", {"n_startup_trials": "x"}),
        ("tpe", {"n_ei_candidates": 0}),
        ("tpe", {"gamma": 3}),
        ("cmaes", {"sigma0": "x"}),
        ("cmaes", {"popsize": 2.5}),
    ],
)
def test_a_setting_of_the_wrong_kind_is_told_before_the_first_trial(sampler, settings):
    """Some are met by the first draw that learns."""
    with pytest.raises(StudyError, match=f"sampling.settings: {sampler}: "):
        samplers.check(study(sampler, settings=settings).sampling)


def test_numbers_that_yaml_reads_as_text_are_numbers_in_settings():
    assert study("cmaes", settings={"sigma0": "1e-1"}).sampling.settings == {"sigma0": 0.1}
    assert study("cmaes", settings={"a": ["2e0", "x"]}).sampling.settings == {"a": [2.0, "x"]}


def test_a_narrow_range_has_as_many_points_as_a_wide_one():
    """At four digits there was one value or two, so that a study of twelve points never ended."""
    space = Range(low=1.00001e-3, high=1.00002e-3)
    narrow, state = study("random", trials=12).model_copy(update={"search": {"learning_rate": space}}), opened()
    carry_out(narrow, state)
    assert {len(points) for points in sampling.drawn(narrow, state).values()} == {12}
    assert not sampling.to_come(narrow, state)


def test_an_unknown_setting_of_a_sampler_is_told():
    with pytest.raises(StudyError, match=r"sampling.settings: tpe: .*nonsense.*; it takes: .*n_startup_trials"):
        samplers.check(study("tpe", settings={"nonsense": 1}).sampling)


@pytest.mark.parametrize("space", [{"low": 1e-3, "high": 1e-2, "log": True}, [1e-3, 2e-3, 5e-3]])
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_narrowed_space_keeps_only_the_points_that_lie_in_it(sampler, space):
    asked, state = study(sampler), opened()
    carry_out(asked, state)
    narrow = StudyConfig.model_validate(
        {
            **asked.model_dump(),
            "search": {**asked.model_dump()["search"], "learning_rate": space},
            "sampling": {"sampler": sampler, "trials": 3, "per_round": 3},
        }
    )
    carry_out(narrow, state)
    for points in sampling.drawn(narrow, state).values():
        assert len(points) == 3
        assert all(1e-3 <= point["learning_rate"] <= 1e-2 for point in points)
        if isinstance(space, list):
            assert all(point["learning_rate"] in space for point in points)


def test_a_cell_whose_data_cannot_be_read_gets_no_more_points_until_it_is_tried_again():
    state, asked = opened(), study("random", trials=4)
    wanted = sampling.draw(asked, sampling.expand(asked, state), state)
    broken, fine = (cell.name for cell in wanted.cells)
    first = next(name for name, trial in identified(wanted, state).items() if trial.cell.name == broken)
    state.apply(entry_event(first, identified(wanted, state)[first]))
    failure = {"kind": "ended", "trial": first, "state": "FAILED", "time_ms": 0, "result": None}
    state.apply({**failure, "reason": "data: no such file"})
    assert points_by_cell(sampling.draw(asked, sampling.expand(asked, state), state)) == {broken: 1, fine: 4}
    state.apply({"kind": "reopened", "trial": first, "reason": "run --retry-failed"})
    assert points_by_cell(sampling.draw(asked, sampling.expand(asked, state), state)) == {broken: 4, fine: 4}
    state.apply({**failure, "reason": "bug: something else"})
    assert points_by_cell(sampling.draw(asked, sampling.expand(asked, state), state)) == {broken: 4, fine: 4}


def test_where_the_budget_had_no_room_nothing_more_is_drawn_and_with_a_larger_one_the_same_as_ever():
    asked, state, whole = study("tpe"), opened(), opened()
    carry_out(asked, state, rounds=1)
    wanted = sampling.draw(asked, sampling.expand(asked, state), state)
    *trained, dropped = entered(wanted, state)
    for trial in trained:
        end(state, trial)
    told = {"kind": "ended", "trial": dropped, "state": "PRUNED", "time_ms": 0, "result": None}
    state.apply({**told, "reason": f"{OVER_BUDGET}no room"})
    assert sampling.draw(asked, sampling.expand(asked, state), state) is None
    state.apply({"kind": "reopened", "trial": dropped, "reason": "the budget was raised"})
    end(state, dropped)
    carry_out(asked, state)
    carry_out(asked, whole)
    assert sampling.drawn(asked, state) == sampling.drawn(asked, whole)


def test_a_run_says_what_it_draws_no_more(tmp_path, monkeypatch):
    asked, state, notes = study("tpe"), opened(), []

    def all_but_one(_, trials):
        new = [trial for trial in trials if not state.trials[trial].done]
        for trial in new[:-1]:
            end(state, trial)
        for trial in new[-1:]:
            told = {"kind": "ended", "trial": trial, "state": "PRUNED", "time_ms": 0, "result": None}
            state.apply({**told, "reason": f"{OVER_BUDGET}no room"})
        return True

    monkeypatch.setattr(StudyRun, "search", all_but_one)
    desk = SimpleNamespace(
        state=state,
        record=lambda *events: [state.apply(event) for event in events],
        progress=SimpleNamespace(note=notes.append),
    )
    slots = SimpleNamespace(choose=lambda _: None)
    StudyRun(asked, Machine(tmp_path), StudyFolder(tmp_path, "s"), {}, slots, desk).search_rounds()
    assert notes == ["no more is drawn, as the budget had no room: 24 trials to come; raise it to go on"]


def points_by_cell(grid):
    return {
        cell.name: len({trial.point for trial in grid.trials if trial.cell.name == cell.name}) for cell in grid.cells
    }


@pytest.mark.parametrize("sampler", ["random", "cmaes"])
def test_all_choices_are_drawn_where_as_many_are_asked_for(sampler):
    choices = {"learning_rate": [n * 1e-5 for n in range(1, 13)], "batch_size": [8, 16, 32, 64, 128]}
    content = {"name": "s", "axes": AXES, "search": choices, "sampling": {"sampler": sampler, "trials": 99}}
    asked, state = StudyConfig.model_validate(content), opened()
    carry_out(asked, state)
    assert {cell: len(points) for cell, points in sampling.drawn(asked, state).items()} == {
        "phantom/random/test_vit3/32": 60,
        "phantom/random/test_convnext2/32": 60,
    }


@pytest.mark.parametrize(
    "axes",
    [dict(reversed(AXES.items())), {**AXES, "adaptation": "finetune"}],
    ids=["another order of axes", "a default becomes an axis"],
)
def test_points_stay_a_cells_own_under_whatever_name_it_has(axes):
    asked, state = study("random", trials=3), opened()
    carry_out(asked, state)
    renamed = StudyConfig.model_validate({**asked.model_dump(), "axes": axes})
    before, after = sampling.drawn(asked, state), sampling.drawn(renamed, state)
    assert not set(before) & set(after)
    assert sorted(map(str, before.values())) == sorted(map(str, after.values()))
    assert sampling.draw(renamed, sampling.expand(renamed, state), state) is None


def test_points_of_another_configuration_are_not_taken_over():
    asked, state = study("random", trials=3), opened()
    carry_out(asked, state)
    changed = StudyConfig.model_validate({**asked.model_dump(), "recipe": {"optimizer": "sgd"}})
    assert [len(points) for points in sampling.drawn(changed, state).values()] == [0, 0]
    assert len(sampling.draw(changed, sampling.expand(changed, state), state).trials) == 2 * 3 * 2
    carry_out(changed, state)
    assert [len(points) for points in sampling.drawn(changed, state).values()] == [3, 3]
    assert [len(points) for points in sampling.drawn(asked, state).values()] == [3, 3]


def test_points_with_other_seeds_stay():
    asked, state = study("random", trials=3), opened()
    carry_out(asked, state)
    assert sampling.drawn(asked.model_copy(update={"seeds": [2]}), state) == sampling.drawn(asked, state)


def test_of_a_searched_recipe_only_the_points_of_the_same_settings_stay():
    """`modern` brings its own epochs unless the study gives them: then it is another configuration."""
    content = {"name": "s", "axes": AXES, "search": {"recipe": ["modern", "paper"]}}
    asked = StudyConfig.model_validate({**content, "sampling": {"sampler": "random", "trials": 2}})
    state = opened()
    entered(sampling.draw(asked, sampling.expand(asked, state), state), state)
    assert [len(points) for points in sampling.drawn(asked, state).values()] == [2, 2]
    changed = asked.model_copy(update={"recipe": {"epochs": 3}})
    assert [len(points) for points in sampling.drawn(changed, state).values()] == [0, 0]


def test_a_cell_whose_data_were_mended_is_drawn_anew():
    """The trial that failed on the broken files keeps its identity, which nothing asks for any more."""
    asked, state = study("random", trials=4), opened("broken")
    wanted = sampling.draw(asked, sampling.expand(asked, state), state)
    failure = {"kind": "ended", "state": "FAILED", "reason": "data: no such file", "time_ms": 0, "result": None}
    for trial in entered(wanted, state):
        state.apply({**failure, "trial": trial})
    assert sampling.draw(asked, sampling.expand(asked, state), state) is None
    state.apply({**next(iter(state.datasets.values())), "fingerprint": "mended"})
    assert carry_out(asked, state) == [4]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_space_of_few_whole_numbers_is_drawn_to_its_end(sampler):
    content = {"name": "s", "axes": AXES, "search": {"batch_size": {"low": 8, "high": 10}, "learning_rate": [BEST]}}
    asked, state = StudyConfig.model_validate({**content, "sampling": {"sampler": sampler, "trials": 12}}), opened()
    assert len(sampling.examples(asked).trials) == 2 * 3
    assert len(sampling.to_come(asked, state)) == 2 * 3
    carry_out(asked, state)
    for points in sampling.drawn(asked, state).values():
        assert sorted(point["batch_size"] for point in points) == [8, 9, 10]
    assert sampling.to_come(asked, state) == []


def test_what_is_still_to_be_drawn_is_counted_cell_by_cell():
    asked, state = study("tpe", recipe={"epochs": 7}), opened()
    wanted = sampling.draw(asked, sampling.expand(asked, state), state)
    assert len(sampling.to_come(asked, state)) == 2 * 10 * 2
    first, *_ = entered(wanted, state)
    coming = sampling.to_come(asked, state)
    assert (len(coming), {trial.config.recipe.epochs for trial in coming}) == (2 * (10 - 4) * 2, {7})
    failure = {"kind": "ended", "state": "FAILED", "reason": "data: x", "time_ms": 0, "result": None}
    state.apply({**failure, "trial": first})
    others = sampling.to_come(asked, state)
    assert (len(others), {trial.cell.name for trial in others}) == ((10 - 4) * 2, {"phantom/random/test_convnext2/32"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "more", "points"),
    [
        ("random", {}, 0),
        ("qmc", {}, 0),
        ("tpe", {}, 8),  # two rounds of four
        ("tpe", {"settings": {"n_startup_trials": 9}}, 12),
        ("gp", {"per_round": 3}, 6),
        ("cmaes", {}, 8),  # a round at random, and one around the middle
        ("cmaes", {"per_round": 3}, 9),  # a generation of six
        ("cmaes", {"settings": {"popsize": 9}}, 16),
    ],
)
def test_a_sampler_learns_from_so_many_points_on(sampler, more, points):
    """Until then it draws the same whatever they came to."""
    asked, one, other = study(sampler, trials=points + 4, **more), opened(), opened()
    assert samplers.points_before_learning(asked) == points
    carry_out(asked, one)
    carry_out(asked, other, train=the_worst_is_the_best)
    cell = "phantom/random/test_vit3/32"
    found, others = (sampling.drawn(asked, state)[cell] for state in (one, other))
    assert found[:points] == others[:points]
    assert (found[points:] != others[points:]) == (sampler in samplers.LEARNERS)


SPACE = {"learning_rate": FloatDistribution(1e-6, 1e-1, log=True)}
GOOD, BAD = (("COMPLETE", [0.5, 0.8], 0.8), ("COMPLETE", [0.6], 0.6))
STOPPED, STOPPED_TOO = (("PRUNED", [0.4, 0.2], None), ("PRUNED", [0.1], None))
FAILED = ("FAILED", [0.9], None)


@pytest.mark.parametrize(
    ("seeds", "by_pruned", "by_last_value"),
    [
        ([GOOD, BAD], ("COMPLETE", 0.7, {}), ("COMPLETE", 0.7, {})),
        ([GOOD, FAILED], ("COMPLETE", 0.8, {}), ("COMPLETE", 0.8, {})),
        ([GOOD, STOPPED], ("COMPLETE", 0.8, {1: 0.4, 2: 0.2}), ("COMPLETE", 0.8, {1: 0.4, 2: 0.2})),
        ([STOPPED, STOPPED_TOO], ("PRUNED", None, {1: 0.25}), ("COMPLETE", 0.15, {1: 0.25})),
        ([("PRUNED", [], None)], ("PRUNED", None, {}), ("FAIL", None, {})),
        ([FAILED], ("FAIL", None, {}), ("FAIL", None, {})),
    ],
)
def test_a_point_is_one_trial_to_a_sampler(seeds, by_pruned, by_last_value):
    """Of two seeds that finished the mean, of stopped ones the mean of the last values: (0.2 + 0.1) / 2."""
    trials = [ended_trial(*seed) for seed in seeds]
    for expected, ranks_pruned in ((by_pruned, True), (by_last_value, False)):
        told = samplers.as_optuna(trials, SPACE, ranks_pruned=ranks_pruned)
        value = None if told.value is None else pytest.approx(told.value)
        assert (told.state.name, value, told.intermediate_values) == (expected[0], expected[1], expected[2])


def ended_trial(ended: str, curve: list[float], best: float | None) -> TrialProgress:
    progress = TrialProgress("t", "c", {}, {"learning_rate": 1e-3}, 0, {}, "k", dict(enumerate(curve, 1)))
    progress.state = TrialState(ended)
    if ended == "COMPLETE":
        progress.result = TrialResult(state=ended, epochs=len(curve), best_epoch=len(curve), best_value=best)
    return progress
