"""A network as two files without pickle: the program (torch.export) and its weights (safetensors)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from trainers.checkpoint import write_tensors

EXAMPLES = 2
"""A traced batch of one would fix the batch size at one."""


class Scorer(nn.Module):
    """Pixels in, probabilities out: the network and its task's scores.

    Args:
        network: outputs for (N, 1, R, R).
        scores: turns outputs into probabilities.
    """

    def __init__(self, network: nn.Module, scores: Any):
        super().__init__()
        self.network = network
        self._scores = scores

    def forward(self, pixels: Tensor) -> Tensor:
        """Return probabilities float32 (N, pathologies) for uint8 pixels (N, 1, R, R)."""
        scored: Tensor = self._scores(self.network(pixels))
        return scored


def export(scorer: Scorer, side: int, *, program: Path, weights: Path) -> None:
    """Write a network for any batch size.

    The program is saved with empty tensors: the weights are in one file only, whose hash says which they are, and
    nothing in the program's archive has to be unpickled.

    Args:
        scorer: on the CPU.
        side: R.
        program: file to write, `.pt2`.
        weights: file to write, `.safetensors`.
    """
    # As trials are scored; also decides which of view and copy the traced program uses.
    placed = scorer.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    example = torch.zeros((EXAMPLES, 1, side, side), dtype=torch.uint8)
    with torch.no_grad():
        exported = torch.export.export(placed, (example,), dynamic_shapes=({0: Dim("batch", min=1)},))
    write_tensors(exported.state_dict, weights)
    for name, tensor in exported.state_dict.items():
        empty = torch.empty(0, dtype=tensor.dtype)
        exported.state_dict[name] = nn.Parameter(empty, requires_grad=False) if _is_parameter(tensor) else empty
    exported.example_inputs = None  # would be pickled
    torch.export.save(exported, program)


def _is_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter)
