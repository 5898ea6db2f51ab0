"""How many images go through the network at once: never part of the result, only of what fits.

The loss is a sum divided by the whole batch's count of labels, so accumulating micro-batches gives the large batch's
loss and gradient (to rounding). Two caveats, which the trial's record tells: batch normalisation in training mode sees
the micro-batch, so networks with it (EfficientNet, ResNet; not ViT or ConvNeXt) do change, and dropout inside the
network (LoRA's, the head's) draws other masks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from trainers import seeding
from trainers.trial import TrialError


@dataclass(slots=True)
class MicroBatch:
    """The size in use, halved when memory runs out; then activation checkpointing; then an error.

    Attributes:
        size: images at once; None: the whole batch.
        halvings: how often it was halved in this process.
        checkpointing: whether activations are recomputed to save memory.
        guarded: whether batch-norm statistics are kept for a second attempt; needless where memory never runs out
            with an error (a CPU), and 2 % of a small network's step.
    """

    size: int | None = None
    halvings: int = 0
    checkpointing: bool = False
    guarded: bool = True

    def run(self, network: nn.Module, gradients: Callable[[int], Tensor], images: int) -> Tensor:
        """Compute a batch's gradients, with smaller micro-batches if memory runs out.

        Every attempt starts from the same generator state and batch-norm statistics, so a failed one leaves no trace.

        Args:
            network: whose batch-norm statistics are put back after a failed attempt.
            gradients: computes all gradients with the given micro-batch size, returns the summed loss.
            images: in the batch.

        Raises:
            TrialError: kind "out_of_memory" if a single image does not fit.
        """
        statistics = _statistics(network) if self.guarded else []
        generators = seeding.generators(next(network.parameters()).device)
        states = [generator.get_state() for generator in generators]
        while True:
            try:
                return gradients(max(1, min(self.size or images, images)))
            except torch.OutOfMemoryError as error:
                self._shrink(network, images, error)
            # Outside the except block: the error's traceback holds the failed attempt's tensors.
            if self.guarded:
                _put_back(network, statistics)
            for drawn, state in zip(generators, states, strict=True):
                drawn.set_state(state)

    def _shrink(self, network: nn.Module, images: int, error: torch.OutOfMemoryError) -> None:
        for parameter in network.parameters():
            parameter.grad = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        size = min(self.size or images, images)
        if size > 1:
            self.size = -(-size // 2)
            self.halvings += 1
        elif not self.checkpointing and (enable := checkpointing_switch(network)) is not None:
            enable(True)
            self.checkpointing = True
        else:
            raise _too_large(error, tried=", with activations recomputed") from error


@dataclass(slots=True)
class Pieces:
    """How many images go through at once where no gradient is kept: halved when memory runs out.

    Attributes:
        size: images at once; None: as many as there are.
    """

    size: int | None = None

    def run(self, forward: Callable[..., Tensor], *batch: Tensor) -> Tensor:
        """Return the outputs of a batch, computed piece by piece.

        Args:
            forward: from parts of the batch's tensors to outputs, one row an image.
            batch: images first, and what else belongs to each.

        Raises:
            TrialError: kind "out_of_memory" if a single image does not fit.
        """
        images = len(batch[0])
        while True:
            size = max(1, min(self.size or images, images))
            try:
                parts = zip(*(torch.split(tensor, size) for tensor in batch), strict=True)
                return torch.cat([forward(*part) for part in parts])
            except torch.OutOfMemoryError as error:
                if size == 1:
                    raise _too_large(error) from error
            # Outside the except block: the error's traceback holds the failed attempt's tensors.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.size = -(-size // 2)


def _too_large(error: torch.OutOfMemoryError, *, tried: str = "") -> TrialError:
    return TrialError(
        "out_of_memory",
        f"not even one image fits in this device's memory{tried}; use a smaller resolution or backbone, or more memory "
        f"({error})",
    )


def checkpointing_switch(network: nn.Module) -> Callable[[bool], None] | None:
    """Return timm's switch for activation checkpointing somewhere in the network, or None."""
    for module in network.modules():
        switch = getattr(module, "set_grad_checkpointing", None)
        if callable(switch):
            return switch  # type: ignore[no-any-return]
    return None


def has_batch_norm(network: nn.Module) -> bool:
    """Tell whether the micro-batch is seen by batch normalisation."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


def has_dropout(network: nn.Module) -> bool:
    """Tell whether masks are drawn anew for each micro-batch."""
    return any(isinstance(module, _DropoutNd) and module.p > 0 for module in network.modules())


def _statistics(network: nn.Module) -> list[Tensor]:
    return [buffer.clone() for buffer in batch_norm_buffers(network)]


def _put_back(network: nn.Module, statistics: list[Tensor]) -> None:
    for buffer, value in zip(batch_norm_buffers(network), statistics, strict=True):
        buffer.copy_(value)


def batch_norm_buffers(network: nn.Module) -> list[Tensor]:
    """Return the running statistics and counters of every batch normalisation."""
    return [
        buffer
        for module in network.modules()
        if isinstance(module, _BatchNorm)
        for buffer in module.buffers(recurse=False)
    ]
