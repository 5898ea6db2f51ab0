"""Optuna's file of a study: killed while it is made, lost, unusable, and what it holds."""

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from sqlalchemy.exc import OperationalError

from search.optuna_mirror import OptunaMirror
from search.study_folder import StudyFolder
from search.study_sections import Pruning
from tests.search.recorded import DECLARATION

KILLED = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import event
from sqlalchemy.engine import Engine

from search.optuna_mirror import OptunaMirror
from search.study_folder import StudyFolder
from search.study_sections import Pruning

@event.listens_for(Engine, "before_cursor_execute")
def die(connection, cursor, statement, *_):
    if "UNIQUE INDEX" in statement and "study_name" in statement:
        os.kill(os.getpid(), signal.SIGKILL)

OptunaMirror(StudyFolder(Path(sys.argv[1]), "killed"), Pruning(), [])
"""


def test_a_kill_between_tables_and_indices_leaves_a_file_that_keeps_names_apart(tmp_path):
    """Without the index of names, Optuna makes a study again instead of loading it."""
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == -signal.SIGKILL
    folder = StudyFolder(tmp_path, "killed")
    assert not folder.optuna.exists()
    OptunaMirror(folder, Pruning(), [])
    storage = f"sqlite:///{folder.optuna}"
    for _ in range(2):
        optuna.create_study(storage=storage, study_name="same", load_if_exists=True)
    assert optuna.get_all_study_names(storage) == ["same"]
    assert [path.name for path in folder.path.iterdir()] == ["optuna.db"]


def ended(trial, value):
    """The events of a trial that came to its end."""
    place = {"cell": "c", "axes": {"dataset": "d"}, "seed": 0, "config": {}, "dataset_key": "k"}
    result = {"state": "COMPLETE", "epochs": 1, "best_epoch": 1, "best_value": 0.5}
    return [
        {"kind": "trial", "trial": trial, "searched": {"x": value}, **place},
        {"kind": "started", "trial": trial, "time_ms": 1},
        {"kind": "ended", "trial": trial, "state": "COMPLETE", "reason": "", "time_ms": 2, "result": result},
    ]


@pytest.mark.parametrize(
    "values", [[0.01, 0.1, 0.0, 1.0], ["adamw", "sgd", "lion"], [0.1, "auto"], [1, 2.5, -3], [None, 3], [True, False]]
)
@pytest.mark.parametrize("runs", [1, 2])
def test_a_searched_value_may_be_added_whatever_it_is(tmp_path, values, runs):
    """Optuna holds a parameter to its first scale and words; here every run of the study brings one more value."""
    folder = StudyFolder(tmp_path, "s")
    told = [{"kind": "data", "key": "k", "dataset": "d", "fingerprint": "f", "declaration": DECLARATION}]
    mirror = OptunaMirror(folder, Pruning(), told)
    for number, value in enumerate(values):
        if runs > 1:
            mirror = OptunaMirror(folder, Pruning(), told)
        new = ended(f"t{number}", value)
        mirror.receive(new)
        told += new
    (name,) = optuna.get_all_study_names(f"sqlite:///{folder.optuna}")
    trials = optuna.load_study(study_name=name, storage=f"sqlite:///{folder.optuna}").trials
    assert sorted(t.user_attrs["trial"] for t in trials) == [f"t{n}" for n in range(len(values))]
    by_trial = {trial.user_attrs["trial"]: trial.params["x"] for trial in trials}
    assert [by_trial[f"t{n}"] for n in range(len(values))] == [str(v) if v is None else v for v in values]


def of_another_optuna(path):
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = 'v2.6.0.a'")


@pytest.mark.parametrize(
    ("spoil", "left"),
    [
        (Path.unlink, []),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), ["optuna.db.unusable"]),
        (lambda path: path.write_text("no database" * 100), ["optuna.db.unusable"]),
        (of_another_optuna, ["optuna.db.unusable"]),
    ],
    ids=["lost", "cut off", "overwritten", "of another version"],
)
def test_a_file_that_is_lost_or_unusable_is_made_anew_from_what_was_told(tmp_path, spoil, left):
    """MLflow hears nothing more while Optuna's file cannot be told."""
    folder = StudyFolder(tmp_path, "s")
    told = [{"kind": "data", "key": "k", "dataset": "d", "fingerprint": "f", "declaration": DECLARATION}]
    told += ended("a", 1.0)
    OptunaMirror(folder, Pruning(), told[:1]).receive(told[1:])
    spoil(folder.optuna)
    mirror = OptunaMirror(folder, Pruning(), told)
    (name,) = optuna.get_all_study_names(f"sqlite:///{folder.optuna}")
    mirror.receive(ended("b", 2.0))
    trials = optuna.load_study(study_name=name, storage=f"sqlite:///{folder.optuna}").trials
    assert [trial.user_attrs["trial"] for trial in trials] == ["a", "b"]
    assert sorted(path.name for path in folder.path.iterdir()) == ["optuna.db", *left]


@pytest.mark.slow
def test_a_file_that_somebody_holds_is_waited_for(tmp_path):
    folder = StudyFolder(tmp_path, "s")
    OptunaMirror(folder, Pruning(), [])
    held = sqlite3.connect(folder.optuna)
    held.execute("BEGIN EXCLUSIVE")
    with pytest.raises(OperationalError, match="locked"):
        OptunaMirror(folder, Pruning(), [])
    held.close()
    assert [path.name for path in folder.path.iterdir()] == ["optuna.db"]


def test_the_dashboard_is_told_which_way_is_better_and_every_end_of_a_trial_that_was_brought_back(tmp_path):
    folder = StudyFolder(tmp_path, "s")
    declaration = {**DECLARATION, "direction": "minimize"}
    data = {"kind": "data", "key": "k", "dataset": "d", "fingerprint": "f", "declaration": declaration}
    entry, started, end = ended("back", 0.1)
    pruned = {**end, "state": "PRUNED", "result": None}
    back = [
        entry,
        started,
        pruned,
        {"kind": "reopened", "trial": "back", "reason": "x"},
        started,
        {**end, "time_ms": 9},
    ]
    worse = ended("worse", 0.2)
    worse[-1]["result"] |= {"best_value": 0.9}
    OptunaMirror(folder, Pruning(), [data]).receive([*back, *worse])
    (name,) = optuna.get_all_study_names(f"sqlite:///{folder.optuna}")
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{folder.optuna}")
    assert study.direction == optuna.study.StudyDirection.MINIMIZE
    assert study.best_trial.user_attrs["trial"] == "back"
    assert sorted((t.user_attrs["trial"], t.state.name) for t in study.trials) == [
        ("back", "COMPLETE"),
        ("back", "PRUNED"),
        ("worse", "COMPLETE"),
    ]


def test_a_trial_whose_metric_is_undefined_fails_as_it_does_in_optuna(tmp_path):
    folder = StudyFolder(tmp_path, "s")
    data = {"kind": "data", "key": "k", "dataset": "d", "fingerprint": "f", "declaration": DECLARATION}
    told = ended("t0", 0.1)
    told[-1]["result"] |= {"best_epoch": None, "best_value": None}
    OptunaMirror(folder, Pruning(), [data]).receive([*told, *ended("t1", 0.2)])
    (name,) = optuna.get_all_study_names(f"sqlite:///{folder.optuna}")
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{folder.optuna}")
    states = {trial.user_attrs["trial"]: trial.state.name for trial in study.trials}
    assert states == {"t0": "FAIL", "t1": "COMPLETE"}
    assert study.best_trial.user_attrs["trial"] == "t1"
