"""Optimizers, parameter groups and the learning rate as a function of the step."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from trainers.recipes import Recipe


def parameter_groups(network: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Return groups of trainable parameters with their `weight_decay` and `lr_scale`.

    Vectors (biases, norms, layer scales) are not decayed. With `layer_decay` the learning rate falls by that factor
    from layer to layer towards the input; the head keeps the full rate, the last block has the factor once (as BEiT,
    arXiv 2106.08254, and timm).
    """
    if recipe.layer_decay is None or not hasattr(network, "encoder"):
        return _split(network.parameters(), recipe.weight_decay)
    from trainers.timm_networks import layer_groups

    encoder: nn.Module = network.encoder.body  # type: ignore[union-attr, assignment]
    inside = layer_groups(encoder, weight_decay=recipe.weight_decay, layer_decay=recipe.layer_decay)
    groups = [
        {**group, "params": [parameter for parameter in group["params"] if parameter.requires_grad]} for group in inside
    ]
    known = {id(parameter) for group in inside for parameter in group["params"]}
    outside = (parameter for parameter in network.parameters() if id(parameter) not in known)
    return [group for group in groups if group["params"]] + _split(outside, recipe.weight_decay)


def build_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer | None:
    """Return the recipe's optimizer over the trainable parameters of a network, None if it has none."""
    groups = parameter_groups(network, recipe)
    if not groups:
        return None
    if recipe.optimizer == "adam":  # L2 in the gradient, as the paper's torch.optim.Adam
        return torch.optim.Adam(groups, lr=recipe.learning_rate, fused=True)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9, nesterov=True)


def rate_factor(step: int, *, steps_per_epoch: int, recipe: Recipe) -> float:
    """Return the factor on the learning rate at an optimizer step, counted from 0 over the whole training.

    Linear warm-up reaches 1 at the end of `warmup_epochs`; then constant, or half a cosine to 0 at the last step.
    """
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if recipe.schedule == "constant":
        return 1.0
    after = max(1, recipe.epochs * steps_per_epoch - warmup)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / after))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's learning rate, times its own `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def _split(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    matrices = [parameter for parameter in trainable if parameter.ndim > 1]
    vectors = [parameter for parameter in trainable if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": weight_decay, "lr_scale": 1.0},
        {"params": vectors, "weight_decay": 0.0, "lr_scale": 1.0},
    ]
    return [group for group in groups if group["params"]]
