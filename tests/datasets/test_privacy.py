import multiprocessing
import stat
from pathlib import Path

import pytest

from datasets.errors import DatasetError
from datasets.privacy import case_key, keyed_hash


def test_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path):
    first = case_key(tmp_path / "new")
    assert case_key(tmp_path / "new") == first
    assert stat.S_IMODE((tmp_path / "new" / "case.key").stat().st_mode) == 0o600
    assert len(first) == 32


def test_two_folders_number_the_same_patient_differently(tmp_path: Path):
    hashes = {keyed_hash(case_key(tmp_path / name), "patient 7") for name in ("a", "b")}
    assert len(hashes) == 2
    assert all(len(digest) == 16 for digest in hashes)


def test_processes_that_ask_at_once_get_one_key(tmp_path: Path):
    with multiprocessing.get_context("forkserver").Pool(4) as pool:
        assert len(set(pool.map(case_key, [tmp_path] * 16))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["case.key"]


def test_a_damaged_key_is_refused(tmp_path: Path):
    (tmp_path / "case.key").write_bytes(b"short")
    with pytest.raises(DatasetError, match=r"holds 5 bytes \(.*case\.key\); expected 32; bring it back"):
        case_key(tmp_path)
