"""The whole network learns. A layer-wise decay of the learning rate is the recipe's `layer_decay`."""

from typing import TYPE_CHECKING

from trainers.network_plan import Refusal

if TYPE_CHECKING:
    from torch import nn

    from trainers.network import Network


class Finetune:
    """Every parameter is trained."""

    on_features = False
    ignores = frozenset[str]()

    def adapt(self, network: "Network") -> None:
        """Leave everything trainable."""

    def head(self, head: "nn.Module", *, width: int, outputs: int) -> "nn.Module":
        """Keep the task's head."""
        return head

    def refusal(self, family: str) -> Refusal | None:
        """Accept every family."""
        return None


ADAPTATION = Finetune()
