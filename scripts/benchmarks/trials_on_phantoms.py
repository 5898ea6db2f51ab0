"""Whole trials on phantoms: probes from the feature store, and what a checkpoint after every epoch costs."""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from datasets.dataset_config import DatasetConfig
from scripts.benchmarks._agreement import check_equal
from scripts.benchmarks.row import Row
from trainers import checkpoint
from trainers.attempt import Attempt
from trainers.recipes import Recipe
from trainers.train import train
from trainers.trial import EpochMetrics, Operation, TrialConfig

RATES, SEEDS = 10, 3
EPOCHS = 3


def run(*, quick: bool) -> list[Row]:
    """Measure both, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        return [_probes(Path(folder), quick=quick), _checkpoints(Path(folder), quick=quick)]


def _probes(folder: Path, *, quick: bool) -> Row:
    """30 probe trials on stored features against 30 that compute them (timed once, counted 30 times).

    The trial that computed its features is repeated on the stored ones and has to measure exactly the same.
    """
    encoder = {"backbone": "vit_small", "resolution": 224, "patients": 60 if quick else 240}
    first, computed = _timed(_probe(encoder, rate=0, seed=0), folder)
    shutil.rmtree(folder / "trial-0-0")
    stored = [
        _timed(_probe(encoder, rate=rate, seed=seed), folder, f"trial-{rate}-{seed}")
        for rate in range(RATES)
        for seed in range(SEEDS)
    ]
    _check_probes(computed, [measured for _, measured in stored])
    from_store = sum(seconds for seconds, _ in stored)
    trials = RATES * SEEDS
    computing = first - from_store / trials
    peer = from_store + trials * computing
    ratio = peer / from_store
    return Row(f"30 probe trials of {encoder['backbone']}, seconds", from_store, peer, ratio, "≥ 50×", ratio >= 50)


def _check_probes(computed: list[EpochMetrics], stored: list[list[EpochMetrics]]) -> None:
    """Compare the first stored trial with the computing one, epoch by epoch, and count the epochs of all."""
    epochs = [len(trial) for trial in (computed, *stored)]
    check_equal("epochs of the probe trials", epochs, [EPOCHS] * len(epochs))
    for ours, peer in zip(stored[0], computed, strict=True):
        if ours.metrics != peer.metrics:
            raise RuntimeError(
                f"probe trial, epoch {peer.epoch}: {ours.metrics} from the store, {peer.metrics} computed"
            )


def _probe(encoder: dict[str, Any], *, rate: int, seed: int) -> TrialConfig:
    recipe = Recipe(epochs=EPOCHS, batch_size=256, learning_rate=1e-4 * 2**rate)
    # A random encoder depends on the trial's seed, so the three repetitions differ by a hair in their rate instead.
    return _trial(
        backbone=encoder["backbone"],
        resolution=encoder["resolution"],
        patients=encoder["patients"],
        adaptation="probe",
        recipe=recipe.model_copy(update={"learning_rate": recipe.learning_rate * (1 + seed / 1000)}),
    )


def _checkpoints(folder: Path, *, quick: bool) -> Row:
    """Time spent in writing an epoch's checkpoints against the rest of the epoch, EfficientNet-Lite0 at 128 px.

    There is no peer: what was written is read back, and has to be the trial's last epoch.
    """
    written: list[float] = []

    original = Attempt._write_epoch

    def timed(self: Attempt, event: EpochMetrics) -> None:
        started = time.perf_counter()
        original(self, event)
        written.append(time.perf_counter() - started)

    config = _trial(
        backbone="tf_efficientnet_lite0",
        resolution=128,
        patients=240,
        adaptation="finetune",
        recipe=Recipe(epochs=2 if quick else 5, batch_size=32, augmentation="none"),
    )
    Attempt._write_epoch = timed  # type: ignore[method-assign]
    try:
        _timed(config, folder, "warm", until_epoch=1)
        written.clear()
        seconds, _ = _timed(config, folder, "checkpoints")
    finally:
        Attempt._write_epoch = original  # type: ignore[method-assign]
    last = checkpoint.load_last(folder / "checkpoints")
    check_equal("epochs of the last checkpoint", last.progress.epoch if last else 0, config.recipe.epochs)
    share = sum(written) / (seconds - sum(written))
    return Row("checkpoint every epoch, share of the epoch", sum(written), seconds, share, "≤ 2 %", share <= 0.02)


def _trial(*, backbone: str, resolution: int, patients: int, adaptation: str, recipe: Recipe) -> TrialConfig:
    return TrialConfig(
        dataset=DatasetConfig(name="phantom", source="phantom", options={"patients": patients, "size": 256}),
        initialization="random",
        backbone=backbone,
        resolution=resolution,
        adaptation=adaptation,
        recipe=recipe,
    )


def _timed(
    config: TrialConfig, folder: Path, name: str = "trial-0-0", until_epoch: int | None = None
) -> tuple[float, list[EpochMetrics]]:
    """Return the seconds of a trial on prepared images, and what it measured."""
    from datasets import cache, sources

    operation = Operation(data_root=folder / "root", cache=folder / "cache", trial_folder=folder / name, threads=1)
    manifest = sources.load(config.dataset, operation.data_root)
    cache.prepare(manifest, resolution=config.resolution, preprocessing="standard", cache=operation.cache)
    told: list[EpochMetrics] = []
    started = time.perf_counter()
    train(config, operation=operation, report=told.append, until_epoch=until_epoch)
    return time.perf_counter() - started, told
