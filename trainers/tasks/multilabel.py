"""Several findings per radiograph, each present, absent or not given."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from datasets.labels import NO_FINDING
from trainers.evaluation.auroc import auroc, average_precision
from trainers.recipes import Recipe
from trainers.trial import TaskDeclaration

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from trainers.masked_bce import MaskedBCE


class Multilabel:
    """Independent sigmoid per pathology; a case's score is the mean over its instances."""

    def declare(self, pathologies: Sequence[str]) -> TaskDeclaration:
        """Return macro AUROC on validation as the metric to maximize."""
        return TaskDeclaration(primary_metric="val/auroc/macro", direction="maximize", targets=tuple(pathologies))

    def head(self, width: int, pathologies: Sequence[str], *, dropout: float) -> "nn.Module":
        """Return dropout and one linear layer with an output per pathology."""
        from torch import nn

        return nn.Sequential(nn.Dropout(dropout), nn.Linear(width, len(pathologies)))

    def collate(self, images: "Tensor", labels: "Tensor", *, device: "torch.device") -> tuple["Tensor", "Tensor"]:
        """Move images (B, 1, R, R) and labels (B, P; NaN: not given) to the device, without waiting."""
        return images.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    def loss(self, labels: np.ndarray, recipe: Recipe) -> "MaskedBCE":
        """Return binary cross-entropy over the given labels, with negatives / positives as weights if asked."""
        from trainers.masked_bce import MaskedBCE, positive_weights

        return MaskedBCE(positive_weights(labels) if recipe.positive_weight else None)

    def scores(self, outputs: "Tensor") -> "Tensor":
        """Return probabilities (B, P) from logits."""
        return outputs.float().sigmoid()

    def by_case(
        self, scores: np.ndarray, labels: np.ndarray, cases: np.ndarray, pathologies: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Average the scores over each case's instances; a finding of any instance is the case's, no_finding of all.

        Args:
            scores: (n, P).
            labels: (n, P), NaN not given.
            cases: (n,) identifiers.
            pathologies: the P names.

        Returns:
            Scores (c, P), labels (c, P): the largest given one, of no_finding the smallest, and first (c,): each
            case's first instance. Cases are in the order of their first instance.
        """
        _, first, which = np.unique(cases, return_index=True, return_inverse=True)
        order = np.argsort(first)
        position = np.empty_like(order)
        position[order] = np.arange(len(order))
        which = position[which]
        totals = np.zeros((len(first), scores.shape[1]))
        np.add.at(totals, which, scores.astype(np.float64))
        counts = np.bincount(which, minlength=len(first))
        sign = np.where(np.array(pathologies) == NO_FINDING, -1.0, 1.0)
        given = np.full((len(first), labels.shape[1]), -np.inf)
        np.maximum.at(given, which, np.where(np.isnan(labels), -np.inf, sign * labels))
        return totals / counts[:, None], np.where(np.isinf(given), np.nan, sign * given), first[order]

    def metrics(self, scores: np.ndarray, labels: np.ndarray, pathologies: Sequence[str]) -> dict[str, float | None]:
        """Return AUROC and average precision per pathology and their macro means.

        Macro is the mean over the pathologies whose cases show both classes. That list follows from the labels, not
        from the network, so it is the same for every trial on the same cases; the others are named as undefined.
        """
        found: dict[str, float | None] = {}
        for name, function in (("auroc", auroc), ("average_precision", average_precision)):
            values = [function(labels[:, index], scores[:, index]) for index in range(len(pathologies))]
            found |= {f"{name}/{pathology}": value for pathology, value in zip(pathologies, values, strict=True)}
            defined = [value for value in values if value is not None]
            found[f"{name}/macro"] = float(np.mean(defined)) if defined else None
        return found


TASK = Multilabel()
