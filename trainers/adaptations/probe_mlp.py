"""A frozen encoder and the head that arXiv 2510.07191's code puts on the 7B encoder (models/dinonet.py)."""

from typing import TYPE_CHECKING

from trainers.adaptations.probe import Probe

if TYPE_CHECKING:
    from torch import nn

HIDDEN = 512
DROPOUT = 0.3


class MlpProbe(Probe):
    """LayerNorm → linear 512 → GELU → LayerNorm → dropout 0.3 → linear."""

    ignores = Probe.ignores | {"dropout"}

    def head(self, head: "nn.Module", *, width: int, outputs: int) -> "nn.Module":
        """Return the paper's head instead of the task's."""
        from torch import nn

        return nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, HIDDEN),
            nn.GELU(),
            nn.LayerNorm(HIDDEN),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN, outputs),
        )


ADAPTATION = MlpProbe()
