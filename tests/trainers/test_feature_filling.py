"""Stores of features that a kill leaves half filled."""

import json
import os
import signal

import numpy as np
import pytest

from trainers import feature_filling
from trainers.feature_filling import FILLED, STORED, Filling

ROWS = np.array([row for row in range(23) if row % 7 != 3])  # 20 of 23: the others cannot be read
SHAPE = (23, 3)
AT_ONCE = 4


def expected():
    whole = np.zeros(SHAPE, np.float32)
    whole[ROWS] = features(ROWS)
    return whole


def features(rows):
    return (rows[:, None] * 10 + np.arange(1, 4)).astype(np.float32)


def fill(folder, computed, *, then=lambda: None, after=99):
    """Fill a store; once so many calls were answered do what `then` says."""

    def compute(rows):
        if len(computed) == after:
            then()
        computed.append(rows.tolist())
        return features(rows)

    Filling(folder, ROWS, SHAPE).fill(compute, at_once=AT_ONCE)
    return np.fromfile(folder / STORED, np.float32).reshape(SHAPE)


@pytest.fixture(autouse=True)
def always_noted(monkeypatch):
    monkeypatch.setattr(feature_filling, "SECONDS_BETWEEN_NOTES", 0.0)


@pytest.mark.parametrize("after", range(5))
def test_a_killed_attempt_is_gone_on_with_where_it_stood(tmp_path, after):
    child = os.fork()
    if child == 0:
        fill(tmp_path, [], then=lambda: os.kill(os.getpid(), signal.SIGKILL), after=after)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    computed = []
    assert (fill(tmp_path, computed) == expected()).all()
    assert computed == [ROWS[first : first + AT_ONCE].tolist() for first in range(AT_ONCE * after, len(ROWS), AT_ONCE)]
    assert [path.name for path in tmp_path.iterdir()] == [STORED]


def test_an_interrupt_leaves_what_was_noted_and_a_failure_leaves_nothing(tmp_path):
    def raising(problem):
        def then():
            raise problem

        return then

    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, [], then=raising(KeyboardInterrupt()), after=2)
    assert json.loads((tmp_path / FILLED).read_text()) == {"images": 2 * AT_ONCE}
    with pytest.raises(RuntimeError):
        fill(tmp_path, computed := [], then=raising(RuntimeError()), after=1)
    assert computed == [ROWS[8:12].tolist()]
    assert not list(tmp_path.iterdir())


def test_nothing_is_noted_more_often_than_that_is_worth(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_filling, "SECONDS_BETWEEN_NOTES", 1e9)
    notes = []
    fill(tmp_path, [], then=lambda: notes.append((tmp_path / FILLED).exists()), after=4)
    assert notes == [False]


@pytest.mark.parametrize(
    "note",
    ["", "[]", '{"images": "8"}', '{"images": -4}', '{"images": 21}', '{"others": 8}', b"\xff"],
)
def test_a_damaged_note_is_none(tmp_path, note):
    (tmp_path / f".{STORED}").write_bytes(bytes(4 * SHAPE[0] * SHAPE[1]))
    (tmp_path / FILLED).write_bytes(note if isinstance(note, bytes) else note.encode())
    assert (fill(tmp_path, computed := []) == expected()).all()
    assert len(computed) == 5


@pytest.mark.parametrize("size", [None, 100])
def test_a_note_without_the_file_it_is_of_is_none(tmp_path, size):
    (tmp_path / FILLED).write_text('{"images": 8}')
    if size is not None:
        (tmp_path / f".{STORED}").write_bytes(bytes(size))
    assert (fill(tmp_path, computed := []) == expected()).all()
    assert len(computed) == 5
