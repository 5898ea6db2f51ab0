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


def work(data: Path, folder: Path) -> None:
    operation = Operation(
        data_root=data / "root", cache=data / "cache", trial_folder=folder, loader_workers=2, checkpoint_seconds=1e-6
    )
    told = []
    train(CONFIG, operation=operation, report=lambda event: told.append((event.epoch, event.timestamp_ms)))
    (folder / "told.json").write_text(json.dumps(told))


def attempt(data: Path, folder: Path, *, kill_after: float | None) -> bool:
    """Train in a child; return whether it got to the end."""
    child = os.fork()
    if child == 0:
        os.setsid()
        work(data, folder)
        os._exit(0)
    started = time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status != 0 and os.WTERMSIG(status) != signal.SIGKILL:
                raise SystemExit("a child failed by itself")
            return status == 0
        if kill_after is not None and time.monotonic() - started > kill_after:
            os.killpg(child, signal.SIGKILL)  # its own group: the child and its loader workers, nobody else
            kill_after = None
        time.sleep(0.002)


def main() -> None:
    data, undisturbed, killed = (Path(argument) for argument in sys.argv[1:4])
    for folder in (undisturbed, killed, undisturbed.with_name("first")):
        folder.mkdir()
    attempt(data, undisturbed.with_name("first"), kill_after=None)  # writes the phantoms and their cache
    started = time.monotonic()
    if not attempt(data, undisturbed, kill_after=None):
        raise SystemExit("the undisturbed training did not end")
    whole = time.monotonic() - started
    draw = random.Random(int(sys.argv[4]))
    kills = 0
    # The children share what the parent imported, so moments are drawn over the training itself.
    while not attempt(data, killed, kill_after=draw.uniform(0.1, 0.45) * whole if kills < 6 else None):
        kills += 1
    print(kills)


if __name__ == "__main__":
    main()
