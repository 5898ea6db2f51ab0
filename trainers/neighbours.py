"""Weighted k-nearest neighbours over stored features, as a head without trained parameters."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

NEIGHBOURS = 20
TEMPERATURE = 0.07
EDGE = 1e-4  # probabilities are kept this far from 0 and 1, so that logits are finite


class NeighboursHead(nn.Module):
    """Cosine similarity, the nearest 20 weighted by exp(similarity / 0.07) (Wu et al., arXiv 1805.01978, §3.4).

    Args:
        width: of the features.
        outputs: pathologies.
    """

    features: Tensor
    labels: Tensor

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.register_buffer("features", torch.zeros(0, width))
        self.register_buffer("labels", torch.zeros(0, outputs))

    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Remember training features (n, width) and labels (n, P; NaN not given)."""
        self.features = normalize(features.float(), dim=1)
        self.labels = labels.float()

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, P) of the weighted share of positives among the neighbours that have the label."""
        similarity = normalize(features.float(), dim=1) @ self.features.T
        nearest = similarity.topk(min(NEIGHBOURS, len(self.features)), dim=1)
        weights = (nearest.values / TEMPERATURE).softmax(dim=1)[..., None]
        labels = self.labels[nearest.indices]
        given = ~torch.isnan(labels)
        total = (weights * given).sum(dim=1)
        share = (weights * torch.where(given, labels, 0)).sum(dim=1) / total.clamp(min=1e-12)
        # No neighbour has the label: nothing is known.
        return torch.where(total > 0, share, 0.5).clamp(EDGE, 1 - EDGE).logit()

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        """Take the number of remembered images from the checkpoint."""
        for name in ("features", "labels"):
            if prefix + name in state_dict:
                setattr(self, name, torch.zeros_like(state_dict[prefix + name]))
        super()._load_from_state_dict(state_dict, prefix, *rest)
