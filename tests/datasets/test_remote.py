"""Remote storage, played by fsspec's own memory file system."""

import dataclasses
import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from datasets import building, whole_file
from datasets.cache import open_cache, prepare
from datasets.dataset_config import DatasetConfig
from datasets.decoding import Decoded
from datasets.errors import DatasetError
from datasets.manifest import Manifest
from datasets.remote import mirror, public
from datasets.sources import load
from tests.datasets import miniatures

CONFIG = DatasetConfig(name="rsna", source="rsna_pneumonia", validation_fraction=0.3)


@pytest.fixture
def bucket() -> Iterator[str]:
    system = fsspec.filesystem("memory")
    yield "memory://bucket/rsna"
    system.rm("/bucket", recursive=True)


def _upload(folder: Path, address: str) -> None:
    system = fsspec.filesystem("memory")
    system.put(str(folder), address.removeprefix("memory:/"), recursive=True)


def test_a_data_set_is_read_from_its_mirror(tmp_path: Path, bucket: str):
    miniatures.rsna_pneumonia(tmp_path / "far")
    _upload(tmp_path / "far", bucket)
    first = mirror(bucket, tmp_path / "near")
    again = mirror(bucket, tmp_path / "near")
    assert first.copied == first.files > miniatures.PATIENTS
    assert (again.copied, again.files, again.bytes) == (2, first.files, first.bytes)  # the two tables
    assert load(CONFIG, tmp_path / "near").fingerprint == load(CONFIG, tmp_path / "far").fingerprint


def test_a_prepared_cache_is_opened_from_its_mirror(tmp_path: Path, bucket: str):
    miniatures.rsna_pneumonia(tmp_path / "far")
    manifest = load(CONFIG, tmp_path / "far")
    prepare(manifest, resolution=16, preprocessing="standard", cache=tmp_path / "c")
    _upload(tmp_path / "c", bucket)
    mirror(bucket, tmp_path / "mirrored")
    opened = [
        open_cache(manifest, resolution=16, preprocessing="standard", cache=tmp_path / n) for n in ("c", "mirrored")
    ]
    np.testing.assert_array_equal(opened[0].pixels, opened[1].pixels)


def test_an_interrupted_copy_goes_on_and_its_marker_comes_last(tmp_path: Path, bucket: str, monkeypatch):
    import datasets.remote

    for name in ("complete.json", "pixels.u8", "state.u8"):
        (tmp_path / "far" / "k").mkdir(parents=True, exist_ok=True)
        (tmp_path / "far" / "k" / name).write_bytes(b"12345")
    _upload(tmp_path / "far", bucket)
    whole = datasets.remote._copy

    def torn(system, name: str, path: Path) -> None:
        if path.name == "state.u8":
            raise ConnectionError
        whole(system, name, path)

    monkeypatch.setattr(datasets.remote, "_copy", torn)
    with pytest.raises(ConnectionError):
        mirror(bucket, tmp_path / "near", workers=1)
    assert not list((tmp_path / "near").rglob("complete.json"))
    monkeypatch.setattr(datasets.remote, "_copy", whole)
    assert mirror(bucket, tmp_path / "near").copied == 3  # a cache without its marker is copied from its beginning
    assert {path.name for path in (tmp_path / "near" / "k").iterdir()} == {"complete.json", "pixels.u8", "state.u8"}


@pytest.mark.parametrize("begun_here", [False, True], ids=["nothing here", "begun here, too"])
def test_a_cache_that_is_being_built_is_left_out_and_copied_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun_here: bool
):
    """Its arrays have their full size from the first row on."""
    miniatures.rsna_pneumonia(tmp_path / "data")
    manifest = load(CONFIG, tmp_path / "data")
    far, near = tmp_path / "far", tmp_path / "near"
    for place in (far, near) if begun_here else (far,):
        _begin(manifest, place, monkeypatch)
    (far / "beside.txt").write_text("not of a cache")
    first = mirror(f"file://{far}", near)
    assert (first.files, first.unfinished) == (2, 1)  # that one, and the key of the hashes
    prepare(manifest, resolution=16, preprocessing="standard", cache=far)
    second = mirror(f"file://{far}", near)
    assert second.unfinished == 0
    caches = [open_cache(manifest, resolution=16, preprocessing="standard", cache=place) for place in (far, near)]
    np.testing.assert_array_equal(caches[0].pixels, caches[1].pixels)
    assert caches[1].readable.all()
    assert mirror(f"file://{far}", near).copied == 1  # beside.txt: a text outside of a cache


@pytest.mark.parametrize(
    ("name", "anew"),
    [
        ("labels.csv", True), ("LABELS.CSV", True), ("labels.csv.gz", True), ("t/list.txt", True), ("a.json", True),
        ("film.png", False), ("film.dcm.gz", False), ("film", False), ("cache/quarantine.csv", False),
    ],
)  # fmt: skip
def test_of_files_that_changed_at_equal_size_those_with_labels_are_copied_anew(tmp_path: Path, name: str, anew: bool):
    far, near = tmp_path / "far", tmp_path / "near"
    for inside in ("cache/pixels.u8", "cache/complete.json", name):
        (far / inside).parent.mkdir(parents=True, exist_ok=True)
        (far / inside).write_text("p1,0")
    assert mirror(f"file://{far}", near).copied == 3
    (far / name).write_text("p1,1")
    assert mirror(f"file://{far}", near).copied == int(anew)
    assert (near / name).read_text() == ("p1,1" if anew else "p1,0")


def test_what_undoes_hashes_or_names_files_stays_readable_by_its_owner_only(tmp_path: Path):
    miniatures.rsna_pneumonia(tmp_path / "data")
    manifest = load(CONFIG, tmp_path / "data")
    (manifest.root / manifest.instances["path"].iloc[3]).write_bytes(b"not an image")
    lenient = dataclasses.replace(manifest, quarantine_limit=0.1)
    folder = prepare(lenient, resolution=16, preprocessing="standard", cache=tmp_path / "far").folder
    before = os.umask(0o022)
    try:
        mirror(f"file://{tmp_path / 'far'}", tmp_path / "near")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "near").rglob("*") if path.is_file()}
    assert modes.pop("case.key") == modes.pop("quarantine.csv") == 0o600
    assert set(modes.values()) == {0o644}
    assert {*modes, "case.key", "quarantine.csv"} == {path.name for path in (*folder.iterdir(), folder / "case.key")}


def test_what_killed_copies_left_is_removed_unless_another_may_be_at_it(tmp_path: Path, bucket: str, monkeypatch):
    (tmp_path / "far" / "k").mkdir(parents=True)
    (tmp_path / "far" / "k" / "pixels.u8").write_bytes(b"12345")
    _upload(tmp_path / "far", bucket)
    (tmp_path / "near" / "k").mkdir(parents=True)
    own = [".pixels.u8.0a1b2c3d", ".notes.0a1b2c3d", ".pixels.u8.orig"]  # the first is what a copy is called meanwhile
    for name in (*own, ".pixels.u8.4e5f6071"):
        (tmp_path / "near" / "k" / name).write_bytes(b"123")
    for name in own:
        os.utime(tmp_path / "near" / "k" / name, (0, 0))
    mirror(bucket, tmp_path / "near")
    assert {path.name for path in (tmp_path / "near" / "k").iterdir()} == {*own[1:], ".pixels.u8.4e5f6071"}


def test_a_copied_file_is_synced_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "film.png").write_bytes(b"12345")
    synced: list[tuple[int, bool]] = []
    near = tmp_path / "near"

    def sync(path: Path) -> None:
        if path.is_file():
            synced.append((path.stat().st_size, (near / "film.png").exists()))

    monkeypatch.setattr(whole_file, "sync", sync)
    mirror(f"file://{tmp_path / 'far'}", near)
    assert synced == [(5, False)]
    assert [path.name for path in near.iterdir()] == ["film.png"]


def _begin(manifest: Manifest, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Build a cache up to half its rows, as a kill would leave it."""
    whole = building.decode_all

    def torn(*arguments: Any, **settings: Any) -> Iterator[Decoded]:
        yield from islice(whole(*arguments, **settings), len(manifest) // 2)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(building, "decode_all", torn)
        with pytest.raises(KeyboardInterrupt):
            prepare(manifest, resolution=16, preprocessing="standard", cache=cache)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("memory://bucket/nothing", "no files|cannot list"),
        ("nosuch://user:secret@host/x?token=secret", "fsspec cannot open it"),
    ],
)
def test_what_cannot_be_reached_is_said_without_secrets(tmp_path: Path, address: str, message: str):
    with pytest.raises(DatasetError, match=message) as caught:
        mirror(address, tmp_path / "near")
    assert "secret" not in str(caught.value)


def test_a_file_is_no_folder(tmp_path: Path, bucket: str):
    fsspec.filesystem("memory").pipe_file("/bucket/labels.csv", b"a,b")
    with pytest.raises(DatasetError, match=r"this is a file \(memory://bucket/labels.csv\); expected the folder"):
        mirror("memory://bucket/labels.csv", tmp_path / "near")
    assert not (tmp_path / "near").exists()


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("s3://bucket/a/b", "s3://bucket/a/b"),
        ("s3://key:secret@bucket/a@b?versionId=secret", "s3://bucket/a@b"),
        ("https://anna:secret@host:8080/a@b#secret", "https://host:8080/a@b"),
        ("https://host:8080/a@b", "https://host:8080/a@b"),
        ("https://anna:sec?ret@host/a", "https://host/a"),
        ("https://anna:sec/r@et@host/a", "https://host/a"),
        ("https://anna:secret@[::1]:8080/a", "https://[::1]:8080/a"),
        ("simplecache::s3://key:secret@bucket/a", "simplecache::s3://bucket/a"),
        ("zip://b::ftp://anna:secret@host/a.zip?token=secret", "zip://b::ftp://host/a.zip"),
        ("/data/a@b?c", "/data/a@b?c"),
    ],
)
def test_an_address_is_shown_without_its_secrets(address: str, shown: str):
    assert public(address) == shown


def test_a_link_to_nothing_is_said_without_its_name(tmp_path: Path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "Muster^Erika.dcm").symlink_to(tmp_path / "gone")
    with pytest.raises(DatasetError, match="a file cannot be copied: No such file or directory") as caught:
        mirror(f"file://{tmp_path / 'far'}", tmp_path / "near")
    assert "Muster" not in str(caught.value)
    assert caught.value.__cause__ is None
