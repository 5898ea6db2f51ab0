"""What every test may ask for."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from xdist.remote import Producer
    from xdist.scheduler import LoadFileScheduling
    from xdist.workermanage import WorkerController

# The same examples in every run: what fails once fails again. `--hypothesis-profile new` draws others.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.register_profile("new", deadline=None)
hypothesis.settings.load_profile("same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that start clusters."""
    items.sort(key=lambda item: "end_to_end" not in item.path.parts)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "LoadFileScheduling":
    """Say which process runs which file; the tests of a file share what they train."""
    from xdist.scheduler import LoadFileScheduling

    class FromBothEnds(LoadFileScheduling):
        """The first process takes files from the front, the others from the end, until they meet.

        So those that start clusters, of several processes each, run beside those that need one processor.
        """

        def _assign_work_unit(self, node: "WorkerController") -> None:
            if node is not self.nodes[0]:
                self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
            super()._assign_work_unit(node)

    return FromBothEnds(config, log)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder of this process with what `make` puts there; of several processes one makes it, for all."""
    own = factory.mktemp(name)
    made = own.parents["PYTEST_XDIST_WORKER" in os.environ] / f"{name}-for-all"
    with FileLock(made.with_suffix(".lock")):
        if not made.exists():
            make(own)
            shutil.copytree(own, made)
        else:
            shutil.copytree(made, own, dirs_exist_ok=True)
    return own


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store with its tables and nothing in them: making one takes many seconds, copying it none."""
    from mlflow_server.tracking import Tracker

    folder = made_once(tmp_path_factory, "store", lambda folder: Tracker(f"sqlite:///{folder}/mlflow.db", "none"))
    return folder / "mlflow.db"


@pytest.fixture
def store_uri(empty_store: Path, tmp_path: Path) -> str:
    """URI of an MLflow store of the test's own, `mlflow.db` in its folder, with nothing in it."""
    return f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}"


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


@pytest.fixture(scope="session")
def chromium() -> Iterator["Browser"]:
    """The system's Chromium; a test that needs it skips where there is none."""
    from scripts import browser

    try:
        with browser.chromium() as opened:
            yield opened
    except browser.NoChromiumError as problem:
        pytest.skip(str(problem))
