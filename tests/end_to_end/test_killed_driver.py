"""A driver that is killed, started again, or started twice."""

from collections import Counter

import pytest

from tests.end_to_end.results import report, rows_per_metric, runs

pytestmark = pytest.mark.slow


def test_a_second_run_does_nothing(again):
    before = (again.folder / "ledger.jsonl").read_bytes()
    checkpoints = {path: path.stat().st_mtime_ns for path in again.folder.glob("trials/**/*") if path.is_file()}
    again("run")
    assert (again.folder / "ledger.jsonl").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in checkpoints} == checkpoints
    assert len(runs(again)) == 6


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(lambda events: any(e["kind"] == "started" for e in events), id="as the first trial starts"),
        pytest.param(lambda events: sum(e["kind"] == "epoch" for e in events) >= 5, id="in the middle"),
        pytest.param(lambda events: any(e["kind"] == "evaluated" for e in events), id="while winners are measured"),
    ],
)
def test_a_killed_driver_changes_nothing_in_the_end(undisturbed, elsewhere, moment):
    elsewhere.kill_when(moment)
    before = {(e["trial"], e["epoch"]): e for e in elsewhere.events() if e["kind"] == "epoch"}
    elsewhere("run")
    assert report(elsewhere) == report(undisturbed)
    after = {(e["trial"], e["epoch"]): e for e in elsewhere.events() if e["kind"] == "epoch"}
    assert {key: after[key] for key in before} == before
    assert Counter(run.info.status for run in runs(elsewhere)) == Counter(run.info.status for run in runs(undisturbed))
    assert len(runs(elsewhere)) == 6
    assert set(rows_per_metric(elsewhere)) == {1}


def test_two_drivers_are_refused(elsewhere):
    import subprocess

    from tests.end_to_end.conftest import ROOT, environment

    first = subprocess.Popen(elsewhere.words("run"), cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL)
    while not any(e["kind"] == "trial" for e in elsewhere.events()):
        assert first.poll() is None
    told = elsewhere("run", code=2)
    assert f"another driver is running it: process {first.pid} on" in told
    first.kill()
    first.wait()
