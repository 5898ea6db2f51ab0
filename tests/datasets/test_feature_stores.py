"""Feature stores beside the caches they were computed of, when unused caches are removed."""

import pytest

from datasets.cleaning import entries, record_origin, record_uses, remove_unused, stores
from datasets.derivation import MARKER


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
