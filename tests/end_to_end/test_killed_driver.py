"""A driver that is killed again and again, started once more, or started twice."""

import os
from collections import Counter

import pytest

from search import study_folder
from search.study_folder import StudyFolder
from tests.end_to_end.results import report, rows_per_metric, runs

pytestmark = pytest.mark.slow

MOMENTS = {
    "as the first trial starts": lambda events: any(e["kind"] == "started" for e in events),
    "in the middle": lambda events: sum(e["kind"] == "epoch" for e in events) >= 5,
    "while winners are measured": lambda events: any(e["kind"] == "evaluated" for e in events),
}


def test_a_second_run_does_nothing(again):
    before = (again.folder / "ledger.jsonl").read_bytes()
    checkpoints = {path: path.stat().st_mtime_ns for path in again.folder.glob("trials/**/*") if path.is_file()}
    again("run")
    assert (again.folder / "ledger.jsonl").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in checkpoints} == checkpoints
    assert len(runs(again)) == 6


def test_a_driver_killed_at_every_turn_changes_nothing_in_the_end(undisturbed, elsewhere):
    acknowledged = {}
    for due in MOMENTS.values():
        elsewhere.kill_when(due)
        acknowledged = epochs(elsewhere) | acknowledged  # as first told
    elsewhere("run")
    assert report(elsewhere) == report(undisturbed)
    assert {key: epochs(elsewhere)[key] for key in acknowledged} == acknowledged
    assert Counter(run.info.status for run in runs(elsewhere)) == Counter(run.info.status for run in runs(undisturbed))
    assert len(runs(elsewhere)) == 6
    assert set(rows_per_metric(elsewhere)) == {1}


def epochs(command):
    """Return the epochs that the ledger holds; it must never lose or change one."""
    return {(e["trial"], e["epoch"]): e for e in command.events() if e["kind"] == "epoch"}


def test_two_drivers_are_refused(again):
    before = (again.folder / "ledger.jsonl").read_bytes()
    with study_folder.lock(StudyFolder(again.storage, "tiny")):  # as its driver, which this process is for now
        told = again("run", code=2)
    assert f"another driver is running it: process {os.getpid()} on" in told
    assert (again.folder / "ledger.jsonl").read_bytes() == before
