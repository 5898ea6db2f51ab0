"""What a trial wants of a GPU's memory, in words that cost no torch: the driver plans with them."""

from dataclasses import dataclass

FILL = 0.85
"""Share of a GPU's memory to plan with: workspaces and fragmentation need the rest."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes on a GPU; `trainers.footprint` measures them.

    Attributes:
        fixed: parameters, gradients, optimizer state and moving average.
        batch: what autograd keeps for one whole effective batch.
        per_image: the same for one image: the least that a step needs.
        shared: whether several GPUs can hold parts of the network (a frozen encoder), instead of a copy each.
    """

    fixed: int
    batch: int
    per_image: int
    shared: bool
