"""A tiny study through the real command line: Ray, Optuna, MLflow, a phantom and a small network."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from search import ledger
from tests.conftest import made_once

ROOT = Path(__file__).parents[2]
STUDY = """
name: tiny
axes:
  dataset: phantom
  initialization: random
  backbone: [test_convnext2, test_vit3]
  resolution: 32
search: {learning_rate: [1e-3, 1e-4, 3e-3]}
data: {phantom: {patients: 48, size: 64}}
recipe: {epochs: 4, batch_size: 16, warmup_epochs: 0.5, augmentation: paper}
evaluation: {redraws: 200, metadata_baseline: true}
"""


class Command:
    """Runs `python -m search …` on a study in a storage folder."""

    def __init__(self, folder: Path, study: str = STUDY):
        self.storage = folder / "storage"
        self.study = folder / "study.yaml"
        self.study.write_text(study)
        self.folder = self.storage / "tiny"

    def words(self, command: str, *more: str) -> list[str]:
        place = [] if command == "plan" else ["--storage", str(self.storage)]
        shown = ["--progress", "lines"] if command == "run" else []
        return [sys.executable, "-m", "search", command, str(self.study), *place, *shown, *more]

    def __call__(self, command: str, *more: str, code: int = 0) -> str:
        done = subprocess.run(
            self.words(command, *more),
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == code, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout if code in {0, 1} else done.stdout + done.stderr

    def events(self) -> list[ledger.Event]:
        return list(ledger.read(self.folder / "ledger.jsonl").events)

    def kill_when(self, due: Callable[[list[ledger.Event]], bool]) -> None:
        """Start a run and SIGKILL its driver as soon as the ledger says so."""
        driver = subprocess.Popen(
            self.words("run"), cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 400
        while not due(self.events()):
            assert driver.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, "the ledger never came to the point"
            time.sleep(0.02)
        driver.send_signal(signal.SIGKILL)
        driver.wait()


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Command:
    """The tiny study, run to its end."""
    return Command(made_once(tmp_path_factory, "undisturbed", lambda folder: Command(folder)("run")))


@pytest.fixture
def elsewhere(tmp_path, empty_store) -> Command:
    """The same study, not run yet."""
    (tmp_path / "storage").mkdir()
    shutil.copy(empty_store, tmp_path / "storage")
    return Command(tmp_path)


@pytest.fixture
def again(undisturbed, tmp_path) -> Command:
    """A copy of the finished study, to change."""
    shutil.copytree(undisturbed.storage, tmp_path / "storage")
    return Command(tmp_path)
