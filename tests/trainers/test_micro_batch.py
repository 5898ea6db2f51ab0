"""Accumulation in float64, with out-of-memory errors injected."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from trainers import tasks
from trainers.loop import Training
from trainers.micro_batch import MicroBatch, Pieces, has_batch_norm
from trainers.parallel import Ranks
from trainers.recipes import Recipe
from trainers.record import after_epoch
from trainers.trial import TrialError


class Limited(nn.Module):
    """A network on a device where only so many images fit; less is needed when activations are recomputed."""

    def __init__(self, fits: int, inner: nn.Module):
        super().__init__()
        self.fits, self.inner, self.attempts = fits, inner, 0

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.fits += enable

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.attempts += 1
        if len(images) > self.fits:
            raise torch.OutOfMemoryError("injected")
        return self.inner(images.flatten(1))


def training(network: nn.Module, size: int | None = None) -> Training:
    recipe = Recipe(optimizer="sgd", learning_rate=0.1, gradient_clip=None, warmup_epochs=0, schedule="constant")
    task = tasks.load("multilabel")
    return Training(
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        task=task,
        loss=task.loss(np.zeros((1, 3)), recipe),
        recipe=recipe,
        device=torch.device("cpu"),
        steps_per_epoch=1,
        seed=0,
        micro_batch=MicroBatch(size),
    )


def network(fits: int, *, dropout: float = 0.0, norm: bool = False) -> Limited:
    torch.manual_seed(0)
    layers = [nn.Linear(16, 8), nn.BatchNorm1d(8) if norm else nn.GELU(), nn.Dropout(dropout), nn.Linear(8, 3)]
    return Limited(fits, nn.Sequential(*layers)).double()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 2, (13, 3), generator=generator).double()
    labels[torch.rand(13, 3, generator=generator) < 0.4] = torch.nan  # unevenly missing: parts weigh differently
    return torch.rand(13, 1, 4, 4, generator=generator, dtype=torch.float64), labels


@pytest.mark.parametrize("size", [1, 2, 5, 13, 20])
def test_micro_batches_give_the_large_batchs_loss_and_gradient(size: int) -> None:
    images, labels = batch()
    whole, parts = network(99), network(99)
    losses = [training(whole).step(images, labels, epoch=0, index=0)]
    losses.append(training(parts, size).step(images, labels, epoch=0, index=0))
    assert losses[0] == pytest.approx(losses[1], abs=1e-13)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-14)
        assert one.grad is not None and other.grad is not None
        assert torch.allclose(one.grad, other.grad, rtol=0, atol=1e-14)


@pytest.mark.parametrize("size", [3, 4, 6, 12])
def test_no_part_is_a_rest_of_one_image(size: int) -> None:
    """On which batch normalisation over maps of one pixel, or over features, fails."""
    images, labels = batch()
    assert training(network(size, norm=True), size).step(images, labels, epoch=0, index=0) > 0


def test_out_of_memory_halves_until_it_fits_and_remembers() -> None:
    images, labels = batch()
    limited, free = network(4), network(99)
    small = training(limited)
    loss = small.step(images, labels, epoch=0, index=0)
    assert small.micro_batch.size == 4  # 13 → 7 → 4
    assert small.micro_batch.halvings == 2
    assert loss == pytest.approx(training(free).step(images, labels, epoch=0, index=0), abs=1e-13)
    for one, other in zip(limited.parameters(), free.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-14)
    attempts = limited.attempts
    small.step(images, labels, epoch=0, index=1)
    assert limited.attempts == attempts + 4  # ⌈13 / 4⌉, no failed attempt


def test_then_activations_are_recomputed_then_it_is_an_error() -> None:
    images, labels = batch()
    tight = training(network(0))
    tight.step(images, labels, epoch=0, index=0)
    assert (tight.micro_batch.size, tight.micro_batch.checkpointing) == (1, True)
    with pytest.raises(TrialError, match="not even one image fits"):
        training(network(-1)).step(images, labels, epoch=0, index=0)


def test_where_no_gradient_is_kept_batches_are_halved_until_they_fit() -> None:
    images, labels = batch()
    limited, free = network(4), network(99)
    pieces = Pieces()

    def forward(part: torch.Tensor, of_part: torch.Tensor) -> torch.Tensor:
        assert len(part) == len(of_part)
        return limited(part)

    with torch.no_grad():
        assert torch.allclose(pieces.run(forward, images, labels), free(images), rtol=0, atol=1e-14)
        assert pieces.size == 4  # 13 → 7 → 4
        attempts = limited.attempts
        pieces.run(forward, images, labels)
        assert limited.attempts == attempts + 4
        with pytest.raises(TrialError, match="not even one image fits"):
            Pieces().run(network(0), images)
    assert Pieces(2).run(network(2), images).shape == (13, 3)


def test_a_failed_attempt_leaves_no_trace_in_dropout_or_batch_norm() -> None:
    images, labels = batch()
    failed, straight = network(7, dropout=0.5, norm=True), network(99, dropout=0.5, norm=True)
    assert has_batch_norm(failed)
    losses = [training(failed).step(images, labels, epoch=0, index=0)]
    losses.append(training(straight, 7).step(images, labels, epoch=0, index=0))
    assert losses[0] == losses[1]
    for one, other in zip(failed.state_dict().values(), straight.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("layer", "size", "processes", "saw"),
    [
        (nn.BatchNorm2d(2), None, 1, (False, False)),
        (nn.BatchNorm2d(2), 8, 1, (False, False)),
        (nn.BatchNorm2d(2), 4, 1, (True, False)),
        (nn.BatchNorm2d(2), None, 2, (True, False)),  # each process sees its share
        (nn.Dropout(0.5), 4, 1, (False, True)),
        (nn.Dropout(0.5), 8, 2, (False, False)),
        (nn.Dropout(0.0), 4, 1, (False, False)),  # it drops nothing
        (nn.LayerNorm(2), 4, 2, (False, False)),
    ],
)
def test_a_record_tells_which_layers_saw_less_than_the_batch(layer, size, processes, saw) -> None:
    training = SimpleNamespace(
        network=nn.Sequential(nn.Linear(2, 2), layer),
        micro_batch=MicroBatch(size),
        ranks=Ranks(0, processes),
        device=torch.device("cpu"),
    )
    config = SimpleNamespace(recipe=SimpleNamespace(batch_size=8))
    told = after_epoch(config, training, {"train_seconds": 4.0, "train_images": 10.0, "evaluation_seconds": 1.0})
    assert (told["batch_norm_saw_micro_batches"], told["dropout_saw_micro_batches"]) == saw
    assert (told["micro_batch"], told["processes"]) == (size or 8, processes)
    assert (told["images_per_second"], told["train_seconds"], told["evaluation_seconds"]) == (2.5, 4.0, 1.0)
    assert 10 * 2**20 < told["peak_memory_bytes"] < 10**12
    assert after_epoch(config, training, {})["images_per_second"] is None


@pytest.mark.parametrize("size", [1, 4, 13, None])
def test_validation_takes_no_more_images_at_once_than_training(size: int | None) -> None:
    images, labels = batch()
    rows = torch.arange(len(images))
    whole = training(network(13)).predict([(images, labels, rows)])
    parts = training(network(size or 13), size).predict([(images, labels, rows)])
    np.testing.assert_allclose(parts[0], whole[0], rtol=1e-6)
    assert parts[1] == pytest.approx(whole[1])
