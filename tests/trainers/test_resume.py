import subprocess
import sys
from pathlib import Path

import pytest

from trainers import checkpoint

ROOT = Path(__file__).parents[2]


def state(folder: Path) -> dict[str, object]:
    """Everything that must not depend on how often a training was killed."""
    last = checkpoint.find_last(folder)
    assert last is not None
    progress = checkpoint.read_progress(last)
    tensors = {
        f"{path.parent.name}/{path.name}": path.read_bytes()
        for path in sorted(folder.rglob("*.safetensors"))
        if not path.parent.name.startswith(".")
    }
    return {
        "tensors": {name.replace("-again", ""): content for name, content in tensors.items()},
        "metrics": [(event.epoch, event.metrics, event.undefined) for event in progress.history],
        "best": (progress.best_epoch, progress.best_value, progress.best_sha256),
        "place": (progress.epoch, progress.step, progress.loss_sum, progress.state),
    }


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_training_killed_at_random_moments_ends_with_the_same_bytes(tmp_path: Path, seed: int) -> None:
    """SIGKILL, in mid-epoch too, with augmentation, dropout, batch norm, moving average and two loader workers."""
    script = Path(__file__).with_name("killed_training.py")
    arguments = [tmp_path / "data", tmp_path / "undisturbed", tmp_path / "killed", seed]
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        check=False,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) >= 2, "too few kills to show anything"
    undisturbed, killed = state(tmp_path / "undisturbed"), state(tmp_path / "killed")
    assert undisturbed["metrics"] == killed["metrics"]
    assert undisturbed["best"] == killed["best"]
    assert undisturbed["place"] == killed["place"]
    assert len(undisturbed["tensors"]) == 4  # network, optimizer, moving average; best network
    assert undisturbed["tensors"] == killed["tensors"]
