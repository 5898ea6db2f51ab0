"""Feature stores beside the caches they were computed of, when unused caches are removed."""

import os
import shutil
import time

import pytest
from filelock import FileLock

from datasets.cleaning import STORE_MARKER, entries, record_origin, record_uses, remove_unused, stores
from datasets.derivation import MARKER
from datasets.whole_file import reserve


@pytest.fixture
def cache(tmp_path):
    """A storage with two caches, of which a study uses one, and stores of both, of a lost one and of an unknown one."""
    folder = tmp_path / "cache"
    for name in ("used", "unused"):
        (folder / name).mkdir(parents=True)
        for file in ("pixels.u8", "state.u8", MARKER):
            (folder / name / file).write_bytes(b"1")
    for store, origin in {"a": "used", "b": "unused", "c": "lost", "d": None}.items():
        (folder / "features" / store).mkdir(parents=True)
        (folder / "features" / store / "COMPLETE").touch()
        if origin:
            record_origin(folder / "features" / store, folder / origin)
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "ledger.jsonl").touch()
    record_uses(tmp_path / "study", {"used"})
    return folder


def test_a_store_goes_with_the_cache_it_was_computed_of_and_one_of_unknown_origin_stays(cache):
    unused = {"unused", "features/b", "features/c"}
    assert {entry.name for entry in remove_unused(cache)} == unused
    assert len(stores(cache)) == 4  # so far it was only shown
    assert {entry.name for entry in remove_unused(cache, dry_run=False)} == unused
    assert [entry.name for entry in entries(cache)] == ["used"]
    assert {entry.name for entry in stores(cache)} == {"features/a", "features/d"}


def test_a_store_that_is_named_is_kept(cache):
    assert {entry.name for entry in remove_unused(cache, used=["features/b"])} == {"unused", "features/c"}


def test_what_was_used_within_so_many_days_is_kept(cache):
    now = time.time()
    for name, written, read in (("unused", 3.5, 9), ("features/b", 9, 2.5), ("features/c", 9, 3.5)):
        for file in (cache / name).iterdir():
            os.utime(file, (now - read * 86_400, now - written * 86_400))  # read, written
    idle = {entry.name: entry.idle_days for entry in (*entries(cache), *stores(cache))}
    assert [round(idle[name], 2) for name in ("unused", "features/b", "features/c")] == [3.5, 2.5, 3.5]
    for days, gone in (
        (4, set()),
        (3, {"unused", "features/c"}),  # b was read two days and a half ago
        (2, {"unused", "features/b", "features/c"}),
    ):
        assert {entry.name for entry in remove_unused(cache, idle_days=days)} == gone


def test_a_store_whose_cache_is_not_idle_yet_stays_with_it(cache):
    for file in (cache / "features" / "b").iterdir():
        os.utime(file, (0, 0))
    assert {entry.name for entry in remove_unused(cache, idle_days=1)} == set()


@pytest.mark.parametrize("name", ["unused", "features/b"])
def test_what_is_being_built_or_computed_is_not_removed(cache, name):
    with FileLock(cache / name / "lock"):
        gone = {entry.name for entry in remove_unused(cache, dry_run=False)}
    assert gone == {"unused", "features/b", "features/c"} - {name}
    assert (cache / name).is_dir()


@pytest.mark.parametrize(("name", "marker"), [("unused", MARKER), ("features/b", STORE_MARKER)])
def test_what_is_removed_is_not_taken_for_whole_half_way(cache, monkeypatch, name, marker):
    half = []
    monkeypatch.setattr(shutil, "rmtree", lambda folder: half.append((folder, (folder / marker).exists())))
    remove_unused(cache, dry_run=False)
    assert (cache / name, False) in half


def test_bytes_are_those_on_the_disk(cache):
    reserve(cache / "unused" / "pixels.u8", 200_000)
    (largest, _) = entries(cache)
    assert largest.name == "unused"
    assert 200_000 <= largest.bytes <= 300_000
