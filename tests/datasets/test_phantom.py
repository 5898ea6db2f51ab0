import hashlib
from pathlib import Path

import numpy as np
import pydicom
import pytest

from datasets.dataset_config import DatasetConfig
from datasets.errors import DatasetError
from datasets.images import read
from datasets.phantom_drawing import Findings, Projection, draw
from datasets.preprocessing import resolve
from datasets.radiograph import Radiograph
from datasets.sources import load
from datasets.sources.phantom import PATHOLOGIES


def _config(**options: object) -> DatasetConfig:
    return DatasetConfig(name="phantom", source="phantom", options={"patients": 24, "size": 96, **options})


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.*")):
        if path.is_file() and not path.name.endswith(".lock"):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def test_the_same_options_give_the_same_bytes(tmp_path: Path):
    manifests = [load(_config(), tmp_path / name) for name in "ab"]
    assert _digest(tmp_path / "a") == _digest(tmp_path / "b")
    assert manifests[0].fingerprint == manifests[1].fingerprint
    assert load(_config(seed=1), tmp_path / "a").fingerprint != manifests[0].fingerprint


def test_films_are_dicom_of_both_kinds_with_windows_and_several_films_per_patient(tmp_path: Path):
    manifest = load(_config(patients=30), tmp_path)
    headers = [pydicom.dcmread(tmp_path / path, stop_before_pixels=True) for path in manifest.instances["path"]]
    assert {header.PhotometricInterpretation for header in headers} == {"MONOCHROME1", "MONOCHROME2"}
    assert {(header.BitsAllocated, header.BitsStored) for header in headers} == {(16, 12)}
    assert all("WindowCenter" in header for header in headers)
    assert manifest.instances["patient"].value_counts().max() >= 3
    assert manifest.pathologies == PATHOLOGIES
    assert 0 < np.isnan(manifest.labels).mean() < 0.15
    assert len({header.SOPInstanceUID for header in headers}) == len(headers)


def test_both_devices_look_alike_once_read(tmp_path: Path):
    manifest = load(_config(), tmp_path)
    films = manifest.instances
    for device in "AB":
        path = films.loc[films["origin"] == device, "path"].iloc[0]
        shown = read(tmp_path / path).displayed()
        spine, lung = shown[10:30, 46:50].mean(), shown[40:50, 26:34].mean()
        assert spine > lung + 0.2  # bone is brighter than air whatever the photometric interpretation


def test_a_hair_line_is_clear_at_128_px_and_lost_at_64():
    contrast = {resolution: _contrast("pneumothorax", resolution) for resolution in (192, 128, 64)}
    assert contrast[192] > contrast[128] > 12
    assert contrast[64] < contrast[128] / 2


def test_coarse_findings_are_as_clear_at_64_px():
    for finding in ("cardiomegaly", "pleural_effusion"):
        assert _contrast(finding, 64) > 0.8 * _contrast(finding, 192) > 12


def _contrast(finding: str, resolution: int) -> float:
    """Mean difference (of 255) over the 0.5 % of pixels that differ most between an ill image and its well twin."""
    twins = [
        draw(
            Findings(**{name: ill and name == finding for name in PATHOLOGIES}),
            Projection("PA", "M"),
            size=384,
            rng=np.random.default_rng(4),
        )
        for ill in (True, False)
    ]
    squares = [resolve("plain").square(Radiograph(twin, 12), resolution).astype(float) for twin in twins]
    difference = np.sort(np.abs(squares[0] - squares[1]).ravel())
    return float(difference[-len(difference) // 200 :].mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"patiens": 10}, "patiens: Extra inputs"), ({"patients": 2}, "patients: Input should be greater")],
)
def test_wrong_options_are_named(tmp_path: Path, options: dict[str, object], message: str):
    with pytest.raises(DatasetError, match=message) as caught:
        load(DatasetConfig(name="demo", source="phantom", options=options), tmp_path)
    assert "patients, size, seed" in str(caught.value)
    assert not list(tmp_path.iterdir())
