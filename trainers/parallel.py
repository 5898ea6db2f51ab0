"""Several processes on one trial: each takes its share of every batch, gradients are added up.

The loss is a sum over the global batch divided by the global count of labels, so the sum of the processes' gradients
is the gradient one process would compute, to rounding. Batch normalisation sees each process's share, as it sees
micro-batches; its running statistics are averaged over the processes after every step. Layers that send messages of
their own (SyncBatchNorm) would wait for ever where one process has fewer micro-batches than another. One process is the
ordinary case and costs nothing.

The calling process is rank 0: it alone writes checkpoints and reports. The others are started here and end with it.
One that fails leaves its reason in the folder where they met, and rank 0 raises it as its own: a lost connection says
nothing of what was wrong.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
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
from trainers.trial import Operation, TrialConfig, TrialError

Item = TypeVar("Item")
PATIENCE = timedelta(minutes=20)  # how long the others wait for rank 0 to validate or to write a checkpoint
SECONDS_TO_END = 10.0
"""A lost connection is seen a moment before the process behind it has ended."""

Others = dict[int, "subprocess.Popen[str]"]
"""The other processes of a trial, by rank."""


class LostProcessError(RuntimeError):
    """Another process of the trial is gone and left no reason: a signal, or a host without memory."""


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

        Of fewer than two images for each process each takes all: no layer meets an empty batch, nor batch normalisation
        a single image, and sums over all processes are divided by the sum of their weights.
        """
        if length < 2 * self.count:
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
        ranks = range(1, operation.processes)
        others = {rank: _start(config, operation, until_epoch, (rank, meeting)) for rank in ranks}
        try:
            _await_arrival(others, Path(meeting))
            yield join(Ranks(0, operation.processes), operation, meeting)
        except RuntimeError as failure:
            if (reason := _reason(others, Path(meeting))) is not None:
                raise reason from failure
            raise
        finally:
            leave()
            for other in others.values():
                _end(other)


def join(ranks: Ranks, operation: Operation, meeting: str) -> Ranks:
    """Join the processes that meet over a file in `meeting`."""
    cuda = operation.device != "cpu" and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(ranks.rank)
    _arrived(Path(meeting), ranks.rank).touch()
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        init_method=f"file://{meeting}/ranks",
        rank=ranks.rank,
        world_size=ranks.count,
        timeout=PATIENCE,
    )
    return ranks


@contextmanager
def telling(rank: int, meeting: str) -> Iterator[None]:
    """Leave the reason of a failure, other than in rank 0, where rank 0 looks for it."""
    try:
        yield
    except Exception as failure:
        kind = failure.kind if isinstance(failure, TrialError) else None
        told = str(failure) if kind else f"process {rank}: {type(failure).__name__}: {failure}"
        # Whoever fails after rank 0 has left finds the folder gone.
        if Path(meeting).is_dir():
            _told(Path(meeting), rank).write_text(json.dumps({"kind": kind, "message": told}))
        raise


def leave() -> None:
    """Leave the processes' group, if in one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _arrived(meeting: Path, rank: int) -> Path:
    return meeting / f"arrived-{rank}"


def _told(meeting: Path, rank: int) -> Path:
    return meeting / f"failure-{rank}.json"


def _await_arrival(others: Others, meeting: Path) -> None:
    """Wait until all are about to join; whoever joins without them waits as long as the group's patience is.

    Raises:
        LostProcessError: one ended before; `_reason` knows whether it said why.
    """
    while not all(_arrived(meeting, rank).exists() for rank in others):
        if any(other.poll() is not None for other in others.values()):
            raise LostProcessError("another process of the trial ended before it joined")
        time.sleep(0.05)


def _reason(others: Others, meeting: Path) -> Exception | None:
    """Return why another process failed; None where none did.

    What one knows of the trial comes first, then that one died in silence: the rest fail because of it.
    """
    until = time.monotonic() + SECONDS_TO_END
    while all(other.poll() is None for other in others.values()) and time.monotonic() < until:
        time.sleep(0.05)
    ended = {rank: other.returncode for rank, other in others.items() if other.poll()}
    told = {rank: json.loads(_told(meeting, rank).read_text()) for rank in ended if _told(meeting, rank).exists()}
    for failure in told.values():
        if failure["kind"] is not None:
            return TrialError(failure["kind"], failure["message"])
    for rank, code in ended.items():
        if rank not in told:
            return LostProcessError(f"process {rank} of {len(others) + 1} ended with exit code {code}")
    return next((RuntimeError(failure["message"]) for failure in told.values()), None)


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
