"""The steps of one run, by themselves: without Ray, data and MLflow."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest

from search import grid, ray_backend, sampling
from search.identity import key_of
from search.resources import Slot
from search.study import Machine, StudyRun
from search.study_config import StudyConfig
from search.study_folder import StudyFolder
from search.study_state import OVER_BUDGET, StudyState
from tests.search.recorded import DECLARATION

AXES = {"dataset": "phantom", "initialization": "random", "backbone": "test_vit3", "resolution": 32}


class Desk:
    """Records into a state, and keeps what it recorded and noted."""

    def __init__(self, state, earlier_study=None):
        self.state = state
        self.earlier_study = earlier_study or {}
        self.recorded = []
        self.notes = []
        self.progress = SimpleNamespace(note=self.notes.append)

    def record(self, *events):
        self.recorded += events
        for event in events:
            self.state.apply(event)


def study(**more) -> StudyConfig:
    content = {"name": "s", "axes": AXES, "search": {"learning_rate": [1e-4, 1e-3]}, **more}
    return StudyConfig.model_validate(content)


def begun(asked: StudyConfig) -> StudyState:
    (dataset,) = grid.expand(asked, {} if asked.sampling.sampler != "grid" else None).datasets
    data = {"kind": "data", "key": key_of(dataset), "dataset": "phantom", "fingerprint": "f"}
    return StudyState.of([{**data, "declaration": DECLARATION}])


def run_of(asked: StudyConfig, desk: Desk, storage) -> StudyRun:
    return StudyRun(
        asked, Machine(storage), StudyFolder(storage, "s"), {}, SimpleNamespace(choose=lambda _: None), desk
    )


def end(desk: Desk, trial: str, state: str, reason: str = "") -> None:
    desk.record({"kind": "ended", "trial": trial, "state": state, "reason": reason, "time_ms": 0, "result": None})


@pytest.mark.parametrize(
    ("before", "now", "back"),
    [
        ({"gpu_hours": 1}, {"gpu_hours": 2}, True),
        ({"gpu_hours": 1}, {"gpu_hours": 1}, False),
        ({"gpu_hours": 2}, {"gpu_hours": 1}, False),
        ({"gpu_hours": 1}, {}, True),
        ({}, {"gpu_hours": 1}, False),
        ({"wall_clock_hours": 1}, {"wall_clock_hours": 2}, True),
        ({"gpu_hours": 1, "wall_clock_hours": 1}, {"gpu_hours": 1, "wall_clock_hours": 2}, True),
        ({"gpu_hours": 1}, {"gpu_hours": 1, "checkpoint_gb": 3}, False),
    ],
)
def test_a_larger_budget_brings_back_what_was_dropped_and_nothing_else(tmp_path, before, now, back):
    asked = study(budget=now)
    desk = Desk(begun(asked), {"budget": before})
    run = run_of(asked, desk, tmp_path)
    first, second = run.enter_trials(grid.expand(asked))
    end(desk, first, "PRUNED", f"{OVER_BUDGET}no room")
    end(desk, second, "PRUNED", "far behind")
    run.reopen_what_has_room_again()
    assert desk.state.trials[first].done is not back
    assert desk.state.trials[second].done


def test_a_trial_that_a_changed_study_sorts_elsewhere_is_entered_again_and_then_no_more(tmp_path):
    asked, renamed = study(), study(axes=AXES | {"adaptation": "finetune"})
    desk = Desk(begun(asked))
    for config, entered in ((asked, 2), (asked, 0), (renamed, 2), (renamed, 0)):
        before = len(desk.recorded)
        trials = run_of(config, desk, tmp_path).enter_trials(grid.expand(config))
        assert len(desk.recorded) - before == entered
        assert set(trials) == set(desk.state.trials)
    assert {progress.cell for progress in desk.state.trials.values()} == {"phantom/random/test_vit3/32/finetune"}


@pytest.mark.parametrize(("hours", "rounds"), [(1, 1), (2, 3)])
def test_a_sampler_draws_no_more_for_a_budget_that_is_used_up(tmp_path, monkeypatch, hours, rounds):
    space = {"learning_rate": {"low": 1e-6, "high": 1e-1, "log": True}}
    sampler = {"sampler": "tpe", "trials": 10, "per_round": 4}
    asked = study(search=space, sampling=sampler, budget={"wall_clock_hours": hours})
    desk, searched = Desk(begun(asked)), []
    desk.state.wall.seconds = 3600.0

    def search(run, trials):
        searched.append(len(trials))
        for trial in trials:
            if not desk.state.trials[trial].done:
                end(desk, trial, "PRUNED", "far behind")
        return True

    monkeypatch.setattr(StudyRun, "search", search)
    run = run_of(asked, desk, tmp_path)
    first = sampling.draw(asked, sampling.expand(asked, desk.state), desk.state)
    search(run, run.enter_trials(first))
    searched.clear()
    run.search_rounds()
    assert searched == [4, 8, 10][:rounds]
    assert bool(desk.notes) is (hours == 1)


def test_the_checkpoints_of_what_was_stopped_go_and_those_of_what_was_dropped_stay(tmp_path):
    asked = study()
    desk = Desk(begun(asked))
    run = run_of(asked, desk, tmp_path)
    trials = run.enter_trials(grid.expand(asked))
    dropped, pruned = trials
    for trial, reason in ((dropped, f"{OVER_BUDGET}no room"), (pruned, "far behind")):
        (run.folder.trial(trial) / "last-0001-000000").mkdir(parents=True)
        end(desk, trial, "PRUNED", reason)
    run.keep_within_budget(trials)
    assert [path.parent.name for path in run.folder.path.glob("trials/*/last-*")] == [dropped]


@pytest.mark.parametrize(
    ("adaptation", "slot", "threads", "processes"),
    [
        ("finetune", Slot(8, 2.0), 4, 2),  # the processes of a trial share its CPUs
        ("finetune", Slot(1, 2.0), 1, 2),
        ("finetune", Slot(3), 3, 1),
        ("probe", Slot(8, 2.0), 8, 1),  # an encoder on two GPUs, in one process
    ],
)
def test_the_search_knows_which_trials_share_features_and_each_trial_its_part_of_the_slot(
    tmp_path, monkeypatch, adaptation, slot, threads, processes
):
    asked = study(axes={**AXES, "adaptation": adaptation})
    desk = Desk(begun(asked))
    desk.together = nullcontext
    desk.progress.searching = lambda *_: None
    (dataset,) = grid.expand(asked).datasets
    run = run_of(asked, desk, tmp_path)
    run = replace(run, roots={key_of(dataset): tmp_path}, slots=SimpleNamespace(of=lambda _: slot))
    seen = {}

    def train_all(schedule, *, order, **_):
        assignment = schedule.next()
        seen["order"] = order(assignment)
        seen["others"] = len(schedule.heads())
        schedule.failed(assignment.trial, "bug", "over")
        schedule.failed(schedule.next().trial, "bug", "over")

    monkeypatch.setattr(ray_backend, "train_all", train_all)
    assert run.search(run.enter_trials(grid.expand(asked)))
    assert seen["others"] == (0 if adaptation == "probe" else 1)
    assert (seen["order"].operation.threads, seen["order"].operation.processes) == (threads, processes)
