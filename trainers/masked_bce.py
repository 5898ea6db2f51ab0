"""Binary cross-entropy over the labels that are given."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


class MaskedBCE:
    """Sum of binary cross-entropies over labels that are not NaN; adds up exactly over micro-batches.

    Args:
        positive_weights: (P,) factor on the positive term, or None.
    """

    def __init__(self, positive_weights: Tensor | None = None):
        self.positive_weights = positive_weights

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum over given labels.

        Args:
            outputs: (B, P) logits.
            targets: (B, P) in [0, 1], NaN not given.
        """
        given = ~torch.isnan(targets)
        weights = self.positive_weights
        losses = binary_cross_entropy_with_logits(
            outputs,
            torch.where(given, targets, 0).to(outputs.dtype),
            reduction="none",
            pos_weight=None if weights is None else weights.to(outputs),
        )
        # Not multiplied by the mask: 0 × inf would be NaN.
        return torch.where(given, losses, 0).sum()

    def weight(self, targets: Tensor) -> Tensor:
        """Return the number of given labels."""
        return (~torch.isnan(targets)).sum()


def positive_weights(labels: np.ndarray) -> Tensor:
    """Return negatives / positives per pathology over the given labels, as arXiv 2510.07191's code (eps 1e-15).

    Args:
        labels: (n, P) of the train partition, NaN not given; soft labels count by their share.
    """
    positives = np.nansum(labels, axis=0, dtype=np.float64)
    negatives = np.nansum(1 - labels, axis=0, dtype=np.float64)
    return torch.tensor(negatives / (positives + 1e-15), dtype=torch.float32)
