"""Runs encoders that do not fit: blocks spread over several GPUs, or brought in one after the other.

A ViT-7B has 13.4 GB in bfloat16. If the free memory of one GPU does not hold it, its blocks are dealt out over all
visible GPUs; if that is not enough either, blocks stay in main memory and each visits the GPU for one batch. A batch
is large so that the copying is shared by many images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from trainers.network import Network

IMAGES = 64  # at once; features do not depend on it beyond rounding
HEADROOM = 0.7  # share of free memory that parameters may take; activations need the rest
Devices = Sequence[torch.device]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where blocks live and where they compute.

    Attributes:
        homes: one device per block: its parameters rest there.
        workplaces: one device per block: it computes there.
    """

    homes: tuple[torch.device, ...]
    workplaces: tuple[torch.device, ...]

    @property
    def trivial(self) -> bool:
        """Tell whether everything stays on one device."""
        return len({*self.homes, *self.workplaces}) == 1


def placed(network: Network, device: torch.device, *, bf16: bool) -> Callable[[Tensor], Tensor]:
    """Place a frozen network and return the function from pixels (B, 1, R, R) to features (B, width).

    Args:
        network: on the CPU.
        device: of the trial.
        bf16: compute in bfloat16 on CUDA (parameters too).
    """
    if device.type != "cuda":
        whole = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        dtype = next(network.encoder.parameters()).dtype  # bfloat16 for encoders of billions of parameters
        return lambda pixels: _run(whole, pixels, device, dtype)
    if bf16:
        network.encoder.to(torch.bfloat16)
    blocks = list(getattr(network.encoder.body, "blocks", ()))
    gpus = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    free = [int(torch.cuda.mem_get_info(gpu)[0] * HEADROOM) for gpu in gpus]
    placement = place_blocks([_bytes(block) for block in blocks], gpus, free, rest=_bytes(network))
    apply(network, blocks, placement, first=gpus[0])
    dtype = next(network.encoder.parameters()).dtype
    return lambda pixels: _run(network, pixels, gpus[0], dtype)


def place_blocks(sizes: Sequence[int], gpus: Devices, free: Sequence[int], *, rest: int) -> Placement:
    """Decide where blocks live: the first GPU, all GPUs in turn, or main memory.

    Args:
        sizes: bytes of each block.
        gpus: visible ones.
        free: bytes that parameters may take on each.
        rest: bytes of the whole network; what is not in blocks lives on the first GPU.
    """
    outside = rest - sum(sizes)
    if rest <= free[0] or not sizes:
        return Placement((gpus[0],) * len(sizes), (gpus[0],) * len(sizes))
    left, gpu = [free[0] - outside, *free[1:]], 0
    homes: list[torch.device] = []
    for size in sizes:
        while gpu < len(gpus) and left[gpu] < size:
            gpu += 1
        if gpu == len(gpus):  # not enough in all: everything visits the first GPU
            return Placement((torch.device("cpu"),) * len(sizes), (gpus[0],) * len(sizes))
        left[gpu] -= size
        homes.append(gpus[gpu])
    return Placement(tuple(homes), tuple(homes))


def apply(network: nn.Module, blocks: Sequence[nn.Module], placement: Placement, *, first: torch.device) -> None:
    """Move a network to its places and let blocks and their inputs travel as they must.

    Args:
        network: whole.
        blocks: its parts that run one after the other.
        placement: of the blocks.
        first: device of everything else.
    """
    if placement.trivial:
        network.to(first)
        return
    inside = {id(module) for block in blocks for module in block.modules()}
    for module in network.modules():
        if id(module) not in inside:
            module._apply(lambda tensor: tensor.to(first), recurse=False)  # type: ignore[no-untyped-call]
    for block, home, workplace in zip(blocks, placement.homes, placement.workplaces, strict=True):
        block.to(home)
        visit = Visit(block, workplace) if home != workplace else None
        block.register_forward_pre_hook(_arrive(workplace, visit), with_kwargs=True)
        block.register_forward_hook(_depart(first, visit))


class Visit:
    """A block's stay on another device: its tensors at home are kept, so that going back copies nothing.

    Args:
        block: frozen.
        workplace: where it computes.
    """

    def __init__(self, block: nn.Module, workplace: torch.device):
        self.block, self.workplace = block, workplace
        self.at_home: list[tuple[dict[str, Any], str, Tensor]] = [
            (held, name, tensor)
            for module in block.modules()
            for held in (cast(dict[str, Any], module._parameters), cast(dict[str, Any], module._buffers))
            for name, tensor in held.items()
            if tensor is not None
        ]

    def begin(self) -> None:
        """Copy the block's tensors to the workplace."""
        for held, name, tensor in self.at_home:
            copy = tensor.detach().to(self.workplace, non_blocking=True)
            held[name] = nn.Parameter(copy, requires_grad=False) if isinstance(tensor, nn.Parameter) else copy

    def end(self) -> None:
        """Put the tensors that stayed at home back."""
        for held, name, tensor in self.at_home:
            held[name] = tensor


def _arrive(workplace: torch.device, visit: Visit | None) -> Callable[..., object]:
    def hook(_: nn.Module, positional: tuple[object, ...], keywords: dict[str, object]) -> object:
        if visit is not None:
            visit.begin()
        moved = tuple(_carried(value, workplace) for value in positional)
        return moved, {name: _carried(value, workplace) for name, value in keywords.items()}

    return hook


def _depart(first: torch.device, visit: Visit | None) -> Callable[..., object]:
    def hook(_: nn.Module, __: object, output: Tensor) -> Tensor:
        if visit is not None:
            visit.end()
        # What comes after the last block lives on the first device; a next block fetches its input itself.
        return output.to(first)

    return hook


def _carried(value: object, device: torch.device) -> object:
    return value.to(device) if isinstance(value, Tensor) else value


def _run(network: Network, pixels: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    images = network.prepare(pixels.to(device)).to(dtype)
    features: Tensor = network.encoder(images, pooling=network.pooling)
    return features


def _bytes(module: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
