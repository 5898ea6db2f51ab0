"""`python -m datasets verify|prepare|gc` as a user meets it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from datasets.cleaning import record_uses
from datasets.dataset_config import DatasetConfig
from datasets.sources import load, read
from datasets.verify import data_card
from tests.datasets import miniatures

pytestmark = pytest.mark.slow  # every test starts processes
ROOT = Path(__file__).parents[2]


def _run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "datasets", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture
def root(tmp_path: Path) -> Path:
    miniatures.nih_chest_xray14(tmp_path / "root")
    return tmp_path / "root"


def test_verify_prints_a_data_card(root: Path):
    card = json.loads(_run("verify", "nih_chest_xray14", "--root", root, "--json").stdout)
    assert card["images"] == 360
    assert card["patients"] == 180
    assert card["completeness"] == "subset"
    assert card["films_per_patient"] == {"mean": 2.0, "most": 2}
    assert sum(part["images"] for part in card["partitions"].values()) == 360
    nodule = card["pathologies"]["nodule"]["train"]
    assert nodule["positive"] + nodule["negative"] == card["partitions"]["train"]["images"]
    assert card["files"] == {
        "readable": 360, "unreadable": 0, "reasons": {}, "duplicates": 0, "duplicates_across_partitions": 0,
    }  # fmt: skip
    assert "a subset" in _run("verify", "nih_chest_xray14", "--root", root, "--no-images").stdout


def test_verify_counts_what_is_broken_or_doubled_and_names_it_in_the_local_list_only(root: Path, tmp_path: Path):
    images = sorted((root / "images_001" / "images").iterdir())
    _run("prepare", "nih_chest_xray14", "--root", root, "--cache", tmp_path / "c", "--resolution", 16)
    images[0].write_bytes(b"broken")
    images[1].write_bytes(images[2].read_bytes())
    done = _run(
        "verify", "nih_chest_xray14", "--root", root, "--json", "--files", tmp_path / "list.tsv"
    )  # fmt: skip
    card = json.loads(done.stdout)
    assert card["files"]["unreadable"] == 1
    assert card["files"]["reasons"] == {"neither PNG, JPEG nor DICOM": 1}
    assert card["files"]["duplicates"] == 1
    assert images[0].name in (tmp_path / "list.tsv").read_text()
    assert images[0].name not in done.stdout + done.stderr


def _verified(root: Path, cache: Path, *words: object, code: int) -> str:
    return _run("verify", "nih_chest_xray14", "--root", root, "--cache", cache, "--no-images", *words, code=code).stdout


def test_verify_finds_a_silently_flipped_bit(root: Path, tmp_path: Path):
    """Same size, still decodable: only the content hash of the cache knows, be it the first or another one."""
    _run("prepare", "nih_chest_xray14", "--root", root, "--cache", tmp_path / "c", "--resolution", 32)
    assert "changed since prepared: 0" in _verified(root, tmp_path / "c", code=0)
    path = sorted((root / "images_002" / "images").iterdir())[3]
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # in the checksum of the end chunk, which no decoder looks at
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    _run("prepare", "nih_chest_xray14", "--root", root, "--cache", tmp_path / "c", "--resolution", 16)  # as it is now
    assert json.loads(_verified(root, tmp_path / "c", "--json", code=1))["changed_since_prepared"] == 1


def test_verify_says_when_there_was_no_cache_to_compare(root: Path, tmp_path: Path):
    _run("prepare", "nih_chest_xray14", "--root", root, "--cache", tmp_path / "c", "--resolution", 16)
    path = sorted((root / "images_002" / "images").iterdir())[3]
    path.write_bytes(path.read_bytes() + b"longer")  # another manifest, of which no cache was prepared
    for cache in (tmp_path / "c", tmp_path / "nothing"):
        assert "changed since prepared: nothing was compared" in _verified(root, cache, code=1)
        assert json.loads(_verified(root, cache, "--json", code=1))["changed_since_prepared"] is None


def test_prepare_says_bytes_first_and_goes_on_for_nothing_the_second_time(root: Path, tmp_path: Path):
    arguments = ("prepare", "nih_chest_xray14", "--root", root, "--cache", tmp_path / "c", "--resolution", 16)
    first = _run(*arguments, "--resolution", 32, "--workers", 2).stdout.split("\n")
    assert first[0] == "360 images at 16, 32 px: 0.00 GB"
    assert "16 px: 360 readable, 0 quarantined" in first[1]
    again = _run(*arguments, "--resolution", 32).stdout
    assert "32 px: 360 readable, 0 quarantined" in again
    assert again.endswith("0.0 s\n")


def test_gc_shows_first_and_removes_only_when_told(root: Path, tmp_path: Path):
    _run(
        "prepare", "nih_chest_xray14", "--root", root, "--cache", tmp_path / "c", "--resolution", 16, "--resolution", 32
    )
    folders = sorted(path for path in (tmp_path / "c").iterdir() if path.is_dir())
    assert _run("gc", "--cache", tmp_path / "c", "--idle-days", 30).stdout.count("kept") == 2
    assert _run("gc", "--cache", tmp_path / "c").stdout.count("unused") == 2
    assert all(folder.is_dir() for folder in folders)
    (tmp_path / "chest-study").mkdir()
    record_uses(tmp_path / "chest-study", [folders[0].name])
    told = _run("gc", "--cache", tmp_path / "c", "--remove").stdout
    assert f"{folders[0].name}  used by chest-study" in told
    assert "removed 1 caches" in told
    assert [folder.is_dir() for folder in folders] == [True, False]
    (tmp_path / "chest-study" / "caches.json").write_text("[")
    told = _run("gc", "--cache", tmp_path / "c", "--remove", code=2).stderr
    assert "the record of caches in use cannot be read" in told
    (tmp_path / "chest-study" / "caches.json").unlink()
    assert "unused" not in _run("gc", "--cache", tmp_path / "c", "--keep", folders[0].name, "--remove").stdout
    assert folders[0].is_dir()
    assert "there is no such cache" in _run("gc", "--cache", tmp_path / "c", "--keep", "nothing", code=2).stderr


def test_prepare_reads_from_an_address(root: Path, tmp_path: Path):
    arguments = ("prepare", "nih_chest_xray14", "--root", f"file://{root}", "--resolution", 16)
    done = _run(*arguments, "--cache", tmp_path / "storage" / "cache")
    assert "16 px: 360 readable, 0 quarantined" in done.stdout
    (mirrored,) = (path for path in (tmp_path / "storage" / "mirrors").iterdir() if path.is_dir())
    assert len(list(mirrored.rglob("*.png"))) == 360


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("verify", "nihh", "--root", "x"), "unknown source 'nihh'"),
        (("verify", "nih_chest_xray14", "--root", "nowhere"), "no folder nowhere"),
        (("verify", "chexpert", "--root", ".", "--option", "vews=all"), "vews: Extra inputs"),
        (
            ("verify", "csv", "--root", ".", "--option", "findings=[Nodule]"),
            """--option findings=[Nodule] is no JSON; expected a list or an object; put it into single quotes""",
        ),
        (("verify", "chexpert", "--root", ".", "--labels", "papers"), "unknown label list 'papers'"),
        (("fetch", f"file://{ROOT / 'docs'}", "--root", ROOT / "LICENSE"), "File exists; look at the folders"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: tuple[str, ...], message: str):
    done = _run(*arguments, code=2)
    assert message in done.stderr
    assert len(done.stderr.strip().split("\n")) == 1


def test_an_image_that_serves_for_validation_and_test_counts_once(tmp_path: Path):
    miniatures.vindr_pcxr(tmp_path)
    configs = [
        DatasetConfig(name="p", source="vindr_pcxr", options={"validation_on_test": both}) for both in (False, True)
    ]
    cards = [data_card(config, read(config, tmp_path), load(config, tmp_path)) for config in configs]
    for key in ("images", "patients", "cases", "films_per_patient", "views", "sexes", "ages", "files"):
        assert cards[1][key] == cards[0][key], key
    assert cards[1]["partitions"]["val"] == cards[1]["partitions"]["test"] == cards[0]["partitions"]["test"]
    assert cards[1]["files"]["duplicates"] == 0
