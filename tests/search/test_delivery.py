import json
import threading
import time

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from search import cursor, delivery
from search.delivery import Delivery
from search.ledger import Ledger
from search.study_folder import StudyFolder


class Memory:
    """A receiver that keeps what it is told, and is away as often as it is asked to."""

    def __init__(self, away=0):
        self.away = away
        self.told = []
        self.calls = 0

    def receive(self, events):
        self.calls += 1
        if self.calls <= self.away:
            raise ConnectionError("tracker is away")
        self.told += [event["n"] for event in events]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(delivery, "SECONDS_BETWEEN_TRIES", (0.02,))
    monkeypatch.setattr(delivery, "SECONDS_TO_GATHER", 0.0)


@pytest.fixture
def folder(tmp_path):
    return StudyFolder(tmp_path, "study")


def events(*numbers):
    return [{"kind": "epoch", "trial": "t", "n": n} for n in numbers]


def delivered(folder, receiver, *, patience=10.0):
    found = Delivery(folder, lambda told: [receiver])
    found.start()
    return found.finish(patience=patience)


def one_by_one(folder, count, pause=0.0):
    """Append events while a delivery runs, and return who was told."""
    receiver = Memory()
    with Ledger(folder.ledger) as opened:
        found = Delivery(folder, lambda told: [receiver])
        found.start()
        for n in range(count):
            opened.append(*events(n))
            found.notify()
            time.sleep(pause)
        assert found.finish() == 0
    return receiver


def test_events_arrive_once_and_in_order(folder):
    assert one_by_one(folder, 50).told == list(range(50))


def test_a_tracker_that_is_away_gets_everything_later_in_order(folder):
    receiver = Memory(away=3)
    with Ledger(folder.ledger) as opened:
        opened.append(*events(*range(20)))
    assert delivered(folder, receiver) == 0
    assert receiver.told == list(range(20))


def test_after_a_failure_the_receivers_are_built_anew(folder):
    """They may have kept half of what they were told when it came."""
    receivers, told_before = [Memory(away=1), Memory()], []
    left = list(receivers)
    with Ledger(folder.ledger) as opened:
        opened.append(*events(1, 2))
    found = Delivery(folder, lambda told: told_before.append(len(told)) or [left.pop(0)])
    found.start()
    assert found.finish() == 0
    assert [receiver.told for receiver in receivers] == [[], [1, 2]]
    assert told_before == [0, 0]


@pytest.mark.parametrize("offset", [10**6, 0])
def test_a_cursor_beyond_the_end_of_a_ledger_is_of_another_one(folder, offset):
    """Files of earlier versions say nothing else."""
    with Ledger(folder.ledger) as opened:
        opened.append(*events(1))
    folder.delivery.write_text(json.dumps({"offset": offset}))
    assert cursor.read(folder, "") == 0
    assert cursor.waiting(folder, "") == 1


def test_the_next_driver_goes_on_where_the_last_one_stood(folder):
    with Ledger(folder.ledger) as opened:
        opened.append(*events(1, 2))
    delivered(folder, Memory())
    with Ledger(folder.ledger) as opened:
        opened.append(*events(3))
    receiver = Memory()
    told_before = []
    found = Delivery(folder, lambda told: told_before.extend(e["n"] for e in told) or [receiver])
    found.start()
    assert found.finish() == 0
    assert (told_before, receiver.told) == ([1, 2], [3])


def test_what_was_told_before_a_crash_is_told_again_as_the_same_events(folder):
    """The cursor is written after the receivers took the events: dying in between tells them twice."""
    with Ledger(folder.ledger) as opened:
        opened.append(*events(1, 2))
    first, second = Memory(), Memory()
    delivered(folder, first)
    folder.delivery.unlink()
    delivered(folder, second)
    assert first.told == second.told == [1, 2]


def test_an_unreachable_tracker_does_not_hold_the_search_up(folder):
    with Ledger(folder.ledger) as opened:
        opened.append(*events(1, 2, 3))
    began = time.monotonic()
    assert delivered(folder, Memory(away=10**9), patience=0.3) == 3
    assert time.monotonic() - began < 5
    assert not folder.delivery.exists()


def test_what_mlflow_will_never_take_is_not_tried_again_at_the_end(folder, caplog):
    class Refusing(Memory):
        def receive(self, events):
            raise MlflowException("no such name", error_code=INVALID_PARAMETER_VALUE)

    with Ledger(folder.ledger) as opened:
        opened.append(*events(1, 2, 3))
    began = time.monotonic()
    assert delivered(folder, Refusing(), patience=60.0) == 3 == cursor.waiting(folder, "")
    assert time.monotonic() - began < 10
    assert "MLflow refuses, events wait on disk: MlflowException: no such name" in caplog.text


def test_another_tracker_is_told_from_the_beginning_and_the_first_one_again_what_it_missed(folder):
    with Ledger(folder.ledger) as opened:
        opened.append(*events(1, 2))
        first, second, again = Memory(), Memory(), Memory()
        for receiver, to in ((first, "a"), (second, "b")):
            found = Delivery(folder, lambda told, receiver=receiver: [receiver], to=to)
            found.start()
            assert found.finish() == 0
        opened.append(*events(3))
        assert (cursor.waiting(folder, "a"), cursor.waiting(folder, "b")) == (3, 1)
        found = Delivery(folder, lambda told: [again], to="a")
        found.start()
        assert found.finish() == 0
    assert (first.told, second.told, again.told) == ([1, 2], [1, 2], [1, 2, 3])


@pytest.mark.parametrize("more", range(1, 40))
def test_a_ledger_that_an_older_copy_replaced_is_told_from_the_beginning(folder, more):
    """Wherever the old cursor points to: beyond its end, into a record, between two that it was not told."""
    with Ledger(folder.ledger) as opened:
        opened.append(*events(1, 2, 3))
    old = folder.ledger.read_bytes()
    with Ledger(folder.ledger) as opened:
        opened.append(*events(*range(4, 20)))
    assert delivered(folder, Memory()) == 0
    folder.ledger.write_bytes(old)
    with Ledger(folder.ledger) as opened:
        opened.append(*events(*range(100, 100 + more)))
    receiver = Memory()
    assert cursor.waiting(folder, "") == 3 + more
    assert delivered(folder, receiver) == 0
    assert receiver.told == [1, 2, 3, *range(100, 100 + more)]


def test_a_cursor_of_an_earlier_version_is_believed(folder):
    with Ledger(folder.ledger) as opened:
        opened.append(*events(1))
        delivered(folder, Memory())
        offset = json.loads(folder.delivery.read_text())["offset"]
        folder.delivery.write_text(json.dumps({"offset": offset}))
        opened.append(*events(2))
    receiver = Memory()
    delivered(folder, receiver)
    assert receiver.told == [2]


def test_the_cursor_never_stands_inside_a_record(folder):
    receiver = Memory()
    found = Delivery(folder, lambda told: [receiver])
    found.start()
    ends = set()
    with Ledger(folder.ledger) as opened:
        for n in range(30):
            opened.append(*events(n))
            found.notify()
            time.sleep(0.001)
        found.finish()
    content = folder.ledger.read_bytes()
    ends = {i + 1 for i, byte in enumerate(content) if byte == ord("\n")}
    assert json.loads(folder.delivery.read_text())["offset"] in ends
    assert not [thread for thread in threading.enumerate() if thread.name == "delivery"]


def test_events_that_come_one_by_one_are_told_together(folder, monkeypatch):
    monkeypatch.setattr(delivery, "SECONDS_TO_GATHER", 0.5)
    receiver = one_by_one(folder, 20, pause=0.001)
    assert receiver.told == list(range(20))
    assert receiver.calls <= 2


def test_the_end_of_a_run_does_not_wait_for_more(folder, monkeypatch):
    monkeypatch.setattr(delivery, "SECONDS_TO_GATHER", 600.0)
    with Ledger(folder.ledger) as opened:
        opened.append(*events(1))
    assert delivered(folder, Memory()) == 0


def test_trials_that_report_side_by_side_are_told_one_after_the_other():
    told = [
        ("study", None, 0),
        ("epoch", "a", 1),
        ("epoch", "b", 2),
        ("decision", "b", 3),
        ("epoch", "a", 4),
        ("ended", "b", 5),
        ("study", None, 6),
        ("epoch", "a", 7),
    ]
    ledger_order = [{"kind": kind, "n": n} | ({"trial": trial} if trial else {}) for kind, trial, n in told]
    groups = [(kind, trial, [e["n"] for e in same]) for kind, trial, same in delivery.by_trial_and_kind(ledger_order)]
    assert groups == [
        ("study", "", [0]),
        ("epoch", "a", [1, 4]),
        ("epoch", "b", [2]),
        ("decision", "b", [3]),
        ("ended", "b", [5]),
        ("study", "", [6]),
        ("epoch", "a", [7]),
    ]
