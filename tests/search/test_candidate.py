"""Which of a study's winners is promoted."""

import pytest

from search import grid
from search.candidate import Candidate, best_winner
from search.errors import StudyError
from search.identity import entry_event, identified, key_of
from search.study_config import StudyConfig
from search.study_sections import Promotion
from search.study_state import StudyState
from tests.search.recorded import DECLARATION

AXES = {"dataset": "vindr_pcxr", "initialization": "imagenet", "backbone": "vit_base", "resolution": [224, 512]}


def study(**axes) -> StudyConfig:
    return StudyConfig.model_validate({"name": "s", "axes": AXES | axes, "search": {"learning_rate": [1e-4, 1e-5]}})


def finished(asked: StudyConfig, values: list[float], *, direction: str = "maximize") -> StudyState:
    """Return where a study stands whose trials ended with these values; no winner is measured yet."""
    state, wanted = StudyState(), grid.expand(asked)
    for dataset in wanted.datasets:
        about = {"dataset": dataset.name, "fingerprint": "f", "declaration": DECLARATION | {"direction": direction}}
        state.apply({"kind": "data", "key": key_of(dataset), **about})
    for (identity, trial), value in zip(identified(wanted, state).items(), values, strict=True):
        state.apply(entry_event(identity, trial))
        result = {"state": "COMPLETE", "epochs": 1, "best_epoch": 1, "best_value": value, "checkpoint": "best"}
        ended = {"state": "COMPLETE", "reason": "", "time_ms": 0, "result": result}
        state.apply({"kind": "ended", "trial": identity, **ended})
    return state


def measure(state: StudyState, *values: float) -> None:
    """Measure the trials that ended with these values, each for its cell."""
    for trial in state.trials.values():
        if trial.result.best_value in values:
            state.apply({"kind": "evaluated", "trial": trial.trial, "cell": trial.cell, "time_ms": 1, "metrics": {}})


@pytest.mark.parametrize(
    ("direction", "winners", "best"), [("maximize", (0.8, 0.7), 0.8), ("minimize", (0.5, 0.6), 0.5)]
)
def test_the_best_of_the_winners_is_the_one_that_the_task_calls_so(direction, winners, best):
    state = finished(study(), [0.5, 0.8, 0.6, 0.7], direction=direction)
    measure(state, *winners)
    assert best_winner(study(), state).value == best


def test_all_winners_are_measured_before_one_of_them_is_promoted():
    state = finished(study(), [0.5, 0.8, 0.6, 0.7])
    with pytest.raises(StudyError, match="no measured winner yet"):
        best_winner(study(), state)
    measure(state, 0.5, 0.6)  # neither stands for its cell
    with pytest.raises(StudyError, match="no measured winner yet"):
        best_winner(study(), state)
    measure(state, 0.8)
    with pytest.raises(StudyError, match="not finished: 4 of 4 trials are done, 1 of 2 winners measured"):
        best_winner(study(), state)
    measure(state, 0.7)
    assert best_winner(study(), state).value == 0.8


def test_a_study_of_another_storage_is_told():
    with pytest.raises(StudyError, match=r"study s was not run in this storage; run it first, or give another"):
        best_winner(study(), StudyState())


@pytest.mark.parametrize(("promotion", "name"), [({}, "s"), ({"registered_model": "films"}, "films")])
def test_the_registered_model_has_the_studys_name_or_its_own(promotion, name):
    asked = study().model_copy(update={"promotion": Promotion(**promotion)})
    assert Candidate(asked, None, None, None, "run").name == name


def test_winners_on_several_data_sets_do_not_rank():
    asked = study(dataset=["vindr_pcxr", "vindr_cxr"], resolution=224)
    state = finished(asked, [0.5, 0.8, 0.6, 0.7])
    measure(state, 0.8, 0.7)
    with pytest.raises(StudyError, match="winners on several data sets; a promotion compares models on one"):
        best_winner(asked, state)


@pytest.mark.parametrize(
    ("axes", "differing"),
    [({"labels": ["paper", "conventional"]}, "labels"), ({"partition_seed": [1, 0]}, "partition_seed")],
)
def test_winners_by_other_labels_or_patients_do_not_rank(axes, differing):
    asked = study(resolution=224, **axes)
    state = finished(asked, [0.5, 0.8, 0.6, 0.7])
    measure(state, 0.8, 0.7)
    with pytest.raises(StudyError, match=f"has winners that differ in {differing}: chosen by other labels or patients"):
        best_winner(asked, state)
