"""An epoch as it is reported, written and gone on from."""

import errno
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from trainers import checkpoint
from trainers.attempt import Attempt
from trainers.loop import Training
from trainers.train import train
from trainers.trial import EpochMetrics, Operation, TrialConfig, TrialError, TrialState

Trials = Callable[..., TrialConfig]
Operations = Callable[..., Operation]


def validated(monkeypatch: pytest.MonkeyPatch, values: list[float | None]) -> None:
    """Let validation find these values of the primary metric, one an epoch; None: it is undefined."""
    told: Iterator[float | None] = iter(values)

    def found(_: Attempt) -> tuple[dict[str, float], tuple[str, ...]]:
        value = next(told)
        return ({"val/loss": 1.0}, ("val/auroc/macro",)) if value is None else ({"val/auroc/macro": value}, ())

    monkeypatch.setattr(Attempt, "_validate", found)


def test_an_epoch_is_on_the_disk_before_it_is_told(trial: Trials, operation: Operations) -> None:
    """What is told and lost on the way is told again by the next attempt, as the same event."""
    where, written = operation(), []

    def lost(event: EpochMetrics) -> None:
        last = checkpoint.find_last(where.trial_folder)
        assert last is not None
        written.append(checkpoint.read_progress(last).history[-1])
        assert written[-1] == event
        raise ConnectionError

    for _ in range(2):
        with pytest.raises(ConnectionError):
            train(trial(), operation=where, report=lost)
    assert written[0] == written[1]


def test_the_training_loss_is_the_mean_over_the_steps_of_its_epoch(
    trial: Trials, operation: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: dict[int, list[float]] = {}
    original = Training.step

    def step(self: Training, *batch: torch.Tensor, epoch: int, index: int) -> float:
        loss = original(self, *batch, epoch=epoch, index=index)
        steps.setdefault(epoch, []).append(loss)
        assert index + 1 == len(steps[epoch])
        return loss

    monkeypatch.setattr(Training, "step", step)
    told: list[EpochMetrics] = []
    train(trial(), operation=operation(), report=told.append)
    assert [event.metrics["train/loss"] for event in told] == [pytest.approx(np.mean(steps[e])) for e in (0, 1)]


def test_the_best_epoch_is_the_first_of_equal_ones_and_one_without_a_value_is_none(
    trial: Trials, operation: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated(monkeypatch, [None, 0.7, 0.8, 0.8, None, 0.75])
    result = train(trial(recipe={"epochs": 6}), operation=operation(), report=lambda _: None)
    assert (result.epochs, result.best_epoch, result.best_value) == (6, 3, 0.8)
    folders = sorted(path.name for path in operation().trial_folder.iterdir())
    assert folders == ["best-0003", "last-0006-000000"]  # what they replaced is gone
    best = operation().trial_folder / "best-0003" / checkpoint.NETWORK
    assert result.checkpoint_sha256 == checkpoint.sha256(best)


@pytest.mark.parametrize(
    ("patience", "values", "epochs"),
    [
        (1, [0.7, 0.7], 2),
        (2, [0.7, 0.7, 0.7], 3),
        (2, [0.7, 0.6, 0.8, 0.8, 0.8], 5),
        (2, [None, None], 2),
        (3, [0.7, None, None, None], 4),
        (5, [0.7, 0.8, 0.7, 0.7, 0.7, 0.7], 6),  # the recipe's end comes first
    ],
)
def test_patience_ends_a_trial_after_so_many_epochs_without_a_better_one(
    trial: Trials, operation: Operations, monkeypatch: pytest.MonkeyPatch, patience: int, values: list, epochs: int
) -> None:
    validated(monkeypatch, values)
    recipe = {"epochs": 6, "patience": patience}
    result = train(trial(recipe=recipe), operation=operation(), report=lambda _: None)
    assert (result.epochs, result.state) == (epochs, TrialState.COMPLETE)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_disk_that_fails_while_a_checkpoint_settles_fails_the_trial(
    trial: Trials, operation: Operations, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    """Also after the last epoch, though all was told."""
    settle = checkpoint.settle

    def fail(folder: Any, newest: Any, **more: Any) -> None:
        if checkpoint.read_progress(newest).epoch == epoch:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        settle(folder, newest, **more)

    monkeypatch.setattr(checkpoint, "settle", fail)
    with pytest.raises(OSError, match="Input/output error"):
        train(trial(), operation=operation(), report=lambda _: None)


def test_what_a_trial_took_is_counted_over_all_its_attempts(trial: Trials, operation: Operations) -> None:
    config, folder = trial(recipe={"epochs": 3}), operation().trial_folder
    timings = []
    for until in (1, 2, 3):
        train(config, operation=operation(), report=lambda _: None, until_epoch=until)
        last = checkpoint.find_last(folder)
        assert last is not None
        timings.append(checkpoint.read_progress(last).timing)
    images = timings[0]["train_images"]
    assert [timing["train_images"] for timing in timings] == [images, 2 * images, 3 * images]
    for name in ("train_seconds", "evaluation_seconds"):
        assert 0 < timings[0][name] < timings[1][name] < timings[2][name]


def test_a_validation_loss_that_is_not_finite_names_its_epoch(
    trial: Trials, operation: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Training, "predict", lambda *_: (np.zeros((0, 4)), float("inf")))
    with pytest.raises(TrialError, match="the validation loss is inf after epoch 1") as raised:
        train(trial(), operation=operation(), report=lambda _: None)
    assert raised.value.kind == "non_finite"
    assert checkpoint.find_last(operation().trial_folder) is None


@pytest.mark.parametrize("seconds", [None, 1e-9, 3600.0])
def test_checkpoints_within_an_epoch_are_written_when_they_are_due(
    trial: Trials, operation: Operations, monkeypatch: pytest.MonkeyPatch, seconds: float | None
) -> None:
    saved: list[tuple[int, int]] = []
    save = checkpoint.save_last

    def kept(folder: Any, *, progress: checkpoint.Progress, **more: Any) -> Any:
        saved.append((progress.epoch, progress.step))
        return save(folder, progress=progress, **more)

    monkeypatch.setattr(checkpoint, "save_last", kept)
    where = operation(checkpoint_seconds=seconds)
    train(trial(recipe={"epochs": 1, "batch_size": 16}), operation=where, report=lambda _: None)
    within = saved[:-1]
    assert saved[-1] == (1, 0)
    assert within == ([(0, step) for step in range(1, len(within) + 1)] if seconds == 1e-9 else [])
    assert bool(within) == (seconds == 1e-9)
