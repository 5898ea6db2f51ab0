"""The whole network of a trial: from grey pixels to the task's outputs."""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from trainers.network_plan import NetworkPlan
from trainers.timm_networks import TimmNetwork


class Network(nn.Module):
    """Grey image in, task outputs out: size, channels and normalisation are part of the network.

    What is packaged or exported is therefore fed exactly as in training.

    Args:
        encoder: the backbone.
        head: (B, encoder.width) to the task's outputs.
        plan: decided sizes and pooling.
        normalise: False feeds [0, 1] (preprocessing "paper"), True subtracts the backbone's mean and divides by std.
        pooling: how tokens become one feature; see `TimmNetwork.forward`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: TimmNetwork, head: nn.Module, *, plan: NetworkPlan, normalise: bool, pooling: str):
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.input_size = plan.input_size
        self.pooling = pooling
        mean, std = (encoder.mean, encoder.std) if normalise else ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        # Not part of the state dict: they are configuration, written beside the weights.
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the task's outputs (B, outputs), e.g. logits.

        Args:
            images: (B, 1, R, R), uint8 0..255 or float in [0, 1].
        """
        return self.head(self.features(images))  # type: ignore[no-any-return]

    def features(self, images: Tensor) -> Tensor:
        """Return the pooled features (B, width) that the head reads."""
        return self.encoder(self.prepare(images), pooling=self.pooling)  # type: ignore[no-any-return]

    def prepare(self, images: Tensor) -> Tensor:
        """Return (B, 3, H, W) as the backbone wants it: true size, grey replicated three times, normalised."""
        if not images.dtype.is_floating_point:
            images = images.to(self.mean.dtype) / 255
        if images.shape[-1] != self.input_size:
            size = (self.input_size, self.input_size)
            images = interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
        return (images - self.mean) / self.std  # (B,1,H,W) - (3,1,1) replicates the grey channel exactly
