"""Several processes on one trial: each takes its share of every batch, gradients are added up.

The loss is a sum over the global batch divided by the global count of labels, so the sum of the processes' gradients
is the gradient one process would compute, to rounding. Batch normalisation sees each process's share, as it sees
micro-batches; its running statistics are averaged over the processes after every step. Layers that send messages of
their own (SyncBatchNorm) would wait for ever where one process has fewer micro-batches than another. One process is the
ordinary case and costs nothing.

The calling process is rank 0: it alone writes checkpoints and reports. The others are started here and end with it.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainers.micro_batch import batch_norm_buffers
from trainers.trial import Operation, TrialConfig

Item = TypeVar("Item")
PATIENCE = timedelta(minutes=20)  # how long the others wait for rank 0 to validate or to write a checkpoint


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
        """Return this process's part of a batch of that length.

        Of fewer images than processes each takes all: no layer meets an empty batch, and sums over all processes are
        divided by the sum of their weights.
        """
        if length < self.count:
            return slice(0, length)
        return slice(self.rank * length // self.count, (self.rank + 1) * length // self.count)

    def turns(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield every `count`-th item, starting with this process's rank."""
        return islice(items, self.rank, None, self.count)

    def interleave(self, own: list[Any]) -> list[Any]:
        """Return all processes' results of `turns`, in the order of the items."""
        if self.count == 1:
            return own
        gathered: list[Any] = [None] * self.count
        dist.all_gather_object(gathered, own)
        return [item for turn in zip_longest(*gathered) for item in turn if item is not None]

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.count > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def agree(self, value: int) -> int:
        """Return rank 0's value in every process."""
        if self.count == 1:
            return value
        told = [value]
        dist.broadcast_object_list(told, src=0)
        return told[0]

    def add_gradients(self, network: nn.Module) -> None:
        """Replace every gradient by its sum over all processes, in one message."""
        if self.count == 1:
            return
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in parameters
        ]
        for parameter, total in zip(parameters, _summed(gradients), strict=True):
            parameter.grad = torch.empty_like(parameter).copy_(total)

    def average_statistics(self, network: nn.Module) -> None:
        """Give every process the mean of the running statistics of batch normalisation."""
        if self.count == 1:
            return
        buffers = [buffer for buffer in batch_norm_buffers(network) if buffer.is_floating_point()]
        for buffer, total in zip(buffers, _summed(buffers), strict=True):
            buffer.copy_(total / self.count)


def _summed(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the sums of tensors over all processes, by one message."""
    if not tensors:
        return []
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [piece.view(tensor.shape) for tensor, piece in zip(tensors, pieces, strict=True)]


@contextmanager
def together(config: TrialConfig, operation: Operation, until_epoch: int | None) -> Iterator[Ranks]:
    """Start the other processes of a trial and join them as rank 0.

    Args:
        config: of the trial.
        operation: says how many processes.
        until_epoch: as given to `train`.
    """
    if operation.processes == 1:
        yield Ranks()
        return
    with tempfile.TemporaryDirectory() as meeting:
        others = [_start(config, operation, until_epoch, (rank, meeting)) for rank in range(1, operation.processes)]
        try:
            yield join(Ranks(0, operation.processes), operation, meeting)
        finally:
            leave()
            for other in others:
                _end(other)


def join(ranks: Ranks, operation: Operation, meeting: str) -> Ranks:
    """Join the processes that meet over a file in `meeting`."""
    cuda = operation.device != "cpu" and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(ranks.rank)
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        init_method=f"file://{meeting}/ranks",
        rank=ranks.rank,
        world_size=ranks.count,
        timeout=PATIENCE,
    )
    return ranks


def leave() -> None:
    """Leave the processes' group, if in one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _start(
    config: TrialConfig, operation: Operation, until_epoch: int | None, place: tuple[int, str]
) -> "subprocess.Popen[str]":
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        [sys.executable, "-m", "trainers", "join-trial"], stdin=subprocess.PIPE, text=True, env=environment
    )
    message = {
        "config": config.model_dump(mode="json"),
        "operation": operation.model_dump(mode="json"),
        "until_epoch": until_epoch,
        "rank": place[0],
        "meeting": place[1],
    }
    if process.stdin is not None:
        process.stdin.write(json.dumps(message))
        process.stdin.close()
    return process


def _end(process: "subprocess.Popen[str]") -> None:
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
