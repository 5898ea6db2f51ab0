"""How many images should fit on a GPU, before trying: what autograd keeps per image, and what stays in any case.

Only a first guess: the first step corrects it (`micro_batch` halves on an out-of-memory error), and what fitted is
remembered per (architecture, input size, adaptation, precision, batch size, GPU) beside the cache.
"""

import json
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor, nn

from datasets.whole_file import replacing
from trainers.gpu_memory import FILL

OPTIMIZER_COPIES = {"adamw": 2, "adam": 2, "sgd": 1}
REMEMBERED = "micro_batches.json"


def kept(network: nn.Module, images: Tensor) -> int:
    """Return the bytes that autograd keeps for the backward pass of these images (parameters not counted).

    Args:
        network: on any device; the meta device costs nothing.
        images: inputs, with their batch dimension.
    """
    own = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
    found: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            found[storage._cdata] = tensor  # held until counted, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(images)
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


def fixed_bytes(network: nn.Module, *, optimizer: str, average: bool) -> int:
    """Return the bytes of parameters, gradients, optimizer state and moving average."""
    trained = sum(p.numel() * p.element_size() for p in network.parameters() if p.requires_grad)
    whole = sum(p.numel() * p.element_size() for p in network.parameters())
    return whole + trained * (1 + OPTIMIZER_COPIES[optimizer]) + (whole if average else 0)


def first_guess(batch: int, *, per_image: int, fixed: int, free: int) -> int:
    """Return the largest size of `batch`, ⌈batch / 2⌉, ⌈batch / 4⌉ … that should fit, at least 1.

    Args:
        batch: the effective batch.
        per_image: bytes kept per image, in the precision that is trained in.
        fixed: bytes that do not depend on it.
        free: bytes free on the device before the network is there.
    """
    size = batch
    while size > 1 and fixed + size * per_image > FILL * free:
        size = -(-size // 2)
    return size


def recall(folder: Path, key: str) -> int | None:
    """Return the size that fitted last time, or None."""
    path = folder / REMEMBERED
    if not path.is_file():
        return None
    size = json.loads(path.read_text()).get(key)
    return int(size) if size is not None else None


def remember(folder: Path, key: str, size: int) -> None:
    """Note what fitted; several trials may do so at once."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / REMEMBERED
    with FileLock(folder / f".{REMEMBERED}.lock"):
        known = json.loads(path.read_text()) if path.is_file() else {}
        with replacing(path) as aside:
            aside.write_text(json.dumps({**known, key: size}, indent=1, sort_keys=True))
