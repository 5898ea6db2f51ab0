"""Several processes on one trial: each takes its share of every batch, gradients are added up.

The loss is a sum over the global batch divided by the global count of labels, so the sum of the processes' gradients
is the gradient one process would compute. One process is the ordinary case and costs nothing here.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that share a trial.

    Attributes:
        rank: this process, from 0; rank 0 writes checkpoints and reports.
        count: of processes.
    """

    rank: int = 0
    count: int = 1

    def share(self, length: int) -> slice:
        """Return this process's part of a batch of that length."""
        size = -(-length // self.count)
        return slice(min(self.rank * size, length), min((self.rank + 1) * size, length))

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.count > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def add_gradients(self, network: nn.Module) -> None:
        """Replace every gradient by its sum over all processes, in one message."""
        if self.count == 1:
            return
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in parameters
        ]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        pieces = torch.split(flat, [gradient.numel() for gradient in gradients])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.grad = piece.view_as(parameter)
