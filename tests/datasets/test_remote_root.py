"""Data sets read from an address: fsspec's memory file system, local files, and a web server's folder."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import fsspec
import numpy as np
import pytest

from datasets import remote
from datasets.dataset_config import DatasetConfig
from datasets.errors import DatasetError
from datasets.remote_root import bring, is_address, mirror_of
from datasets.sources import load
from tests.datasets import miniatures

CONFIG = DatasetConfig(name="nih", source="nih_chest_xray14")
LABEL_FILES = 3  # the table and two lists


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 360 images in its own layout, and an image beside them that its table does not name."""
    folder = tmp_path_factory.mktemp("original") / "nih"
    miniatures.nih_chest_xray14(folder)
    miniatures.write_png(folder / "images_001" / "images" / "stray.png", miniatures.picture(1))
    return folder


@pytest.fixture
def bucket(original: Path) -> Iterator[str]:
    system = fsspec.filesystem("memory")
    system.put(str(original), "/bucket/nih", recursive=True)
    yield "memory://bucket/nih"
    system.rm("/bucket", recursive=True)


@pytest.fixture
def website(original: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(original.parent))
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/nih/"
        server.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bucket", "original", "website"])
def test_what_the_manifest_names_is_brought_once_and_reads_as_the_original(
    kind: str, original: Path, tmp_path: Path, request: pytest.FixtureRequest
):
    given = request.getfixturevalue(kind)
    address = f"file://{given}" if kind == "original" else given
    assert is_address(address)
    near = mirror_of(address, tmp_path)
    first = bring(CONFIG, address, near)
    assert load(CONFIG, near).fingerprint == load(CONFIG, original).fingerprint
    assert not list(near.rglob("stray.png"))
    assert first.copied == first.files >= 360
    again = bring(CONFIG, address, near)
    assert (again.copied, again.bytes) == (LABEL_FILES, first.bytes)


def test_an_interrupted_copy_goes_on(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole, copied = remote._copy, []

    def torn(folder: remote.RemoteFolder, inside: PurePosixPath, path: Path) -> None:
        if len(copied) == 100:
            raise ConnectionError
        whole(folder, inside, path)
        copied.append(inside)

    monkeypatch.setattr(remote, "_copy", torn)
    with pytest.raises(ConnectionError):
        bring(CONFIG, bucket, tmp_path / "near", workers=1)
    monkeypatch.setattr(remote, "_copy", whole)
    done = bring(CONFIG, bucket, tmp_path / "near")
    assert done.copied == done.files - 100 + LABEL_FILES


def test_archives_that_lie_beside_the_images_are_left_there(bucket: str, tmp_path: Path):
    system = fsspec.filesystem("memory")
    for name in ("images_01.tar.gz", "0.zip", "README.pdf"):
        system.pipe_file(f"/bucket/nih/{name}", b"x" * 1000)
    done = bring(CONFIG, bucket, tmp_path / "near")
    assert done.files == len(load(CONFIG, tmp_path / "near")) + LABEL_FILES
    assert not [path for path in (tmp_path / "near").iterdir() if path.suffix in (".gz", ".zip", ".pdf")]


def test_a_table_and_images_of_any_ending_are_brought_where_they_are_named(tmp_path: Path):
    original = tmp_path / "original"
    original.mkdir()
    rows = ["path,patient,nodule", *(f"film{number},p{number},{number % 2}" for number in range(40))]
    (original / "export.dat").write_text("\n".join(rows))
    for number in range(41):  # one more than the table names
        miniatures.write_png(original / f"film{number}", miniatures.picture(number))
    config = DatasetConfig(name="ours", source="csv", options={"table": "export.dat"})
    bring(config, f"file://{original}", tmp_path / "near")
    assert load(config, tmp_path / "near").fingerprint == load(config, original).fingerprint
    assert not (tmp_path / "near" / "film40").exists()


def corrected(system: fsspec.AbstractFileSystem) -> bytes:
    """The table with nodules for hernias and hernias for nodules, as long as it was."""
    table: bytes = system.cat_file("/bucket/nih/Data_Entry_2017_v2020.csv")
    swapped = table.replace(b"Hernia", b"?").replace(b"Nodule", b"Hernia").replace(b"?", b"Nodule")
    assert len(swapped) == len(table)
    return swapped


def test_labels_that_were_corrected_at_equal_size_are_read(bucket: str, tmp_path: Path):
    bring(CONFIG, bucket, tmp_path / "near")
    before = load(CONFIG, tmp_path / "near")
    system = fsspec.filesystem("memory")
    swapped = corrected(system)
    system.pipe_file("/bucket/nih/Data_Entry_2017_v2020.csv", swapped)
    assert bring(CONFIG, bucket, tmp_path / "near").copied == LABEL_FILES
    after = load(CONFIG, tmp_path / "near")
    hernia, nodule = (before.pathologies.index(name) for name in ("hernia", "nodule"))
    np.testing.assert_array_equal(after.labels[:, [hernia, nodule]], before.labels[:, [nodule, hernia]])
    assert (before.labels[:, hernia] != before.labels[:, nodule]).any()


def test_what_its_owner_removed_is_removed_and_a_table_of_another_name_is_read(bucket: str, tmp_path: Path):
    bring(CONFIG, bucket, tmp_path / "near")
    before = load(CONFIG, tmp_path / "near")
    system = fsspec.filesystem("memory")
    swapped = corrected(system)
    system.pipe_file("/bucket/nih/Data_Entry_2017.csv", swapped)  # as it was named before
    gone = before.instances["path"].iloc[0]
    for name in ("Data_Entry_2017_v2020.csv", gone):
        system.rm(f"/bucket/nih/{name}")
    bring(CONFIG, bucket, tmp_path / "near")
    system.get("/bucket/nih", str(tmp_path / "original"), recursive=True)
    after, original = (load(CONFIG, tmp_path / name) for name in ("near", "original"))
    assert after.fingerprint == original.fingerprint != before.fingerprint
    assert not (tmp_path / "near" / gone).exists()
    hernia, nodule = (after.pathologies.index(name) for name in ("hernia", "nodule"))
    np.testing.assert_array_equal(after.labels[:, hernia], before.labels[:, nodule])


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"size": 7}, "bytes of a file arrived, 7 are listed"),
        ({"content_settings": {"content_md5": bytearray(16)}}, "another MD5 than its storage lists"),
        ({"md5Hash": "AAAAAAAAAAAAAAAAAAAAAA=="}, "another MD5 than its storage lists"),
    ],
)
def test_a_file_that_did_not_arrive_as_listed_is_refused(
    bucket: str, tmp_path: Path, told: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
):
    system = fsspec.filesystem("memory")
    listed = {name: {**entry, **told} for name, entry in system.find("/bucket/nih", detail=True).items()}
    monkeypatch.setattr(type(system), "find", lambda *_, **__: listed)
    with pytest.raises(DatasetError, match=message):
        bring(CONFIG, bucket, tmp_path / "near")
    assert not [path for path in (tmp_path / "near").rglob("*") if path.is_file()]


def test_files_outside_the_folder_are_refused(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    system = fsspec.filesystem("memory")
    listed = {"/bucket/nih/../../etc/evil.csv": {"size": 3, "type": "file"}}
    monkeypatch.setattr(type(system), "find", lambda *_, **__: listed)
    with pytest.raises(DatasetError, match="outside the folder"):
        bring(CONFIG, bucket, tmp_path / "near")


def test_what_is_no_such_data_set_is_said_with_its_address_and_no_secret(bucket: str, tmp_path: Path):
    fsspec.filesystem("memory").rm("/bucket/nih/test_list.txt")
    with pytest.raises(DatasetError, match=r"no file test_list\w*\.txt \(memory://bucket/nih"):
        bring(CONFIG, bucket, tmp_path / "near")
    with pytest.raises(DatasetError, match="fsspec cannot open it") as caught:
        bring(CONFIG, "nosuch://user:secret@host/x?token=secret", tmp_path / "near")
    assert "secret" not in str(caught.value)


def test_addresses_are_told_from_paths_and_their_mirrors_apart(tmp_path: Path):
    assert is_address("s3://bucket/nih")
    assert is_address("simplecache::s3://bucket/nih")
    assert not is_address("/data/nih")
    assert not is_address("data/nih")
    one = mirror_of("s3://bucket/nih", tmp_path)
    assert one.name.startswith("nih-")
    assert one == mirror_of("s3://bucket/nih/", tmp_path) != mirror_of("s3://other/nih", tmp_path)
    assert mirror_of("https://u:p@host/nih", tmp_path) == mirror_of("https://host/nih?token=x", tmp_path)
    assert mirror_of("http://host:8080/nih", tmp_path) != mirror_of("http://host:8081/nih", tmp_path)
