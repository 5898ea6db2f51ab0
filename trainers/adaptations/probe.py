"""A frozen encoder and one linear layer on its stored features."""

from typing import TYPE_CHECKING

from trainers.network_plan import Refusal

if TYPE_CHECKING:
    from torch import nn

    from trainers.network import Network


class Probe:
    """The task's own head, trained on features that are computed once."""

    on_features = True
    ignores = frozenset({"augmentation", "layer_decay"})

    def adapt(self, network: "Network") -> None:
        """Freeze the encoder."""
        network.encoder.requires_grad_(False)

    def head(self, head: "nn.Module", *, width: int, outputs: int) -> "nn.Module":
        """Keep the task's linear head."""
        return head

    def refusal(self, family: str) -> Refusal | None:
        """Accept every family."""
        return None


ADAPTATION = Probe()
