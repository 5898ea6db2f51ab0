"""One decoding per image and resolution, whoever asks, however often they are interrupted."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets import building
from datasets.cache import content_hashes, is_prepared, open_cache, prepare, prepare_all
from datasets.dataset_config import DatasetConfig
from datasets.decoding import Decoded, Task, decode_all
from datasets.derivation import MARKER
from datasets.errors import DatasetError
from datasets.images import read
from datasets.manifest import Manifest
from datasets.preprocessing import resolve
from datasets.sources import load
from tests.datasets import miniatures

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # nearly every test decodes in processes of its own


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    miniatures.nih_chest_xray14(tmp_path / "root")
    config = DatasetConfig(name="nih", source="nih_chest_xray14", quarantine_limit=0.02)
    return load(config, tmp_path / "root")


def _prepare(manifest: Manifest, folder: Path, *, resolution: int = 16, preprocessing: str = "standard", **options):
    return prepare(manifest, resolution=resolution, preprocessing=preprocessing, cache=folder, **options)


def test_rows_are_the_files_prepared(manifest: Manifest, tmp_path: Path):
    told: list[tuple[int, int]] = []
    preparation = _prepare(manifest, tmp_path / "c", workers=2, progress=lambda done, whole: told.append((done, whole)))
    cache = open_cache(manifest, resolution=16, preprocessing="standard", cache=tmp_path / "c")
    for row in (0, 17, len(manifest) - 1):
        radiograph = read(manifest.root / manifest.instances["path"].iloc[row])
        np.testing.assert_array_equal(cache.pixels[row], resolve("standard").square(radiograph, 16))
    assert told[-1] == (len(manifest), len(manifest))
    assert preparation.images == len(manifest)
    assert not cache.pixels.flags.writeable
    assert len({bytes(row) for row in content_hashes(cache.folder)}) == len(manifest)


def test_a_second_call_decodes_nothing(manifest: Manifest, tmp_path: Path):
    first = _prepare(manifest, tmp_path / "c")
    for path in manifest.instances["path"]:
        (manifest.root / path).write_bytes(b"")  # read once more, it would be refused
    second = _prepare(manifest, tmp_path / "c")
    assert second.folder == first.folder
    assert second.quarantined == ()
    assert second.seconds < first.seconds


def test_labels_and_partitions_share_a_cache_other_pixels_do_not(manifest: Manifest, tmp_path: Path):
    config = DatasetConfig(name="nih", source="nih_chest_xray14", labels="paper", partition_seed=3, label_noise=0.3)
    other = load(config, manifest.root)
    folders = {
        _prepare(manifest, tmp_path / "c").folder,
        _prepare(other, tmp_path / "c").folder,
    }
    assert len(folders) == 1
    folders.add(_prepare(manifest, tmp_path / "c", resolution=24).folder)
    folders.add(_prepare(manifest, tmp_path / "c", preprocessing="paper").folder)
    assert len(folders) == 3


def test_a_smaller_resolution_is_derived_where_the_larger_is_the_file(manifest: Manifest, tmp_path: Path):
    """24 px is the miniature's own size: `plain` leaves it as it is, so 16 px comes out of that cache, bit for bit."""
    alone = _prepare(manifest, tmp_path / "alone", preprocessing="plain").folder
    _prepare(manifest, tmp_path / "c", preprocessing="plain", resolution=24)
    for path in manifest.instances["path"]:
        size = (manifest.root / path).stat().st_size
        (manifest.root / path).write_bytes(bytes(size))  # cannot be decoded any more
    folder = _prepare(manifest, tmp_path / "c", preprocessing="plain").folder
    for name in ("pixels.u8", "sha256.bin", "state.u8"):
        assert (folder / name).read_bytes() == (alone / name).read_bytes()


@pytest.mark.parametrize("name", ["pixels.u8", "verbatim.u8", "sha256.bin", "state.u8", MARKER])
def test_nothing_is_derived_from_a_cache_that_is_damaged(manifest: Manifest, tmp_path: Path, name: str):
    alone = _prepare(manifest, tmp_path / "alone", preprocessing="plain").folder
    larger = _prepare(manifest, tmp_path / "c", preprocessing="plain", resolution=24).folder
    (larger / name).write_bytes((larger / name).read_bytes()[:5])
    folder = _prepare(manifest, tmp_path / "c", preprocessing="plain").folder
    for made in ("pixels.u8", "sha256.bin", "state.u8"):
        assert (folder / made).read_bytes() == (alone / made).read_bytes()


def test_a_cache_without_its_list_of_the_quarantine_can_be_used(manifest: Manifest, tmp_path: Path):
    (manifest.root / manifest.instances["path"].iloc[3]).write_bytes(b"not an image")
    folder = _prepare(manifest, tmp_path / "c").folder
    (folder / "quarantine.csv").unlink()
    assert _prepare(manifest, tmp_path / "c").quarantined == (("row 3", "the reason was lost in a crash"),)


@pytest.mark.parametrize("preprocessing", ["standard", "plain"])
def test_pixels_of_jpeg2000_do_not_depend_on_what_was_prepared_before(tmp_path: Path, preprocessing: str):
    """128 px is their own size; a smaller square is decoded from a reduced resolution, whichever cache lies beside."""
    rows = []
    for number in range(60):
        values = cv2.resize(miniatures.picture(number, 16), (128, 128), interpolation=cv2.INTER_CUBIC)
        values[:8], values[-8:] = 0, 255  # so that stretching leaves them as they are
        miniatures.write_jpeg2000(tmp_path / "root" / f"{number}.dcm", values)
        rows.append([f"{number}.dcm", f"P{number}", number % 2])
    miniatures.write_table(tmp_path / "root" / "labels.csv", "path,patient,nodule", rows)
    manifest = load(DatasetConfig(name="mine", source="csv"), tmp_path / "root")
    alone = _prepare(manifest, tmp_path / "alone", preprocessing=preprocessing, resolution=32).folder
    _prepare(manifest, tmp_path / "c", preprocessing=preprocessing, resolution=128)
    after = _prepare(manifest, tmp_path / "c", preprocessing=preprocessing, resolution=32).folder
    assert (after / "pixels.u8").read_bytes() == (alone / "pixels.u8").read_bytes()


def test_nothing_is_derived_from_pixels_that_were_changed(manifest: Manifest, tmp_path: Path):
    """`paper` equalises: its 24 px are not the file, so the file is asked again."""
    _prepare(manifest, tmp_path / "c", preprocessing="paper", resolution=24)
    for path in manifest.instances["path"]:
        (manifest.root / path).write_bytes(bytes((manifest.root / path).stat().st_size))
    with pytest.raises(DatasetError, match="360 of 360 images are unreadable"):
        _prepare(manifest, tmp_path / "c", preprocessing="paper", resolution=16)


def test_all_resolutions_at_once_are_what_each_is_alone(manifest: Manifest, tmp_path: Path):
    """Also where one of them was half done before, and where a file cannot be read."""
    (manifest.root / manifest.instances["path"].iloc[3]).write_bytes(b"not an image")
    alone = {side: _prepare(manifest, tmp_path / "alone", resolution=side).folder for side in (16, 20)}
    half = _prepare(manifest, tmp_path / "c", resolution=20).folder
    state = np.fromfile(half / "state.u8", np.uint8)
    state[50:] = 0
    state.tofile(half / "state.u8")
    (half / MARKER).unlink()
    settings = {"resolutions": (20, 16), "preprocessing": "standard", "cache": tmp_path / "c", "workers": 2}
    both = prepare_all(manifest, **settings)
    for side, preparation in zip((20, 16), both, strict=True):
        for name in ("pixels.u8", "state.u8", "sha256.bin"):
            assert (preparation.folder / name).read_bytes() == (alone[side] / name).read_bytes()
        assert len(preparation.quarantined) == 1


def test_not_prepared_is_said(manifest: Manifest, tmp_path: Path):
    with pytest.raises(DatasetError, match="not prepared at 16 px with 'standard'"):
        open_cache(manifest, resolution=16, preprocessing="standard", cache=tmp_path)


def test_a_few_unreadable_images_are_quarantined_many_are_refused(manifest: Manifest, tmp_path: Path):
    paths = [manifest.root / path for path in manifest.instances["path"]]
    paths[3].write_bytes(b"not an image")
    preparation = _prepare(manifest, tmp_path / "few")
    cache = open_cache(manifest, resolution=16, preprocessing="standard", cache=tmp_path / "few")
    assert [reason for _, reason in preparation.quarantined] == ["neither PNG, JPEG nor DICOM"]
    assert np.flatnonzero(~cache.readable).tolist() == [3]
    assert paths[3].name in (preparation.folder / "quarantine.csv").read_text()  # local, for whoever repairs it
    for path in paths[:60]:
        path.write_bytes(b"not an image")
    with pytest.raises(
        DatasetError, match=r"60 of 360 images are unreadable \(16.7%\), first [0-9a-f]{16}: neither"
    ) as e:
        _prepare(manifest, tmp_path / "many")
    assert paths[0].name not in str(e.value)
    assert "raise quarantine_limit" in str(e.value)


def _failing(rows: set[int], monkeypatch: pytest.MonkeyPatch, *, again: bool) -> list[int]:
    """Let these rows fail as on a bad day of the disk (`again`) or for what they are; return the rows decoded."""
    asked: list[int] = []

    def decode(tasks: Iterable[Task], *, workers: int) -> Iterator[Decoded]:
        for result in decode_all(tasks, workers=workers):
            asked.append(result.row)
            fails = result.row in rows
            yield Decoded(result.row, None, (), "on purpose", again=again) if fails else result

    monkeypatch.setattr(building, "decode_all", decode)
    return asked


@pytest.mark.parametrize(("again", "quarantined"), [(True, 0), (False, 2)])
def test_what_the_disk_failed_is_tried_again_what_the_file_is_stays_refused(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool, quarantined: int
):
    _failing({3, 9}, monkeypatch, again=again)
    assert len(_prepare(manifest, tmp_path / "c").quarantined) == 2
    asked = _failing(set(), monkeypatch, again=again)
    assert is_prepared(manifest, resolution=16, preprocessing="standard", cache=tmp_path / "c")  # trials open it as is
    second = _prepare(manifest, tmp_path / "c")
    assert len(second.quarantined) == quarantined
    assert sorted(asked) == ([3, 9] if again else [])
    if again:
        alone = _prepare(manifest, tmp_path / "alone").folder
        for name in ("pixels.u8", "state.u8", "sha256.bin"):
            assert (second.folder / name).read_bytes() == (alone / name).read_bytes()


@pytest.mark.parametrize("again", [True, False])
def test_a_cache_beyond_its_limit_is_not_finished_and_tries_all_its_quarantine_again(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
):
    failing = set(range(0, 300, 10))
    _failing(failing, monkeypatch, again=again)
    for _ in range(2):
        with pytest.raises(DatasetError, match="30 of 360 images are unreadable"):
            _prepare(manifest, tmp_path / "c")
        assert not list((tmp_path / "c").rglob(MARKER))
        assert not is_prepared(manifest, resolution=16, preprocessing="standard", cache=tmp_path / "c")
    asked = _failing(set(), monkeypatch, again=again)
    assert _prepare(manifest, tmp_path / "c").quarantined == ()
    assert set(asked) == failing


def test_a_finished_cache_beyond_the_limit_of_another_configuration_tries_again(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """So were caches finished before the marker waited for the limit."""
    _failing({3, 9}, monkeypatch, again=False)
    folder = _prepare(manifest, tmp_path / "c").folder
    strict = dataclasses.replace(manifest, quarantine_limit=0.0)
    with pytest.raises(DatasetError, match="2 of 360 images are unreadable"):
        _prepare(strict, tmp_path / "c")
    assert (folder / MARKER).is_file()  # others have opened it
    assert not is_prepared(strict, resolution=16, preprocessing="standard", cache=tmp_path / "c")
    _failing(set(), monkeypatch, again=False)
    assert _prepare(strict, tmp_path / "c").quarantined == ()


_BUILD = """
import sys, time
from pathlib import Path
from datasets.cache import prepare
from datasets.dataset_config import DatasetConfig
from datasets.decoding import Decoded, Task, decode_all
from datasets.derivation import MARKER
from datasets.sources import load
manifest = load(DatasetConfig(name="nih", source="nih_chest_xray14"), Path(sys.argv[1]))
import datasets.building
datasets.building._SETTLE_EVERY_SECONDS = 0.01
def tell(done, whole):
    print(done, flush=True)
    time.sleep(0.005)
preparation = prepare(manifest, resolution=16, preprocessing="standard", cache=Path(sys.argv[2]), progress=tell)
print("seconds", preparation.seconds, flush=True)
"""


def _start(manifest: Manifest, folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", _BUILD, str(manifest.root), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_a_killed_build_goes_on_where_it_was(manifest: Manifest, tmp_path: Path):
    process = _start(manifest, tmp_path / "c")
    assert process.stdout is not None
    while int(process.stdout.readline()) < 40:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder = next((tmp_path / "c").glob("nih*"))
    state = np.fromfile(folder / "state.u8", np.uint8)
    assert 40 <= (state == 1).sum() < len(manifest)
    assert not (folder / MARKER).exists()
    done = np.flatnonzero(state == 1)
    for row in done:
        (manifest.root / manifest.instances["path"].iloc[row]).write_bytes(b"")  # not to be read again
    _prepare(manifest, tmp_path / "c")
    cache = open_cache(manifest, resolution=16, preprocessing="standard", cache=tmp_path / "c")
    assert cache.readable.all()
    assert cache.pixels.reshape(len(manifest), -1).std(axis=1).min() > 0


def test_two_processes_build_one_cache(manifest: Manifest, tmp_path: Path):
    processes = [_start(manifest, tmp_path / "c") for _ in range(2)]
    lines = [process.communicate(timeout=120)[0].split("\n") for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert sorted(len(line) > 5 for line in lines) == [False, True]  # one built, the other waited
    assert len(list((tmp_path / "c").glob("nih*"))) == 1


def test_a_torn_list_of_the_quarantine_does_no_harm(manifest: Manifest, tmp_path: Path):
    (manifest.root / manifest.instances["path"].iloc[3]).write_bytes(b"not an image")
    folder = _prepare(manifest, tmp_path / "c").folder
    (folder / MARKER).unlink()
    whole = (folder / "quarantine.csv").read_bytes()
    for torn in (whole[:1], whole[:10], whole[:-5], b""):
        (folder / "quarantine.csv").write_bytes(torn)
        (folder / MARKER).unlink(missing_ok=True)
        assert len(_prepare(manifest, tmp_path / "c").quarantined) == 1


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("name", ["pixels.u8", "state.u8", "sha256.bin", "verbatim.u8"])
def test_a_cache_that_was_cut_off_is_told_and_built_anew(manifest: Manifest, tmp_path: Path, finished: bool, name: str):
    """What says that rows are done would let zeros pass for them."""
    folder = _prepare(manifest, tmp_path / "c").folder
    whole = (folder / "pixels.u8").read_bytes()
    with (folder / name).open("r+b") as file:
        file.truncate(5)
    if not finished:
        (folder / MARKER).unlink()
    assert not is_prepared(manifest, resolution=16, preprocessing="standard", cache=tmp_path / "c")
    with pytest.raises(DatasetError, match="cut off since" if finished else "not prepared"):
        open_cache(manifest, resolution=16, preprocessing="standard", cache=tmp_path / "c")
    _prepare(manifest, tmp_path / "c")
    assert (folder / "pixels.u8").read_bytes() == whole
    assert open_cache(manifest, resolution=16, preprocessing="standard", cache=tmp_path / "c").readable.all()


def test_the_marker_comes_last(manifest: Manifest, tmp_path: Path):
    preparation = _prepare(manifest, tmp_path / "c")
    marker = preparation.folder / MARKER
    assert json.loads(marker.read_text())["images"] == len(manifest)
    others = [p.stat().st_mtime_ns for p in preparation.folder.iterdir() if p.name not in (MARKER, "lock")]
    assert marker.stat().st_mtime_ns >= max(others)


def test_a_disk_that_is_too_small_is_told_before_the_start(manifest: Manifest, tmp_path: Path, monkeypatch):
    small = os.statvfs(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _: type("S", (), {"f_bavail": 1, "f_frsize": small.f_frsize}))
    with pytest.raises(DatasetError, match=r"the cache needs 0.1 GB more and 0.0 GB are free"):
        _prepare(manifest, tmp_path / "c", resolution=512)


def test_a_cache_where_none_can_be_is_told(manifest: Manifest, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(
        DatasetError, match=r"a cache cannot be made: Not a directory \(.*/file\); expected a folder that"
    ):
        _prepare(manifest, tmp_path / "file")


def test_resolutions_that_fit_one_by_one_but_not_together_are_refused_before_the_start(
    manifest: Manifest, tmp_path: Path, monkeypatch
):
    pixels = len(manifest) * (256 * 256 + 34)  # of the larger one; its half and more is the other
    monkeypatch.setattr(os, "statvfs", lambda _: type("S", (), {"f_bavail": pixels, "f_frsize": 1}))
    with pytest.raises(DatasetError, match="the cache needs"):
        prepare_all(manifest, resolutions=(192, 256), preprocessing="standard", cache=tmp_path / "c")
    assert not list((tmp_path / "c").glob("*/pixels.u8"))


def test_opening_costs_next_to_nothing(manifest: Manifest, tmp_path: Path):
    _prepare(manifest, tmp_path / "c")
    started = time.perf_counter()
    open_cache(manifest, resolution=16, preprocessing="standard", cache=tmp_path / "c")
    assert time.perf_counter() - started < 0.5
