import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from search import progress
from search.errors import StudyError
from search.study_sections import Pruning
from search.study_state import OVER_BUDGET
from tests.search.recorded import PRIMARY, Search

CURVES = {"t1": [0.6, 0.7], "t2": [0.5, 0.8]}


def shown(kind, search):
    console = Console(file=io.StringIO(), width=200)
    shows = progress.create(kind, console)
    shows.searching(search.entries, search.state)
    shows.close()
    return console.file.getvalue()


def test_a_program_hears_where_a_finished_study_stands(capsys):
    search = Search(CURVES)
    search.run(slots=2)
    shown("json", search)
    (line,) = capsys.readouterr().out.splitlines()
    now = json.loads(line)["progress"]
    counts = {name: now[name] for name in ("cells", "trials", "complete", "running", "epochs", "epochs_left")}
    assert counts == {"cells": 1, "trials": 2, "complete": 2, "running": 0, "epochs": 4, "epochs_left": 0}
    assert (now["seconds_left"], now["best"]) == (0.0, {"cell": 0.8})


def test_time_left_is_unknown_before_the_first_epoch(capsys):
    search = Search(CURVES)
    shown("json", search)
    now = json.loads(capsys.readouterr().out)["progress"]
    assert (now["epochs_left"], now["seconds_left"], now["best"]) == (4, None, {})


def test_epochs_of_earlier_runs_tell_nothing_of_the_speed_of_this_one(capsys):
    search = Search(CURVES, pruning=Pruning(pruner="none"))
    search.run(slots=2, stop_after=2)
    shown("json", search)
    now = json.loads(capsys.readouterr().out)["progress"]
    assert (now["epochs"], now["epochs_left"], now["running"], now["seconds_left"]) == (2, 2, 2, None)


@pytest.mark.parametrize(
    ("told", "left"),
    [
        ({}, None),
        # Epochs of 10 s at a cost of 1, two at once: 4 of these are left, and of another trial 4 at a cost of 20.
        ({"a": (0, 10, 20), "b": (0, 10, 20)}, 4 * 200),
        ({"a": (0, 10, 20)}, 2 * 10 + 4 * 10 + 4 * 200),  # one after the other
        ({"a": (0, 10, 20, 30, 40), "b": (0, 10, 20, 30, 40), "large": (40, 240, 440)}, 2 * 200),
        ({"large": (0, 200, 400)}, 2 * 200 + 2 * 4 * 10),
        ({"large": (0, 210)}, 3 * 210 + 2 * 4 * 210 / 20),  # with its start, while nothing else is known
    ],
)
def test_time_left_follows_from_what_epochs_cost_and_from_the_longest_trial(told, left):
    search = Search(dict.fromkeys(("a", "b", "large"), [0.5] * 4), cells={"large": "large"})
    entries = [replace(entry, cost=20.0 if entry.trial == "large" else 1.0) for entry in search.entries]
    shows = progress.create("json", Console(file=io.StringIO()))
    shows.searching(entries, search.state)
    events = [(seconds[0], 0, trial) for trial, seconds in told.items()]
    events += [(at, epoch, trial) for trial, seconds in told.items() for epoch, at in enumerate(seconds[1:], 1)]
    for at, epoch, trial in sorted(events):
        if epoch:
            search.record(
                {"kind": "epoch", "trial": trial, "epoch": epoch, "timestamp_ms": 1000 * at, "metrics": {PRIMARY: 0.5}}
            )
            if epoch == 4:
                search.record(
                    {
                        "kind": "ended",
                        "trial": trial,
                        "state": "COMPLETE",
                        "reason": "",
                        "time_ms": 1000 * at,
                        "result": None,
                    }
                )
        else:
            search.record({"kind": "started", "trial": trial, "time_ms": 1000 * at, "gpus": 0.0})
    assert shows.snapshot(search.state).seconds_left == left


def test_time_left_is_unknown_until_this_run_has_trained_an_epoch():
    search = Search(CURVES, pruning=Pruning(pruner="none"))
    search.run(slots=2, stop_after=2)
    shows = progress.create("json", Console(file=io.StringIO()))
    shows.searching(search.entries, search.state)
    search.record({"kind": "started", "trial": "t2", "time_ms": search.moment(), "gpus": 0.0})
    assert shows.snapshot(search.state).seconds_left is None
    told = {"epoch": 1, "timestamp_ms": search.moment(), "metrics": {PRIMARY: 0.7}}
    search.record({"kind": "epoch", "trial": "t2", **told})
    assert shows.snapshot(search.state).seconds_left is not None


def test_who_was_stopped_has_no_epochs_left_and_is_counted_by_what_stopped_it(capsys):
    curves = {"good": [0.9] * 4, "poor": [0.5] * 4, "fails": [0.9] * 4, "drops": [0.9] * 4, "waits": [0.9] * 4}
    search = Search(curves, gpus=0.5)
    result = {"state": "COMPLETE", "epochs": 4, "best_epoch": 1, "best_value": 0.9}
    for trial, state, reason in (
        ("good", "COMPLETE", ""),
        ("poor", "PRUNED", "far behind"),
        ("fails", "FAILED", "bug: x"),
        ("drops", "PRUNED", f"{OVER_BUDGET}no room"),
    ):
        search.record({"kind": "started", "trial": trial, "time_ms": 0, "gpus": 0.5})
        told = result if state == "COMPLETE" else None
        search.record(
            {"kind": "ended", "trial": trial, "state": state, "reason": reason, "time_ms": 7_200_000, "result": told}
        )
    search.record({"kind": "started", "trial": "waits", "time_ms": 7_200_000, "gpus": 0.5})
    shown("json", search)
    now = json.loads(capsys.readouterr().out)["progress"]
    counts = {name: now[name] for name in ("complete", "pruned", "failed", "dropped", "running", "epochs_left")}
    assert counts == {"complete": 1, "pruned": 1, "failed": 1, "dropped": 1, "running": 1, "epochs_left": 4}
    assert (now["gpus"], now["gpu_hours"]) == (0.5, 4.0)


@pytest.mark.parametrize(
    ("gpus", "told"), [(0, "2 running, "), (0.25, " on 0.5 GPUs,"), (0.5, " on 1 GPU,"), (2, " on 4 GPUs,")]
)
def test_a_line_says_how_many_gpus_are_in_use(gpus, told):
    search = Search(CURVES, gpus=gpus)
    assert search.schedule.next() and search.schedule.next()
    assert told in shown("lines", search)


def test_a_log_has_no_line_for_every_epoch():
    search = Search({"t1": [0.6, 0.7], "t2": [0.5, 0.8]})
    console = Console(file=io.StringIO(), width=200)
    lines = progress.create("lines", console)
    lines.due = lambda: True
    lines.searching(search.entries, search.state)
    for _ in range(3):
        lines.update(search.state)
    search.run()
    lines.update(search.state)
    assert [line.split()[0] for line in console.file.getvalue().splitlines()] == ["0/2", "2/2"]


@pytest.mark.parametrize("last", ["note", "close"])
@pytest.mark.parametrize("kind", ["lines", "json"])
def test_the_last_that_is_told_of_a_search_is_its_end_also_where_looks_were_put_off(kind, last, capsys):
    search = Search({"t1": [0.6, 0.7], "t2": [0.5, 0.8]})
    console = Console(file=io.StringIO(), width=200)
    shown = progress.create(kind, console)
    shown.searching(search.entries, search.state)
    shown.due = lambda: False
    search.run()
    shown.update(search.state)
    shown.note("measuring 1 winner") if last == "note" else shown.close()
    shown.close()
    told = [line[:9] for line in (console.file.getvalue() or capsys.readouterr().out).splitlines()]
    begun, ended, noted = {
        "lines": ("0/2 trial", "2/2 trial", "measuring"),
        "json": ('{"progres', '{"progres', '{"note": '),
    }[kind]
    assert told == [begun, ended, *([noted] if last == "note" else [])]


def test_a_log_says_in_words_where_it_stands():
    search = Search({"t1": [0.75]})
    search.run()
    line = "1/1 trials (1 complete, 0 pruned, 0 failed), 0 running, 1 epoch, best 0.7500 (cell), 0 s gone"
    assert line in shown("lines", search)


def test_a_terminal_shows_a_table_and_a_note_in_its_place_and_is_left_clean():
    search = Search({"t1": [0.75]})
    search.run()
    console = Console(file=io.StringIO(), width=100, force_terminal=True, record=True)
    live = progress.create("auto", console)
    live.searching(search.entries, search.state)
    live._live.refresh()
    table = console.file.getvalue()
    live.note("measuring 1 winner")
    live._live.refresh()
    live.close()
    told = console.file.getvalue()
    assert all(word in table for word in ("cell", "0.7500", "1 complete"))
    assert "measuring 1 winner" in told[len(table) :]
    assert told.endswith("\x1b[2K")  # its last line is erased


def test_an_unknown_kind_is_refused():
    with pytest.raises(StudyError, match="--progress loud: expected auto, live, lines, json"):
        progress.create("loud", Console(file=io.StringIO()))


@pytest.mark.parametrize(("direction", "best"), [("maximize", ("two", 0.9)), ("minimize", ("one", 0.6))])
def test_the_best_cell_is_the_one_that_the_task_calls_so(direction, best):
    search = Search({"t1": [0.6], "t2": [0.9]}, cells={"t1": "one", "t2": "two"})
    search.run()
    data = next(event for event in search.events if event["kind"] == "data")
    search.state.apply({**data, "declaration": {**data["declaration"], "direction": direction}})
    found = progress.best_by_cell(search.entries, search.state)
    assert next(iter(found.items())) == best
    assert f"best {best[1]:.4f} ({best[0]})" in shown("lines", search)
