"""Trains in children that are killed at random moments until one gets to the end; started by test_resume.py.

One process imports torch and forks, because importing anew for every kill would take most of the test's time.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from datasets.dataset_config import DatasetConfig
from trainers.recipes import Recipe
from trainers.train import train
from trainers.trial import Operation, TrialConfig

CONFIG = TrialConfig(
    dataset=DatasetConfig(name="phantom", source="phantom", options={"patients": 30, "size": 64}),
    initialization="random",
    backbone="test_efficientnet",
    resolution=64,
    recipe=Recipe(epochs=3, batch_size=8, augmentation="strong", dropout=0.2, ema=0.9, warmup_epochs=0.5),
    seed=3,
)


KILLS = 5
LENGTH = len("last-0001-000001")


def work(data: Path, folder: Path) -> None:
    operation = Operation(
        data_root=data / "root", cache=data / "cache", trial_folder=folder, loader_workers=2, checkpoint_seconds=1e-6
    )
    told = []
    train(CONFIG, operation=operation, report=lambda event: told.append((event.epoch, event.timestamp_ms)))
    (folder / "told.json").write_text(json.dumps(told))


def attempt(data: Path, folder: Path, *, kill_at: str | None = None, delay: float = 0.0) -> tuple[set[str], bool]:
    """Train in a child, and kill it once it has come to a checkpoint, or a moment later.

    Args:
        data: shared by all attempts.
        folder: of the trial.
        kill_at: name of a checkpoint; names sort by progress. None: the child comes to its end.
        delay: seconds from there to the kill, so that it falls on what comes next: a batch, a file half written.

    Returns:
        The checkpoints that were seen, and whether it was killed.
    """
    child, seen = os.fork(), set[str]()
    if child == 0:
        os.setsid()
        work(data, folder)
        os._exit(0)
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status != 0 and os.WTERMSIG(status) != signal.SIGKILL:
                raise SystemExit("a child failed by itself")
            return seen, status != 0
        seen |= {path.name[:LENGTH] for path in folder.glob("last-*")}
        if kill_at is not None and max(seen, default="") >= kill_at:
            time.sleep(delay)
            os.killpg(child, signal.SIGKILL)  # its own group: the child and its loader workers, nobody else
            kill_at = None
        time.sleep(0.002)


def main() -> None:
    data, undisturbed, killed = (Path(argument) for argument in sys.argv[1:4])
    for folder in (undisturbed, killed, undisturbed.with_name("first")):
        folder.mkdir()
    attempt(data, undisturbed.with_name("first"))  # writes the phantoms and their cache
    passed = sorted(attempt(data, undisturbed)[0])
    draw = random.Random(int(sys.argv[4]))
    # After the last ones an attempt may come to its end before it is killed.
    moments = sorted(draw.sample(passed[:-3], KILLS))
    kills = [attempt(data, killed, kill_at=moment, delay=draw.uniform(0, 0.05))[1] for moment in moments]
    attempt(data, killed)
    print(sum(kills))


if __name__ == "__main__":
    main()
