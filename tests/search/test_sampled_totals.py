"""A study with a sampler, seen after its first round: what is still to be drawn counts everywhere."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from search import grid, progress, sampling
from search.candidate import best_winner
from search.errors import StudyError
from search.identity import entry_event, identified, key_of
from search.ledger import Ledger, read
from search.plan import Known, plan
from search.report import summary
from search.schedule import Entry
from search.status import show, status
from search.study_config import StudyConfig
from search.study_folder import StudyFolder
from search.study_sections import Budget
from search.study_state import StudyState
from tests.search.recorded import DECLARATION, PRIMARY

AXES = {"dataset": "vindr_pcxr", "initialization": "imagenet", "backbone": "vit_base", "resolution": 224}
CELL = "vindr_pcxr/imagenet/vit_base/224"


def study(trials: int = 6, recipe: dict | None = None) -> StudyConfig:
    """A cell of so many points, two seeds each, of which four points are drawn in the first round."""
    space = {"learning_rate": {"low": 1e-6, "high": 1e-1, "log": True}}
    content = {"name": "s", "axes": AXES, "search": space, "seeds": [0, 1], "recipe": {"epochs": 2, **(recipe or {})}}
    return StudyConfig.model_validate({**content, "sampling": {"sampler": "tpe", "trials": trials}})


def first_round(asked: StudyConfig, storage: Path, metrics) -> StudyState:
    """Write the ledger of a study whose first round trained to its end."""
    with Ledger(StudyFolder(storage, "s").ledger) as ledger:
        key = key_of(sampling.examples(asked).datasets[0])
        data = {"kind": "data", "key": key, "dataset": "d", "fingerprint": "f", "declaration": DECLARATION}
        data |= {"images": {"train": 1, "val": 1, "test": 1}, "validation": "drawn", "quarantined": {}}
        ledger.append(data)
        state = StudyState.of([data])
        wanted = sampling.draw(asked, sampling.expand(asked, state), state)
        for identity, trial in identified(wanted, state).items():
            ledger.append(entry_event(identity, trial), {"kind": "started", "trial": identity, "time_ms": 0})
            for epoch in (1, 2):
                told = {"epoch": epoch, "timestamp_ms": epoch, "metrics": metrics(epoch)}
                ledger.append({"kind": "epoch", "trial": identity, **told})
            result = {"state": "COMPLETE", "epochs": 2, "best_epoch": 1, "best_value": 0.8, "checkpoint": "c"}
            ended = {"state": "COMPLETE", "reason": "", "time_ms": 2, "result": result}
            ledger.append({"kind": "ended", "trial": identity, **ended})
    return StudyState.of(read(StudyFolder(storage, "s").ledger).events)


@pytest.fixture
def state(tmp_path) -> StudyState:
    return first_round(study(), tmp_path, lambda _: {PRIMARY: 0.8})


@pytest.mark.parametrize(("trials", "missing"), [(4, 0), (6, 4), (9, 10)])
def test_status_counts_what_is_not_drawn_yet_as_waiting(state, tmp_path, trials, missing):
    found = status(study(trials), tmp_path)
    assert (found["counts"]["COMPLETE"], found["counts"]["WAITING"]) == (8, missing)
    written = io.StringIO()
    show(found, Console(file=written, width=200))
    assert f"8/{8 + missing}" in written.getvalue()


@pytest.mark.parametrize(("trials", "told"), [(4, False), (6, True)])
def test_status_says_that_what_is_not_drawn_yet_waits_for_a_larger_budget(state, tmp_path, trials, told):
    """All that was drawn is done: without this line nothing would say why the rest does not come."""
    with Ledger(StudyFolder(tmp_path, "s").ledger) as ledger:
        ledger.append({"kind": "study", "study": {}, "version": "t", "time_ms": 0})
        ledger.append({"kind": "closed", "status": "FINISHED", "time_ms": 3_600_000})
    asked, written = study(trials).model_copy(update={"budget": Budget(wall_clock_hours=1)}), io.StringIO()
    show(status(asked, tmp_path), Console(file=written, width=200))
    assert ("stopped wall-clock: 1 of 1 h are used; raise the budget to go on" in written.getvalue()) is told


@pytest.mark.parametrize(("trials", "missing"), [(4, 0), (6, 4), (9, 10)])
def test_a_report_counts_what_was_never_drawn_as_not_finished(state, tmp_path, trials, missing):
    asked = study(trials)
    found = summary.summarize(asked, sampling.expand(asked, state), state, StudyFolder(tmp_path, "s"))
    assert (found["counts"]["trials"], found["counts"].get("UNFINISHED", 0)) == (8 + missing, missing)
    assert found["epochs"] == {"trained": 16, "full_grid": 16 + 2 * missing}


@pytest.mark.parametrize(("trials", "missing"), [(4, 0), (6, 4), (9, 10)])
def test_a_plan_counts_the_epochs_of_what_is_not_drawn_yet(state, tmp_path, trials, missing):
    done = plan(study(trials), Known(storage=tmp_path))["done"]
    assert (done["finished"], done["new"], done["epochs_left"]) == (8, missing, 2 * missing)


def test_a_plan_counts_the_epochs_of_trials_on_data_that_no_run_has_seen(state, tmp_path):
    """Two data sets: of the second neither fingerprint nor trials are known."""
    asked = study(4)
    more = asked.model_copy(update={"axes": {**asked.axes, "dataset": ["vindr_pcxr", "vindr_cxr"]}})
    done = plan(more, Known(storage=tmp_path))["done"]
    assert (done["finished"], done["new"], done["epochs_left"]) == (8, 8, 2 * 8)


def test_a_study_whose_points_are_not_all_drawn_is_not_promoted(state):
    state.evaluated[CELL] = {"trial": next(iter(state.trials))}  # all ended alike: the first is the winner
    with pytest.raises(StudyError, match="not finished: 8 of 12 trials are done, 1 of 1 winners measured"):
        best_winner(study(6), state)
    assert best_winner(study(4), state).cell == CELL


def test_progress_counts_later_rounds(state, capsys):
    entries = [Entry(name, CELL, CELL, dict(trial.searched), 2) for name, trial in state.trials.items()]
    shows = progress.create("json", Console())
    shows.searching(entries, state, sampling.to_come(study(), state))
    now = json.loads(capsys.readouterr().out)["progress"]
    counts = {name: now[name] for name in ("trials", "complete", "epochs", "epochs_left", "seconds_left")}
    assert counts == {"trials": 12, "complete": 8, "epochs": 16, "epochs_left": 8, "seconds_left": None}


@pytest.mark.parametrize(
    ("selection", "while_training", "at_the_end"),
    [("primary", 0.9, 0.8), ("loss", 0.7, 0.8)],
)
def test_status_and_progress_show_the_value_by_which_a_trial_is_judged(tmp_path, selection, while_training, at_the_end):
    """The loss is lowest in the first epoch; what the end says of the best epoch holds."""
    asked = study(4, {"selection": selection})
    values = {1: {PRIMARY: 0.7, "val/loss": 0.3}, 2: {PRIMARY: 0.9, "val/loss": 0.5}}
    state = first_round(asked, tmp_path, values.get)
    assert {row["best"] for row in status(asked, tmp_path)["trials"]} == {at_the_end}
    with Ledger(StudyFolder(tmp_path, "s").ledger) as ledger:
        ledger.append(*({"kind": "reopened", "trial": trial, "reason": "x"} for trial in state.trials))
    assert {row["best"] for row in status(asked, tmp_path)["trials"]} == {while_training}
    state = StudyState.of(read(StudyFolder(tmp_path, "s").ledger).events)
    entries = [Entry(name, CELL, CELL, {}, 2) for name in state.trials]
    assert progress.best_by_cell(entries, state) == {CELL: while_training}


@pytest.mark.parametrize(("direction", "best"), [("maximize", "0.9000"), ("minimize", "0.7000")])
def test_the_best_of_a_cell_is_the_one_that_the_task_calls_so(state, tmp_path, direction, best):
    found, written = status(study(4), tmp_path), io.StringIO()
    for number, row in enumerate(found["trials"]):
        row["best"] = (0.7, None, 0.9)[number % 3]
    show({**found, "direction": direction}, Console(file=written, width=200))
    (line,) = (line for line in written.getvalue().splitlines() if CELL in line)
    assert best in line


def test_a_grid_has_nothing_to_draw():
    asked = StudyConfig.model_validate({"name": "s", "axes": AXES})
    assert sampling.to_come(asked, StudyState()) == []
    assert len(grid.expand(asked).trials) == 1
