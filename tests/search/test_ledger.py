import errno
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search import ledger
from search.errors import StudyError
from search.ledger import Ledger

EVENTS = [{"kind": "epoch", "trial": f"t{i}", "epoch": i, "metrics": {"val/auroc/macro": i / 7}} for i in range(5)]


@pytest.fixture
def path(tmp_path):
    with Ledger(tmp_path / "study" / "ledger.jsonl") as opened:
        for event in EVENTS:
            opened.append(event)
    return tmp_path / "study" / "ledger.jsonl"


def test_what_was_appended_is_read_again(path):
    assert list(ledger.read(path).events) == EVENTS


def test_every_line_is_json_with_its_checksum(path):
    lines = path.read_text().splitlines()
    assert [json.loads(line)["trial"] for line in lines] == ["t0", "t1", "t2", "t3", "t4"]
    assert all(set(json.loads(line)) == {"kind", "trial", "epoch", "metrics", "crc"} for line in lines)


def test_an_absent_ledger_is_empty(tmp_path):
    assert ledger.read(tmp_path / "none.jsonl") == ledger.Contents((), 0)


def test_cut_at_every_byte_it_reopens_and_loses_no_whole_record(path, tmp_path):
    content = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    for cut in range(len(content) + 1):
        torn = tmp_path / "torn.jsonl"
        torn.write_bytes(content[:cut])
        whole = sum(end <= cut for end in ends)
        with Ledger(torn) as opened:
            assert list(opened.events) == EVENTS[:whole]
            opened.append({"kind": "after"})
        assert list(ledger.read(torn).events) == [*EVENTS[:whole], {"kind": "after"}]


def test_what_was_appended_together_is_there_together_or_not_at_all(tmp_path):
    """The decisions of a rung, a round of a sampler: half of either would go on otherwise."""
    batches = [EVENTS[:1], EVENTS[1:4], EVENTS[4:]]
    ends = []
    with Ledger(tmp_path / "whole.jsonl") as opened:
        for batch in batches:
            opened.append(*batch)
            ends.append(ledger.read(tmp_path / "whole.jsonl").end)
    content = (tmp_path / "whole.jsonl").read_bytes()
    for cut in range(len(content) + 1):
        torn = tmp_path / "torn.jsonl"
        torn.write_bytes(content[:cut])
        whole = [event for batch, end in zip(batches, ends, strict=True) if end <= cut for event in batch]
        with Ledger(torn) as opened:
            assert list(opened.events) == whole
            opened.append({"kind": "after"})
        assert list(ledger.read(torn).events) == [*whole, {"kind": "after"}]
    between = ledger.read(tmp_path / "whole.jsonl", start=ends[0], stop=ends[1])
    assert (list(between.events), between.end) == (EVENTS[1:4], ends[1])


def test_what_is_left_of_a_torn_batch_is_gone_before_anything_is_appended(tmp_path, monkeypatch):
    """However long it was: its whole records would stand behind the new one after the next crash."""
    monkeypatch.setattr(ledger, "ROOM", 0)
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as opened:
        opened.append(*EVENTS)
    path.write_bytes(path.read_bytes()[:-1])
    killed = Ledger(path)
    killed.append({"kind": "after"})
    assert list(ledger.read(path).events) == [{"kind": "after"}]
    killed.close()


def test_damage_before_whole_records_is_refused_and_nothing_is_cut(path):
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(StudyError, match="is damaged, but whole records follow"):
        Ledger(path)
    assert path.read_bytes() == bytes(content)


@pytest.mark.parametrize("failing", range(1, 13))
@pytest.mark.parametrize("written", [0, 1, 40])
def test_a_full_disk_at_any_write_loses_nothing_acknowledged(tmp_path, monkeypatch, failing, written):
    """Every Nth write fails, after a part of it reached the disk."""
    real, calls = os.write, 0

    def full(file, content):
        nonlocal calls
        calls += 1
        if calls % failing == 0:
            if written:
                real(file, bytes(content[:written]))
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, content)

    monkeypatch.setattr(ledger.os, "write", full)
    acknowledged = []
    with Ledger(tmp_path / "ledger.jsonl") as opened:
        for event in EVENTS * 4:
            try:
                opened.append(event)
            except StudyError as problem:
                assert "No space left" in str(problem)
            else:
                acknowledged.append(event)
    assert list(ledger.read(tmp_path / "ledger.jsonl").events) == acknowledged


def test_a_write_in_parts_is_completed(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(ledger.os, "write", lambda file, content: real(file, bytes(content[:7])))
    with Ledger(tmp_path / "ledger.jsonl") as opened:
        opened.append(*EVENTS)
    assert list(ledger.read(tmp_path / "ledger.jsonl").events) == EVENTS


def test_reading_goes_on_where_it_stopped(path):
    first = ledger.read(path)
    with Ledger(path) as opened:
        opened.append({"kind": "more"})
    second = ledger.read(path, start=first.end)
    assert second.events == ({"kind": "more"},)
    assert ledger.read(path, stop=first.end) == first


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100)
@given(
    events=st.lists(
        st.dictionaries(st.text().filter(lambda key: key not in {ledger.CRC, ledger.MORE}), json_values, min_size=1),
        max_size=5,
    )
)
def test_any_json_comes_back_as_it_was(events, tmp_path_factory):
    path = tmp_path_factory.mktemp("ledger") / "l.jsonl"
    with Ledger(path) as opened:
        for event in events:
            opened.append(event)
    assert list(ledger.read(path).events) == events


@pytest.mark.parametrize("key", [ledger.CRC, ledger.MORE])
def test_a_key_of_the_records_own_is_refused_and_nothing_of_its_batch_is_written(path, key):
    with Ledger(path) as opened, pytest.raises(ValueError, match=f"has the key '{key}'"):
        opened.append({"kind": "epoch"}, {"kind": "epoch", key: None})
    assert list(ledger.read(path).events) == EVENTS


def test_a_number_that_is_not_finite_is_refused(path):
    with Ledger(path) as opened, pytest.raises(ValueError, match="Out of range float"):
        opened.append({"kind": "epoch", "value": float("nan")})
    assert list(ledger.read(path).events) == EVENTS
