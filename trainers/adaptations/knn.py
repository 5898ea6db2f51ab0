"""A frozen encoder and its nearest neighbours: nothing is trained."""

from typing import TYPE_CHECKING

from trainers.adaptations.probe import Probe
from trainers.recipes import Recipe

if TYPE_CHECKING:
    from torch import nn


class NearestNeighbours(Probe):
    """Each case gets the weighted share of positives among its 20 nearest training images."""

    ignores = frozenset(Recipe.model_fields) - {"name", "pooling", "precision"}

    def head(self, head: "nn.Module", *, width: int, outputs: int) -> "nn.Module":
        """Return a head that remembers the training features instead of learning."""
        from trainers.neighbours import NeighboursHead

        return NeighboursHead(width, outputs)


ADAPTATION = NearestNeighbours()
