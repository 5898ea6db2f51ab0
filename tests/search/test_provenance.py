"""Which code made a result, as it is recorded and as machines are compared by it."""

import subprocess

import pytest

from search import provenance


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A committed copy of a house with a file in each room."""
    for room in provenance.ROOMS:
        (tmp_path / room / "inner").mkdir(parents=True)
        (tmp_path / room / "inner" / "a.py").write_text("A = 1\n")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    who = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


def test_a_commit_is_marked_where_files_differ_from_it(clone):
    version = provenance.code_version.__wrapped__
    commit = version()
    assert len(commit) == 12
    (clone / "notes.txt").write_text("nobody imports it")
    assert version() == commit
    (clone / "search" / "inner" / "a.py").write_text("A = 2\n")
    assert version() == f"{commit}+changes"


def test_without_git_the_version_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.code_version.__wrapped__() == "unknown"
    monkeypatch.setenv("PATH", "")
    assert provenance.code_version.__wrapped__() == "unknown"


@pytest.mark.parametrize("room", ["datasets", "trainers", "mlflow_server", "search"])
def test_machines_differ_by_any_rooms_code_and_by_its_place(clone, room):
    digest = provenance.code_digest()
    file = clone / room / "inner" / "a.py"
    file.with_suffix(".txt").write_text("no code")
    assert provenance.code_digest() == digest
    file.rename(clone / room / "a.py")
    moved = provenance.code_digest()
    (clone / room / "a.py").write_text("A = 2\n")
    assert len({digest, moved, provenance.code_digest()}) == 3
