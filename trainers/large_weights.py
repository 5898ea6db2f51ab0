"""Loads encoders of billions of parameters: never more than one copy in memory, in bfloat16.

The network is made on the meta device, where parameters take no memory, and takes over the file's tensors one by one.
What a checkpoint does not hold (rotary frequencies) is computed as the architecture would have.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from trainers.trial import TrialError

LARGE = 5 * 10**9  # bytes of the weights file
"""From here on an encoder is loaded so, and only its frozen features are of use: 7B in float32 take 27 GB."""


def is_large(path: Path) -> bool:
    """Tell whether a weights file is to be loaded this way."""
    return path.stat().st_size >= LARGE


def read_bfloat16(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file tensor by tensor into bfloat16.

    Raises:
        TrialError: kind "weights", for other files.
    """
    if path.suffix != ".safetensors":
        raise TrialError("weights", f"{path.name}: weights of this size are read from safetensors only")
    opened: Any = safe_open(path, framework="pt")
    with opened as tensors:
        return {name: tensors.get_tensor(name).to(torch.bfloat16) for name in tensors.keys()}  # noqa: SIM118


def take_over(body: nn.Module, state: dict[str, Tensor]) -> None:
    """Give a network on the meta device its parameters, without copying, and its computed buffers.

    Raises:
        TrialError: kind "weights", if a buffer can neither be loaded nor computed.
    """
    body.load_state_dict(state, strict=True, assign=True)
    for name, module in body.named_modules():
        absent = [key for key, buffer in module._buffers.items() if buffer is not None and buffer.is_meta]
        for key in absent:
            buffer = module._buffers[key]
            if buffer is not None:
                module._buffers[key] = torch.empty_like(buffer, device="cpu")
        if absent:
            compute = getattr(module, "init_non_persistent_buffers", None) or getattr(module, "_init_buffers", None)
            if compute is None:
                raise TrialError("weights", f"{name}: nothing says how to compute {', '.join(absent)}")
            compute()
    body.requires_grad_(False)
