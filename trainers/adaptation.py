"""What an adaptation is: which parameters of a pretrained network may change."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn

    from trainers.network import Network
    from trainers.network_plan import Refusal


class Adaptation(Protocol):
    """One way of using pretrained weights.

    Attributes:
        on_features: True if the encoder stays frozen and the trial reads its stored features, not images.
        ignores: settings of a recipe that change nothing of what is trained so.
    """

    on_features: bool
    ignores: frozenset[str]

    def adapt(self, network: "Network") -> None:
        """Change the network in place: freeze parameters, insert new ones."""
        ...

    def head(self, head: "nn.Module", *, width: int, outputs: int) -> "nn.Module":
        """Return the head to train, given the task's own."""
        ...

    def refusal(self, family: str) -> "Refusal | None":
        """Return why a backbone family cannot be adapted so, or None."""
        ...
