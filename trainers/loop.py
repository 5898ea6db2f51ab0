"""Optimizer steps and predictions. Nothing here knows a task, a data set or a file."""

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from trainers import optim, seeding
from trainers.material import Batch
from trainers.micro_batch import MicroBatch
from trainers.parallel import Ranks
from trainers.recipes import Recipe
from trainers.task import Loss, Task
from trainers.trial import TrialError


@dataclass(slots=True)
class Training:
    """A network under training.

    Attributes:
        network: inputs to outputs, on `device`.
        optimizer: None where nothing is trained (nearest neighbours): a step then does nothing.
        steps_per_epoch: optimizer steps.
        seed: of the trial.
        micro_batch: how many images go through at once; learns from out-of-memory errors.
        average: exponential moving average of the state dict, if the recipe has one.
        ranks: the processes that share this trial's batches.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer | None
    task: Task
    loss: Loss
    recipe: Recipe
    device: torch.device
    steps_per_epoch: int
    seed: int
    micro_batch: MicroBatch
    average: dict[str, Tensor] | None = None
    ranks: Ranks = field(default_factory=Ranks)

    def step(self, images: Tensor, labels: Tensor, *, epoch: int, index: int) -> float:
        """Take one optimizer step and return the batch's mean loss.

        Args:
            images: (B, 1, R, R), or features (B, C).
            labels: (B, P), NaN not given.
            epoch: counted from 0.
            index: of the step within the epoch.

        Raises:
            TrialError: kind "non_finite", naming epoch and step; the weights are left as they were.
        """
        rate = self.recipe.learning_rate * optim.rate_factor(
            epoch * self.steps_per_epoch + index, steps_per_epoch=self.steps_per_epoch, recipe=self.recipe
        )
        if self.optimizer is None:
            return 0.0
        optim.set_rate(self.optimizer, rate)
        self.network.train()
        weight = self.ranks.total(self.loss.weight(labels).to(self.device, torch.float64)).clamp(min=1)
        with seeding.draws_at(self.seed, "step", epoch, index, self.ranks.rank, device=self.device):
            total = self.micro_batch.run(
                self.network, lambda size: self._gradients(images, labels, weight, size=size), len(images)
            )
        self.ranks.add_gradients(self.network)
        self.ranks.average_statistics(self.network)
        loss = float(self.ranks.total(total) / weight)
        if not math.isfinite(loss):
            raise TrialError("non_finite", f"the loss is {loss} at epoch {epoch + 1}, step {index + 1}")
        self._clip(epoch, index)
        self.optimizer.step()
        self._update_average()
        return loss

    def _gradients(self, images: Tensor, labels: Tensor, weight: Tensor, *, size: int) -> Tensor:
        """Leave the gradient of these images' loss / `weight` in the parameters, and return the sum of the losses.

        In parts of at most `size` images, as equal as can be: batch normalisation over maps of one pixel cannot train
        on a rest of one. No message between processes is sent in here: one of them may have to repeat it with less
        memory.
        """
        for parameter in self.network.parameters():
            parameter.grad = None
        total = torch.zeros((), device=self.device, dtype=torch.float64)
        parts = -(-len(images) // size)
        for part in zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True):
            inputs, targets = self.task.collate(*part, device=self.device)
            with self.autocast():
                outputs = self.network(inputs)
            loss = self.loss.total(outputs.float() if outputs.dtype.itemsize < 4 else outputs, targets)
            (loss / weight.to(loss.dtype)).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _clip(self, epoch: int, index: int) -> None:
        """Bound the gradient as the recipe says; without a bound only look whether it is finite."""
        parameters = [parameter for parameter in self.network.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm([gradient for p in parameters if (gradient := p.grad) is not None])
        if not math.isfinite(float(norm)):
            raise TrialError("non_finite", f"the gradient's norm is {norm} at epoch {epoch + 1}, step {index + 1}")
        if self.recipe.gradient_clip is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.recipe.gradient_clip, norm)

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.average is None or self.recipe.ema is None:
            return
        for name, value in self.network.state_dict().items():
            mean = self.average[name]
            if mean.dtype.is_floating_point:
                mean.lerp_(value, 1 - self.recipe.ema)
            else:  # counters
                mean.copy_(value)

    def autocast(self) -> AbstractContextManager[object]:
        """Return bf16 autocast on CUDA if the recipe asks for it; the CPU computes in float32."""
        if self.device.type == "cuda" and self.recipe.precision == "bf16":
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return nullcontext()

    def predict(self, batches: Iterable[Batch]) -> tuple[np.ndarray, float]:
        """Return scores (n, P) and the mean loss over batches, with the averaged weights if there are any.

        Several processes take turns batch by batch; all of them get the whole result.
        """
        with self._evaluated():
            return predict(self.network, batches, self)

    def _evaluated(self) -> AbstractContextManager[None]:
        return _swapped(self.network, self.average) if self.average is not None else nullcontext()


@torch.no_grad()
def predict(network: nn.Module, batches: Iterable[Batch], training: Training) -> tuple[np.ndarray, float]:
    """Return the task's scores, float32 (n, P) in the batches' order, and the mean loss over given labels."""
    network.eval()
    scores: list[list[np.ndarray]] = []
    total = torch.zeros((), device=training.device, dtype=torch.float64)
    weight = torch.zeros_like(total)
    for images, labels, _ in training.ranks.turns(batches):
        scores.append([])
        for part, targets in _parts(images, labels, training):
            with training.autocast():
                outputs = network(part)
            outputs = outputs.float() if outputs.dtype.itemsize < 4 else outputs
            total += training.loss.total(outputs, targets)
            weight += training.loss.weight(targets)
            scores[-1].append(training.task.scores(outputs).cpu().numpy())
    whole = training.ranks.interleave([np.concatenate(batch) for batch in scores])
    return np.concatenate(whole), float(training.ranks.total(total) / training.ranks.total(weight).clamp(min=1))


def _parts(images: Tensor, labels: Tensor, training: Training) -> Iterator[tuple[Tensor, Tensor]]:
    size = training.micro_batch.size or len(images)
    for first in range(0, len(images), size):
        yield training.task.collate(images[first : first + size], labels[first : first + size], device=training.device)


class _swapped(AbstractContextManager[None]):  # noqa: N801 - reads as a verb where it is used
    """Put other weights into a network inside the block."""

    def __init__(self, network: nn.Module, weights: dict[str, Tensor]):
        self.network, self.weights = network, weights

    def __enter__(self) -> None:
        self.own = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.network.load_state_dict(self.weights)

    def __exit__(self, *_: object) -> None:
        self.network.load_state_dict(self.own)
