"""What a schedule does when trials fail, processes go away and budgets bind."""

import errno
import random
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest

from search import failures, selection
from search.budget import Spending
from search.desk import Desk
from search.errors import StudyError
from search.forecast import Forecast
from search.ledger import Ledger
from search.study import Machine, StudyRun
from search.study_config import StudyConfig
from search.study_folder import StudyFolder
from search.study_sections import Budget, Pruning
from search.study_state import OVER_BUDGET
from tests.search.recorded import PRIMARY, Search, opening
from trainers import checkpoint_files
from trainers.parallel import LostProcessError
from trainers.trial import EpochMetrics

NONE = Pruning(pruner="none")
FLAT = [0.5] * 4
AXES = {"dataset": "phantom", "initialization": "random", "backbone": "test_vit3", "resolution": 32}


def lose(search: Search, kinds: list[str]) -> None:
    """Start the first trial again and again, and lose its process in each of these ways."""
    for kind in kinds:
        assignment = search.schedule.next()
        assert assignment is not None
        search.schedule.interrupted(assignment.trial, kind, "gone")


@pytest.mark.parametrize(
    ("kinds", "reason"),
    [
        (["process_died"] * 3, None),
        (["process_died"] * 4, "process_died: 4 times, the last: gone"),
        (["host_memory"] * 4, "host_memory: 4 times, the last: gone"),
        (["node_lost"] * 40, None),
        (["process_died", "node_lost", "host_memory"] * 3, None),
        (["process_died", "node_lost"] * 3 + ["process_died"], "process_died: 4 times, the last: gone"),
    ],
)
def test_a_lost_process_is_tried_again_as_its_policy_says(kinds, reason):
    search = Search({"a": FLAT}, pruning=NONE)
    lose(search, kinds)
    assert search.state.trials["a"].reason == (reason or "")
    assert search.state.trials["a"].done is bool(reason)
    if not reason:
        search.run()
        assert search.ends() == {"a": "COMPLETE"}


def test_attempts_are_counted_over_a_restart_of_the_driver_and_forgotten_when_reopened():
    search = Search({"a": FLAT}, pruning=NONE)
    lose(search, ["process_died"] * 3)
    again = Search({"a": FLAT}, pruning=NONE, events=search.events)
    lose(again, ["process_died"])
    assert again.ends() == {"a": "FAILED"}
    again.record({"kind": "reopened", "trial": "a", "reason": "run --retry-failed"})
    assert again.state.trials["a"].interruptions == []


@pytest.mark.parametrize(
    ("kind", "others"),
    [("data", "FAILED")]
    + [(kind, "COMPLETE") for kind in ("bug", "out_of_memory", "non_finite", "weights", "configuration")],
)
def test_data_that_cannot_be_read_stop_the_cell_and_no_other(kind, others):
    curves = dict.fromkeys(("b", "a", "c", "other"), FLAT)
    search = Search(curves, cells={"other": "two"}, pruning=NONE, fails={"a": 2}, kind=kind)
    search.run()
    assert search.ends()["other"] == "COMPLETE"
    assert [search.ends()["b"], search.ends()["c"]] == [others, others]
    if others == "FAILED":
        assert search.state.trials["b"].reason == "data: not begun, since another trial of its cell failed by it"
        assert search.state.trials["b"].starts == []


def test_trials_of_the_cell_that_were_begun_go_on():
    """Their own images could be read so far."""
    search = Search(dict.fromkeys(("a", "b", "c"), FLAT), pruning=NONE, fails={"b": 1}, kind="data")
    search.run(slots=2)  # b and another one have begun
    assert sorted(search.ends().values()) == ["COMPLETE", "FAILED", "FAILED"]


def test_a_full_disk_stops_the_study_and_the_next_run_goes_on():
    search = Search(dict.fromkeys("ab", FLAT), pruning=NONE, fails={"a": 2}, kind="disk_full")
    with pytest.raises(StudyError, match="trial a: its disk is full; the study stops, make room and run it again"):
        search.run()
    assert search.ends() == {"a": "None", "b": "None"}
    again = Search(dict.fromkeys("ab", FLAT), pruning=NONE, events=search.events)
    again.run()
    assert again.ends() == {"a": "COMPLETE", "b": "COMPLETE"}


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "disk_full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk_full"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        (MemoryError(), "host_memory"),
        (LostProcessError("process 1 of 2 ended with exit code -9"), "process_died"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "host_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), "host_memory"),
        (OSError(errno.EIO, "Input/output error"), "bug"),
        (KeyError("a"), "bug"),
    ],
)
def test_a_full_disk_or_memory_is_nobodys_bug(failure, kind):
    assert failures.class_of(failure) == kind
    try:
        raise ValueError("the checkpoint was not written") from failure
    except ValueError as wrapped:
        assert failures.class_of(wrapped) == kind
    amid = KeyError("what came of it while it was handled")
    amid.__context__ = failure
    assert failures.class_of(amid) == kind


def test_every_kind_a_trial_can_tell_has_a_policy():
    from typing import get_args, get_type_hints

    from trainers.trial import TrialError

    kinds = get_args(get_type_hints(TrialError.__init__)["kind"])
    assert set(kinds) <= set(failures.POLICIES)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("The actor died unexpectedly before finishing this task. Worker unexpectedly exits", "process_died"),
        ("The actor died because its node has died. Node Id: 1f", "node_lost"),
        ("The actor died because the node was preempted.", "node_lost"),
        (
            "ray.exceptions.ActorUnavailableError: The actor 33 is unavailable: The actor is temporarily unavailable: "
            "RpcError: RPC error: Socket closed rpc_code: 14. The task may or may not have been executed on the actor.",
            "node_lost",
        ),
        ("Task was killed due to the node running low on memory.", "host_memory"),
        ("The worker crashed: OSError: [Errno 11] Resource temporarily unavailable", "process_died"),
        ("", "process_died"),
    ],
)
def test_what_ray_says_of_a_lost_process_is_classified(said, kind):
    assert failures.class_of_loss(said)[0] == kind


@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("seed", range(20))
def test_nodes_that_go_away_at_any_moment_change_nothing_in_the_end(slots, seed):
    """Also after a rung's last epoch was told and before its end: whoever is asked next may decide the rung."""
    cells = {trial: f"cell {number % 2}" for number, trial in enumerate("fedcba")}
    curves = {trial: [0.5 + 0.03 * place + 0.01 * e for e in range(8)] for place, trial in enumerate("fedcba")}
    undisturbed, search = Search(curves, cells=cells), Search(curves, cells=cells)
    undisturbed.run()
    chance = random.Random(seed)
    search.run(slots=slots, order=chance.choice, loses=lambda: chance.random() < 0.2)
    assert search.ends() == undisturbed.ends()
    assert sum(event["kind"] == "interrupted" for event in search.events) > 0


def test_the_time_between_a_killed_run_and_the_next_is_nobodys_use(tmp_path):
    """A budget is asked before the next run has told of its beginning."""
    hour = 3_600_000
    search = Search({"a": FLAT, "b": FLAT}, pruning=NONE, gpus=2.0)
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        ledger.append(*search.events)
        ledger.append({"kind": "started", "trial": "a", "time_ms": hour, "gpus": 2.0})
        told = {"epoch": 1, "timestamp_ms": 2 * hour, "metrics": {PRIMARY: 0.5}, "undefined": []}
        ledger.append({"kind": "epoch", "trial": "a", **told})
    with Ledger(path) as ledger:
        state = Desk(None, ledger, None, None).state
        budget = Budget(gpu_hours=3, wall_clock_hours=3)
        spending = Spending(budget, search.entries, state, now=lambda: 100 * hour)
        assert spending.exhausted() is None
        assert (state.trials["a"].use.gpu_seconds, state.wall.seconds) == (2 * 3600, 2 * 3600)


def test_a_budget_counts_trials_that_are_asked_for_no_more():
    first = Search({"a": FLAT, "b": FLAT}, pruning=NONE, gpus=1.0)
    first.run()
    used = sum(progress.use.gpu_seconds for progress in first.state.trials.values())
    budget = Budget(gpu_hours=used / 3600)
    other = Search({"c": FLAT}, events=[*first.events, *opening(Search({"c": FLAT}).entries)[2:]], budget=budget)
    assert other.schedule.out_of_budget.startswith("GPU-hours: ")


def test_time_is_counted_over_attempts_pauses_and_cut_off_runs():
    search = Search({"a": FLAT, "b": FLAT}, pruning=NONE, gpus=0.5)
    search.run(stop_after=6)  # a whole, b cut off in the middle
    again = Search({"a": FLAT, "b": FLAT}, pruning=NONE, gpus=0.5, events=search.events)
    again.record({"kind": "study", "study": {}, "version": "test", "time_ms": again.moment() + 3_600_000})
    again.clock.now += 7_200_000  # nobody worked in these hours
    again.run()
    for trial in ("a", "b"):
        use = again.state.trials[trial].use
        assert use.seconds == pytest.approx(4, abs=0.1)
        assert use.gpu_seconds == pytest.approx(2, abs=0.05)


def test_an_attempt_that_was_lost_is_counted_up_to_its_loss_and_no_further():
    search = Search({"a": FLAT}, pruning=NONE, gpus=0.5)
    trial = search.schedule.next().trial
    search.schedule.epoch(trial, EpochMetrics(epoch=1, timestamp_ms=search.moment(), metrics={PRIMARY: 0.5}))
    search.clock.now += 30_000  # half an epoch more, and then it went away
    search.schedule.interrupted(trial, "node_lost", "gone")
    search.clock.now += 3_600_000  # until a node came back
    search.run()
    use = search.state.trials["a"].use
    assert use.seconds == pytest.approx(1 + 30 + 3, abs=0.1)
    assert use.gpu_seconds == pytest.approx(use.seconds / 2)


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_a_budget_drops_what_tells_least_and_leaves_every_cell_a_finished_run(slots, seed):
    curves = {f"{cell}{n}": [0.5 + n / 100] * 4 for cell in "xyz" for n in range(4)}
    cells = {name: name[0] for name in curves}
    whole = 12 * 4 * slots  # one slot moves at a time, and every one that is held counts
    search = Search(curves, cells=cells, pruning=NONE, gpus=1.0, budget=Budget(gpu_hours=whole / 2 / 3600))
    search.run(slots=slots, order=random.Random(seed).choice)
    used = sum(progress.use.gpu_seconds for progress in search.state.trials.values())
    dropped = [p for p in search.state.trials.values() if p.reason.startswith(OVER_BUDGET)]
    assert used <= whole / 2 + slots * slots
    assert dropped
    assert all("this trial would tell least" in progress.reason for progress in dropped)
    for cell in "xyz":
        assert "COMPLETE" in [search.ends()[name] for name in curves if name[0] == cell]


@pytest.mark.parametrize("slots", [2, 6, 100])
@pytest.mark.parametrize("share", [0.6, 0.75])
@pytest.mark.parametrize("points", [2, 5])
@pytest.mark.parametrize("pruner", ["cell_race", "none", "median"])
def test_under_a_budget_every_cell_keeps_one_that_finishes_however_many_train_at_once(pruner, points, share, slots):
    """Also where all trials wait at a rung that stops nobody, and where all have begun before anything is known."""
    chance = random.Random(0)
    curves = {
        f"{cell}{point}": [0.6 + 0.2 * (1 - 0.8**e) + 0.002 * point + chance.gauss(0, 0.003) for e in range(16)]
        for cell in "uvwxyz"
        for point in range(points)
    }
    limit = share * 16 * len(curves)
    search = Search(
        curves,
        cells={name: name[0] for name in curves},
        pruning=Pruning(pruner=pruner, spare_share=0.0),
        gpus=1.0,
        budget=Budget(gpu_hours=limit / 3600),
    )
    search.run_side_by_side(slots=slots)
    outcomes = {name: progress.outcome for name, progress in search.state.trials.items()}
    assert {name[0] for name, outcome in outcomes.items() if outcome == "COMPLETE"} == set("uvwxyz")
    assert set(outcomes.values()) <= {"COMPLETE", "PRUNED", "DROPPED"}
    used = sum(progress.use.gpu_seconds for progress in search.state.trials.values())
    assert 0.8 * limit <= used <= limit or "DROPPED" not in outcomes.values()


def test_a_slow_start_is_not_taken_for_slow_epochs():
    """It takes as long as five epochs; foreseen by the first epoch alone, most trials would have to go."""
    curves = {f"{cell}{n}": [0.5 + n / 100] * 20 for cell in "xyz" for n in range(4)}
    budget = Budget(gpu_hours=1.1 * len(curves) * (5 + 20) / 3600)
    search = Search(curves, cells={name: name[0] for name in curves}, pruning=NONE, gpus=1.0, budget=budget)
    search.run_side_by_side(slots=len(curves), seconds_to_start=5)
    assert set(search.ends().values()) == {"COMPLETE"}


def test_a_budget_takes_from_cheap_and_dear_cells_alike():
    """Cells of 16, 8, 4 and 2 s a trial, and room for two thirds of it all."""
    seconds = {"a": 16, "b": 8, "c": 4, "d": 2}
    curves = {f"{cell}{n}": [0.5] * epochs for cell, epochs in seconds.items() for n in range(5)}
    cells = {name: name[0] for name in curves}
    search = Search(curves, cells=cells, pruning=NONE, gpus=1.0, budget=Budget(gpu_hours=100 / 3600))
    search.run()
    left = Counter(trial[0] for trial, progress in search.state.trials.items() if not progress.dropped)
    assert max(left.values()) - min(left.values()) <= 1


def test_a_budget_takes_whole_points_and_one_that_lacks_a_seed_for_it_may_win():
    values = {"low": 0.6, "mid": 0.7, "high": 0.9}
    curves = {f"{point}{seed}": [value] * 4 for point, value in values.items() for seed in range(3)}
    points = {name: float(list(values).index(name[:-1])) for name in curves}
    winners = {}
    for limit in (36, 34, 30, 28, 20):
        budget = Budget(gpu_hours=limit / 3600)
        search = Search(curves, searched=points, pruning=NONE, gpus=1.0, budget=budget)
        search.run()
        dropped = Counter(name[:-1] for name, progress in search.state.trials.items() if progress.dropped)
        assert len([number for number in dropped.values() if number < 3]) <= 1
        (winner,) = selection.winners(search.state, dict.fromkeys(curves, "cell"))
        winners[limit] = (winner.trial[:-1], sorted(dropped.items()))
    assert {limit: point for limit, (point, _) in winners.items() if limit >= 34} == {36: "high", 34: "high"}


@pytest.mark.parametrize("slots", [1, 4, 8])
def test_what_is_begun_under_a_budget_is_finished(slots):
    """Of 32 trials a third fits: what was dropped says nothing of how long a trial takes, what runs says it."""
    curves = {f"{cell}{n}": [0.5 + n / 100] * 10 for cell in "wxyz" for n in range(8)}
    cells = {name: name[0] for name in curves}
    budget = Budget(gpu_hours=32 * 10 * slots / 3 / 3600)
    search = Search(curves, cells=cells, pruning=NONE, gpus=1.0, budget=budget)
    search.run(slots=slots, order=lambda busy: min(busy, key=lambda slot: slot[1]))
    ends = search.ends()
    assert set(ends.values()) == {"COMPLETE", "PRUNED"}
    assert {name[0] for name, end in ends.items() if end == "COMPLETE"} == set("wxyz")
    assert all(not p.epochs for p in search.state.trials.values() if p.dropped)
    assert list(ends.values()).count("COMPLETE") >= 8


def test_a_budget_that_is_used_up_stops_the_search_and_a_larger_one_goes_on():
    curves = {"a": FLAT, "b": FLAT}
    search = Search(curves, cells={"b": "two"}, pruning=NONE, gpus=1.0, budget=Budget(gpu_hours=6 / 3600))
    search.run()
    assert search.schedule.out_of_budget == "GPU-hours: 0.00167 of 0.00167 h are used"
    assert search.ends() == {"a": "COMPLETE", "b": "None"}
    assert len(search.state.trials["b"].epochs) == 2
    assert search.state.trials["b"].use.since_ms is None  # it has left its slot
    again = Search(curves, cells={"b": "two"}, pruning=NONE, gpus=1.0, events=search.events)
    again.run()
    assert again.ends() == {"a": "COMPLETE", "b": "COMPLETE"}


def test_a_budget_that_is_used_up_by_the_last_epoch_leaves_nothing_to_stop():
    search = Search({"a": FLAT}, pruning=NONE, gpus=1.0, budget=Budget(gpu_hours=4 / 3600))
    search.run()
    assert search.ends() == {"a": "COMPLETE"}
    assert search.state.trials["a"].use.gpu_seconds >= 4
    assert search.schedule.out_of_budget is None


def test_a_budget_that_leaves_no_room_is_heeded_before_anything_starts():
    curves = dict.fromkeys("abc", FLAT)
    first = Search(curves, pruning=NONE, gpus=1.0)
    first.run(stop_after=5)  # the first one whole
    lower = Search(curves, pruning=NONE, gpus=1.0, budget=Budget(gpu_hours=6 / 3600), events=first.events)
    lower.run()
    assert sorted(progress.outcome for progress in lower.state.trials.values()) == ["COMPLETE", "DROPPED", "DROPPED"]
    assert "started" not in [event["kind"] for event in lower.events[len(first.events) :]]


def test_a_budget_of_bytes_holds_while_the_search_goes_on_and_for_what_is_asked_for_no_more(tmp_path):
    folder = StudyFolder(tmp_path, "s")
    search = Search({"old": [0.9], "a": [0.5], "b": [0.6]}, pruning=NONE)
    search.run()
    for trial in search.curves:
        best = folder.trial(trial) / "best-0001"
        best.mkdir(parents=True)
        (best / "network.safetensors").write_bytes(bytes(1000))
        (best / checkpoint_files.MARKER).touch()
    study = StudyConfig.model_validate({"name": "s", "axes": AXES, "budget": {"checkpoint_gb": 1.5e-6}})
    cell = SimpleNamespace(cell=SimpleNamespace(name="cell"))
    asked = {"a": cell, "b": cell}
    run = StudyRun(study, Machine(tmp_path), folder, {}, SimpleNamespace(of=None), SimpleNamespace(state=search.state))
    run._tidy("b", asked)  # as when a trial has left its slot
    assert [path.parts[-2] for path in folder.path.glob("trials/*/best-0001")] == ["b"]


def dropped(told, *, room, ended=(), gpus=1.0, **words):
    """Name the trials that go, in order, of a cell whose trials told these values, an epoch of four a second each."""
    search = Search(dict.fromkeys(told, FLAT), pruning=NONE, gpus=gpus, **words)
    for trial, values in told.items():
        if values:
            search.record({"kind": "started", "trial": trial, "time_ms": search.clock.now, "gpus": gpus})
        for epoch, value in enumerate(values, 1):
            metrics = {} if value is None else {PRIMARY: value}
            search.record(
                {"kind": "epoch", "trial": trial, "epoch": epoch, "timestamp_ms": search.moment(), "metrics": metrics}
            )
        if trial in ended:
            end = {"state": "PRUNED", "reason": "", "time_ms": search.clock.now, "result": None}
            search.record({"kind": "ended", "trial": trial, **end})
        elif values:
            search.record({"kind": "paused", "trial": trial, "time_ms": search.clock.now})
    used = gpus * sum(map(len, told.values()))
    spending = Spending(Budget(gpu_hours=(used + room) / 3600), search.entries, search.state, now=search.clock)
    return list(spending.to_drop(lambda trial, leaving: len(set(told) - set(ended) - leaving) > 1))


BEGUN = {"a": [0.5, 0.9], "b": [0.5, 0.6], "c": [0.5, 0.8], "d": [0.5, 0.7]}
"""What is left of each takes 2 s, and 2.1 s with some room: 8.4 s in all."""


@pytest.mark.parametrize(
    ("told", "words", "names"),
    [
        (BEGUN, {"room": 8.5}, []),
        (BEGUN, {"room": 6.35}, ["b"]),
        (BEGUN, {"room": 6.25}, ["b", "d"]),
        (BEGUN, {"room": 1.0}, ["b", "d", "c"]),  # the last one of a cell stays
        ({"a": [0.9, 0.4], "b": [0.9, 0.6], "c": [0.9, 0.5]}, {"room": 4.25, "direction": "minimize"}, ["b"]),
        ({key: [0.5, 0.6] for key in "abcd"}, {"room": 6.25}, ["d", "c"]),  # of equals those that stand last
        (BEGUN, {"room": 12.7, "gpus": 2.0}, ["b"]),
        ({**BEGUN, "b": [0.5, 0.6, 0.6, 0.6]}, {"room": 4.25}, ["d"]),  # "b" has only to say that it is over
        (BEGUN | {"e": []}, {"room": 8.5}, ["e"]),  # 4.2 s
        # "f" is of a cell with fewer others, but has not begun; a seed of its point has.
        (
            BEGUN | {"e": [0.5, 0.5], "f": []},
            {"room": 12.7, "cells": {"e": "small", "f": "small"}, "searched": {"e": 9.0, "f": 9.0}},
            ["f"],
        ),
        # "f" is a seed of the point of "a", "e" would be a new one.
        (BEGUN | {"e": [], "f": []}, {"room": 12.7, "searched": {"a": 9.0, "f": 9.0}}, ["e"]),
        ({k: [0.5] for k in "abc"} | {"e": []}, {"room": 9.5, "direction": "minimize", "ended": "c"}, ["e"]),
        ({"undefined": [None, None], "a": [0.5, 0.4], "b": [0.5, 0.3]}, {"room": 4.5}, ["undefined"]),
        (
            {"undefined": [None, None], "a": [0.5, 0.4], "b": [0.5, 0.3]},
            {"room": 4.5, "direction": "minimize"},
            ["undefined"],
        ),
    ],
)
def test_under_a_budget_those_go_first_that_have_not_begun_and_then_the_lowest(told, words, names):
    assert dropped(told, **words) == names


def ran(search, trial, *seconds):
    """Let a trial start at the first of these times and tell an epoch at each of the others."""
    start, *epochs = (1000 * second for second in seconds)
    search.record({"kind": "started", "trial": trial, "time_ms": start, "gpus": 1.0})
    for epoch, time_ms in enumerate(epochs, 1):
        told = {"epoch": epoch, "timestamp_ms": time_ms, "metrics": {PRIMARY: 0.5}}
        search.record({"kind": "epoch", "trial": trial, **told})


def over(search, trial, second, *, state="PRUNED", reason=""):
    end = {"state": state, "reason": reason, "time_ms": 1000 * second, "result": None}
    search.record({"kind": "ended", "trial": trial, **end})


def test_of_the_clock_a_trial_takes_its_share_where_several_run_at_once():
    """Two of four ran side by side for 2 s; the 12 s that are left take 6.3 s with some room."""
    search = Search(dict.fromkeys("abcd", FLAT), pruning=NONE)
    for trial in "ab":
        ran(search, trial, 0, 1, 2)
    for limit, names in ((8.4, []), (8.2, ["d"])):
        budget = Budget(wall_clock_hours=limit / 3600)
        spending = Spending(budget, search.entries, search.state, now=lambda: 2000)
        assert list(spending.to_drop(lambda *_: True)) == names


def test_what_one_budget_drops_another_one_need_not_find_room_for():
    """8 s are left; GPU-hours have room for three of four trials, and so has the clock."""
    search = Search(dict.fromkeys(BEGUN, FLAT), pruning=NONE, gpus=1.0)
    for number, trial in enumerate(BEGUN):
        ran(search, trial, 2 * number, 2 * number + 1, 2 * number + 2)
        search.record({"kind": "paused", "trial": trial, "time_ms": 2000 * number + 2000})
    budget = Budget(gpu_hours=14.35 / 3600, wall_clock_hours=14.35 / 3600)
    told = Spending(budget, search.entries, search.state, now=lambda: 8000).to_drop(lambda *_: True)
    assert told == {
        "d": f"{OVER_BUDGET}the rest of the search would take 0.00233 h of GPU-hours, 0.00176 h are left; "
        "this trial would tell least"
    }


def foreseen(search, look=1):
    return Forecast({e.trial: e for e in search.entries}, search.state, lambda entry: look).seconds()


def test_pruning_is_foreseen_as_it_went_where_it_is_over():
    """In cell 1 one trial finished, one was stopped half-way and one dropped; cell 4 stopped one, and is not over.

    An epoch takes 3 s in cell 2 and 1 s in cell 1; in the others as long as on average, or by its cost.
    """
    cells = {"a": "1", "b": "1", "dropped": "1", "c": "2", "d": "2", "e": "3", "f": "3", "g": "4", "h": "4"}
    search = Search(dict.fromkeys(cells, FLAT), cells=cells, pruning=NONE)
    ran(search, "a", 0, 1, 2, 3, 4)
    over(search, "a", 4, state="COMPLETE")
    ran(search, "b", 0, 1, 2)
    over(search, "b", 2)
    over(search, "dropped", 2, reason=OVER_BUDGET)
    ran(search, "c", 0, 5, 8)
    ran(search, "g", 0, 1)
    over(search, "g", 1)
    mean = (3 + 1 + 3) / (3 + 1 + 1)  # seconds of an epoch that no start is ahead of
    expected = {"c": 2 * 3, "d": 2 * 3, "e": 4 * mean, "f": 2 * mean, "h": 4 * mean}
    assert foreseen(search) == pytest.approx(expected)
    assert foreseen(search, look=3) == pytest.approx(expected | {"d": 3 * 3, "f": 3 * mean})
    search.entries = [replace(entry, cost=2.0 if entry.trial == "h" else 1.0) for entry in search.entries]
    assert foreseen(search) == pytest.approx(expected | {"h": 2 * 4 * mean})


def test_the_one_that_finishes_a_cell_is_no_spared_one():
    """It only shows what stopping it would have cost; whether its cell has a winner does not rest on it."""
    search = Search(dict.fromkeys("ab", FLAT), pruning=NONE)
    for trial in "ab":
        ran(search, trial, 0, 1, 2)
    search.record({"kind": "decision", "trial": "a", "epoch": 2, "action": "spare", "reason": ""})
    assert foreseen(search, look=3) == {"a": 1, "b": 2}


def test_a_trial_that_was_stopped_amid_an_epoch_does_not_tell_how_long_one_takes():
    search = Search(dict.fromkeys("abc", FLAT), pruning=NONE)
    assert foreseen(search) == {}
    ran(search, "a", 0, 5)
    over(search, "a", 5)
    ran(search, "b", 0)
    over(search, "b", 3, reason=OVER_BUDGET)
    assert foreseen(search) == {"c": 4 * 5}


def search_on_features(cells, stores, costs):
    search = Search(dict.fromkeys(cells, FLAT), cells=cells, stores=stores, pruning=NONE)
    search.entries = [replace(entry, cost=costs[entry.store]) for entry in search.entries]
    return search


def test_features_that_nobody_has_computed_are_foreseen_once_and_for_one_that_finishes():
    """Those of store "one" took 100 s, a pass of the encoder of "two" costs twice as much; a head's epoch takes 1 s."""
    cells = {"a": "1", "b": "1", "c": "2", "d": "2", "e": "3"}
    stores = {"a": "one", "b": "one", "c": "two", "d": "two", "e": "two"}
    search = search_on_features(cells, stores, {"one": 1.0, "two": 2.0})
    assert foreseen(search) == {}
    ran(search, "a", 0, 100)
    assert foreseen(search) == {"a": 0, "b": 0, "c": 0, "d": 0, "e": 200}  # nothing is known of heads yet
    search = search_on_features(cells, stores, {"one": 1.0, "two": 2.0})
    ran(search, "a", 0, 100, 101, 102, 103)
    over(search, "a", 103, state="COMPLETE")
    ran(search, "b", 103, 104, 105)
    assert foreseen(search) == {"b": 0, "c": 4, "d": 1, "e": 4 + 200}


@pytest.mark.parametrize(
    ("ran_first", "expected"),
    [
        # An epoch of "c" takes 10 s for a cost of 10: an encoder's pass takes 4 for 4 x 1.
        ("c", {"a": 4, "b": 0, "c": 2 * 10, "d": 1 * 10}),
        # An encoder took 20 s for its pass: an epoch at a cost of 10 takes 50, and another encoder's pass 20.
        ("a", {"a": 2 * 1, "b": 1 * 1, "c": 4 * 50, "d": 1 * 50}),
    ],
)
def test_passes_of_encoders_and_epochs_on_images_tell_of_each_other(ran_first, expected):
    cells = {"a": "1", "b": "1", "c": "2", "d": "2"}
    search = search_on_features(cells, {"a": "one", "b": "one"}, {"one": 1.0, None: 10.0})
    ran(search, ran_first, 0, 20, 30 if ran_first == "c" else 21)
    assert foreseen(search) == expected


def test_what_an_encoder_took_tells_of_encoders_more_than_epochs_on_images_do():
    cells = {"a": "1", "b": "2", "c": "3"}
    search = search_on_features(cells, {"a": "one", "b": "two"}, {"one": 1.0, "two": 1.0, None: 1.0})
    ran(search, "a", 0, 20, 21)
    ran(search, "c", 0, 100, 200)
    assert foreseen(search) == {"a": 2, "b": 4 + 20, "c": 2 * 100}


def test_without_pruning_everything_trains_to_its_end_and_what_is_to_come_as_its_cell():
    cells = {"a": "1", "b": "1", "c": "2", "d": "2"}
    search = search_on_features(cells, {"a": "one", "b": "one", "c": "two", "d": "two"}, {"one": 1.0, "two": 1.0})
    forecast = Forecast({e.trial: e for e in search.entries}, search.state, lambda entry: entry.epochs)
    assert forecast.at_most() is None
    ran(search, "a", 0, 20, 22)
    to_come = [replace(search.entries[0], trial="e", epochs=10)]
    assert forecast.at_most(to_come) == {"a": 4, "b": 8, "c": 8, "d": 8 + 20, "e": 20}


def test_a_cell_that_searches_adaptations_has_epochs_on_images_and_on_features():
    search = search_on_features(dict.fromkeys("abcd", "1"), {"a": "one", "b": "one"}, {"one": 1.0, None: 10.0})
    ran(search, "a", 0, 20, 21)
    ran(search, "c", 0, 20, 70)
    assert foreseen(search) == {"a": 2, "b": 1, "c": 0, "d": 50}


def test_nothing_is_foreseen_by_the_first_tenth_of_a_budget_unless_a_trial_has_ended():
    told = {"a": [0.5, 0.5]} | {name: [] for name in "bcdefgh"}
    assert dropped(told, room=18.5) == []  # 30 s would be needed, but these are the first two of 20.5
    assert dropped(told, room=17.5) != []
    assert dropped(told, room=18.5, ended="a") != []


def test_wall_clock_counts_runs_and_not_the_time_between_them():
    search = Search({"a": FLAT}, pruning=NONE, budget=Budget(wall_clock_hours=2.5 / 3600))
    search.run()
    assert search.schedule.out_of_budget
    assert len(search.state.trials["a"].epochs) == 3
    search.clock.now += 60_000  # winners are measured
    search.record({"kind": "closed", "status": "FINISHED", "time_ms": search.clock.now})
    search.clock.now += 10_000_000
    search.record({"kind": "study", "study": {}, "version": "test", "time_ms": search.clock.now})
    assert search.state.wall.seconds == pytest.approx(63, abs=0.1)
