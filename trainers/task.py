"""What a task is to the training loop: everything that differs between one kind of study and another."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from trainers.recipes import Recipe
from trainers.trial import TaskDeclaration

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Loss(Protocol):
    """A loss that adds up over micro-batches: a sum, and what the whole batch's sum is divided by."""

    def total(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        """Return the summed loss of some images, a scalar."""
        ...

    def weight(self, targets: "Tensor") -> "Tensor":
        """Return what the sum over the same images counts for, a scalar (e.g. the number of given labels)."""
        ...


class Task(Protocol):
    """Head, collation, loss, case-level prediction and metrics of one kind of study."""

    def declare(self, pathologies: Sequence[str]) -> TaskDeclaration:
        """Return what the rooms above need to know; imports no torch."""
        ...

    def head(self, width: int, pathologies: Sequence[str], *, dropout: float) -> "nn.Module":
        """Return the module from pooled features (B, width) to outputs."""
        ...

    def collate(self, images: "Tensor", labels: "Tensor", *, device: "torch.device") -> tuple["Tensor", "Tensor"]:
        """Return inputs and targets on the device."""
        ...

    def loss(self, labels: np.ndarray, recipe: Recipe) -> Loss:
        """Return the loss, given the train partition's labels (n, P)."""
        ...

    def scores(self, outputs: "Tensor") -> "Tensor":
        """Return comparable scores (B, P) from the network's outputs, e.g. probabilities."""
        ...

    def by_case(
        self, scores: np.ndarray, labels: np.ndarray, cases: np.ndarray, pathologies: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return scores and labels per case, and the index of each case's first instance."""
        ...

    def metrics(self, scores: np.ndarray, labels: np.ndarray, pathologies: Sequence[str]) -> Mapping[str, float | None]:
        """Return named metrics per case (without the partition's prefix); undefined ones are None."""
        ...
