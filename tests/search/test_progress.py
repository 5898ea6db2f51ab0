import io
import json

import pytest
from rich.console import Console

from search import progress
from search.errors import StudyError
from tests.search.recorded import Search

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
