"""What every test may ask for."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data sets; a test that needs them skips where they are absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("RADSWEEP_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"the real data are not at {folder}; set RADSWEEP_SHARED_DATA to their folder")
    return folder


@pytest.fixture(autouse=True)
def own_surroundings() -> Iterator[None]:
    """Keep the user's MLflow and radsweep settings out of a test, and a test's out of the next.

    `mlflow.set_tracking_uri` also sets MLFLOW_TRACKING_URI, which every later command would follow.
    """
    before = dict(os.environ)
    for name in before:
        if name.startswith("MLFLOW_") or name in {"RADSWEEP_STORAGE", "RADSWEEP_DATA"}:
            del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_tracking_uri("")
