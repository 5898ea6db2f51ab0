"""Tables that pandas would read otherwise than they are meant, or not at all."""

import gzip
from pathlib import Path

import pytest

from datasets.errors import DatasetError
from datasets.source_table import read_csv

_ROWS = "a.png,p1,0\nb.png,p2,1\n"
_UMLAUT = "path,patient,Knötchen\n" + _ROWS


@pytest.mark.parametrize("packed", [False, True], ids=["csv", "csv.gz"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        # As many cells too many in every line: the first column would become an index, all others would move.
        (b"path,patient,nodule\na.png,p1,0,\nb.png,p2,1,\n", r"line 2: 4 cells, the header has 3 .*commas at the end"),
        (b"path,patient,nodule\na.png,p1,0,seen by Dr X\nb.png,p2,1,\n", "line 2: 4 cells, the header has 3"),
        (b"path,patient,nodule\na.png,p1,0,1,2\n", "line 2: 5 cells, the header has 3"),
        (b"path,patient,nodule\na.png,p1,0\nb.png,p2,1,,\n", "line 3: 5 cells, the header has 3"),
        (b'path,patient,nodule\n"a\n.png",p1,0\n\nb.png,p2,1,x\n', "line 5: 4 cells, the header has 3"),
        (b"path;patient;nodule\na.png;p1;0\n", "no column 'path', 'patient' .*separated by commas; .*semicolons or"),
        (b"path\tpatient\tnodule\na.png\tp1\t0\n", "no column 'path', 'patient' .*separated by commas; .*or tabs"),
        (b"path;patient;size\na.png;p1;1,5\n", "line 2: 2 cells, the header has 1 .*separated by commas"),
        (b"path,patients\na.png,p1\n", "has no column 'patient' .*expected columns 'path', 'patient'; use the file as"),
        (b"path,patient\n", "has no rows"),
        (b"", "cannot be read as a table: EmptyDataError"),
        (b'path,patient\n"a.png,p1\n', "cannot be read as a table: ParserError"),
    ],
)
def test_what_is_wrong_with_a_table_is_told_with_its_line(tmp_path: Path, content: bytes, message: str, packed: bool):
    path = tmp_path / ("labels.csv.gz" if packed else "labels.csv")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DatasetError, match=message) as caught:
        read_csv(path, columns=("path", "patient"))
    assert path.name in str(caught.value)
    assert ".png" not in str(caught.value)
    assert "Dr X" not in str(caught.value)


@pytest.mark.parametrize(
    ("encoding", "told"),
    [("cp1252", "WINDOWS-1252"), ("latin-1", "WINDOWS-1252"), ("utf-16", "UTF-16")],
)
@pytest.mark.parametrize(("name", "advice"), [("labels.csv", "convert it"), ("labels.csv.gz", "unpack and convert it")])
def test_a_table_that_is_not_utf8_is_told_with_its_conversion(
    tmp_path: Path, encoding: str, told: str, name: str, advice: str
):
    content = _UMLAUT.encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    message = (
        rf"{name} is not in UTF-8, perhaps in {told} .*; "
        rf"{advice}: iconv -f {told} -t UTF-8 labels.csv > converted.csv"
    )
    with pytest.raises(DatasetError, match=message):
        read_csv(tmp_path / name, columns=("path", "patient"))


@pytest.mark.parametrize(
    "content",
    [
        _UMLAUT.encode(),
        _UMLAUT.encode("utf-8-sig"),
        _UMLAUT.replace("\n", "\r\n").encode(),
        _UMLAUT.replace("\n", "\n\n").encode(),
    ],
    ids=["utf-8", "byte order mark", "windows", "empty lines"],
)
def test_tables_of_every_make_are_read(tmp_path: Path, content: bytes):
    (tmp_path / "labels.csv").write_bytes(content)
    table = read_csv(tmp_path / "labels.csv", columns=("path", "patient"))
    assert table.columns.tolist() == ["path", "patient", "Knötchen"]
    assert table.to_numpy().tolist() == [["a.png", "p1", "0"], ["b.png", "p2", "1"]]


def test_cells_that_are_missing_at_the_end_are_empty(tmp_path: Path):
    (tmp_path / "labels.csv").write_text("path,patient,nodule\na.png,p1\nb.png,p2,1\n")
    assert read_csv(tmp_path / "labels.csv", columns=("path",))["nodule"].tolist() == ["", "1"]
