"""`python -m scripts.faults` in a shortened form: every kind of process is killed once."""

import shutil

import pytest

import scripts.faults.__main__ as faults

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_a_study_does_not_notice_that_what_it_rests_on_was_killed(monkeypatch):
    monkeypatch.setattr(faults, "STUDY", faults.STUDY.replace("seeds: [0, 1]", "seeds: [0]"))
    pytest.importorskip("flask_wtf", reason="Flask-WTF is not installed: pip install '.[server]'")
    told: list[str] = []
    found = faults.inflict(5 if shutil.which("psql") else 4, 0, told.append)
    assert [findings.wrong for findings in found] == [[] for _ in found]
    killed = {line.split(": ")[1].split(",")[0] for line in told if line.startswith("kill ")}
    assert killed >= {"driver", "training process", "Ray node", "MLflow server"}
