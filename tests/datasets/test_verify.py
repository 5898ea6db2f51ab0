"""What `verify` tells beside the counts; the command itself is tried in test_command_line.py."""

import json
from pathlib import Path

from datasets.cache import prepare
from datasets.dataset_config import DatasetConfig
from datasets.derivation import MARKER
from datasets.sources import load
from datasets.verify import prepared, unreadable
from tests.datasets import miniatures


def test_a_broken_image_that_serves_for_validation_and_test_is_listed_once(tmp_path: Path):
    miniatures.vindr_pcxr(tmp_path)
    manifest = load(DatasetConfig(name="p", source="vindr_pcxr", options={"validation_on_test": True}), tmp_path)
    broken = str(manifest.instances["path"].iloc[manifest.rows("test")[0]])
    (tmp_path / broken).write_bytes(b"broken")
    assert [path for path, _ in unreadable(manifest)] == [broken]


def test_folders_beside_the_caches_are_passed_over(tmp_path: Path):
    miniatures.vindr_pcxr(tmp_path / "root")
    manifest = load(DatasetConfig(name="p", source="vindr_pcxr"), tmp_path / "root")
    whole = prepare(manifest, resolution=16, preprocessing="standard", cache=tmp_path / "c").folder
    for name, content in (
        (f"{whole.name}-old", (whole / MARKER).read_text()),
        ("nih-224-torn", '{"resolution": 2'),
        ("a-b-c", json.dumps({})),
    ):
        (tmp_path / "c" / name).mkdir()
        (tmp_path / "c" / name / MARKER).write_text(content)
    assert prepared(manifest, tmp_path / "c") == [(16, "standard")]
    prepare(manifest, resolution=8, preprocessing="standard", cache=tmp_path / "c")  # asks the same markers
