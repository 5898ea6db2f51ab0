"""What every test may ask for."""

import os
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
