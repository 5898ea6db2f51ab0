import math

import pytest

from search import sampling
from search.errors import StudyError
from search.study_config import StudyConfig
from search.study_state import StudyState
from tests.search.recorded import DECLARATION, PRIMARY

SAMPLERS = ["tpe", "gp", "cmaes", "qmc", "random"]
AXES = {"dataset": "phantom", "initialization": "random", "backbone": ["test_vit3", "test_convnext2"], "resolution": 32}
BEST = 3e-4


def study(sampler: str, **more) -> StudyConfig:
    space = {"learning_rate": {"low": 1e-6, "high": 1e-1, "log": True}, "batch_size": {"low": 4, "high": 64}}
    content = {"name": "s", "axes": AXES, "search": space, "seeds": [0, 1]}
    return StudyConfig.model_validate({**content, "sampling": {"sampler": sampler, "trials": 10, **more}})


def opened() -> StudyState:
    data = {"kind": "data", "key": "k", "dataset": "d", "fingerprint": "f", "declaration": DECLARATION}
    return StudyState.of([data])


def carry_out(asked: StudyConfig, state: StudyState, rounds: int = 99) -> list[int]:
    """Draw and train, better the nearer the learning rate is to BEST; returns the number of points by round."""
    sizes = []
    wanted = sampling.expand(asked, state)
    while len(sizes) < rounds:
        for trial in wanted.trials:
            name = f"{trial.cell.name} {trial.point} {trial.seed}"
            if name in state.trials:
                continue
            searched = dict(trial.searched)
            fields = {"axes": {}, "seed": trial.seed, "config": {}, "dataset_key": "k", "searched": searched}
            state.apply({"kind": "trial", "trial": name, "cell": trial.cell.name, **fields})
            value = 1 - abs(math.log10(searched["learning_rate"] / BEST)) / 5
            state.apply({"kind": "epoch", "trial": name, "epoch": 1, "timestamp_ms": 0, "metrics": {PRIMARY: value}})
            result = {"state": "COMPLETE", "epochs": 1, "best_epoch": 1, "best_value": value}
            state.apply(
                {"kind": "ended", "trial": name, "state": "COMPLETE", "reason": "", "time_ms": 0, "result": result}
            )
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
    assert sizes == ([10] if sampler in sampling.BLIND else [4, 4, 2])
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


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_study_that_goes_on_draws_what_an_undisturbed_one_draws(sampler):
    whole, cut = opened(), opened()
    carry_out(study(sampler), whole)
    for _ in range(5):
        carry_out(study(sampler), cut, rounds=1)
    carry_out(study(sampler), cut)
    assert sampling.drawn(study(sampler), cut) == sampling.drawn(study(sampler), whole)


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_a_sampler_that_learns_ends_nearer_to_the_best_than_chance(sampler):
    def distance(name: str) -> float:
        asked, state = study(name, trials=32), opened()
        carry_out(asked, state)
        last = [point for found in sampling.drawn(asked, state).values() for point in found[16:]]
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


def test_a_setting_of_the_wrong_kind_is_told_before_the_first_trial():
    with pytest.raises(StudyError, match=r"sampling.settings: tpe: .*'<' not supported"):
        sampling.check(study("tpe", settings={"n_startup_trials": "x"}).sampling)


def test_an_unknown_setting_of_a_sampler_is_told():
    with pytest.raises(StudyError, match=r"sampling.settings: tpe: .*nonsense.*; it takes: .*n_startup_trials"):
        sampling.check(study("tpe", settings={"nonsense": 1}).sampling)


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
    fields = {
        "axes": {},
        "seed": 0,
        "config": {},
        "dataset_key": "k",
        "searched": {"learning_rate": 1e-3, "batch_size": 4},
    }
    state.apply({"kind": "trial", "trial": "t", "cell": broken, **fields})
    failure = {"kind": "ended", "trial": "t", "state": "FAILED", "time_ms": 0, "result": None}
    state.apply({**failure, "reason": "data: no such file"})
    assert points_by_cell(sampling.draw(asked, sampling.expand(asked, state), state)) == {broken: 1, fine: 4}
    state.apply({"kind": "reopened", "trial": "t", "reason": "run --retry-failed"})
    assert points_by_cell(sampling.draw(asked, sampling.expand(asked, state), state)) == {broken: 4, fine: 4}
    state.apply({**failure, "reason": "bug: something else"})
    assert points_by_cell(sampling.draw(asked, sampling.expand(asked, state), state)) == {broken: 4, fine: 4}


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
