"""What a trial wants of memory, a GPU's and a node's, in words that cost no torch: the driver plans with them."""

from dataclasses import dataclass

FILL = 0.85
"""Share of a GPU's memory to plan with: workspaces and fragmentation need the rest."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes; `trainers.footprint` measures them. All but the last two are on a GPU.

    Attributes:
        fixed: parameters, gradients, optimizer state and moving average.
        batch: what autograd keeps for one whole effective batch.
        per_image: the same for one image: the least that a step needs.
        shared: whether several GPUs can hold parts of the network (a frozen encoder), instead of a copy each.
        host: main memory of each process, besides what any process on a GPU takes: the network while it is loaded, or
            its state while a checkpoint is written.
        stored: main memory for each image of the data set: its features.
    """

    fixed: int
    batch: int
    per_image: int
    shared: bool
    host: int = 0
    stored: int = 0
