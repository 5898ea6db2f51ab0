"""Creates a network of timm at an input size, and refuses sizes that it would crop or break at."""

import dataclasses

import torch
from torch import nn

from datasets.torchvision_operators import declare_missing
from trainers.network_plan import NetworkPlan
from trainers.trial import TrialError

declare_missing()  # timm imports torchvision, whose import fails where its operators do not load

import timm  # noqa: E402

_LOOKED_AT = 33
"""Pixels around a size that does not fit in which one that does is looked for: no patch has more than 32."""


def create(plan: NetworkPlan) -> nn.Module:
    """Create timm's network at the plan's true input size, with random weights and no classifier.

    Raises:
        TrialError: kind "configuration", timm refuses the architecture or the size.
    """
    configuration = timm.models.get_pretrained_cfg(plan.architecture)
    # Of the other families the plan knows which sizes fit, and most convolutions read any.
    if plan.family == "cnn" and configuration is not None and configuration.fixed_input_size:
        _check_size(plan)
    try:
        return _create_sized(plan)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise TrialError(
            "configuration", f"timm cannot build {plan.architecture} at {plan.input_size} px: {error}"
        ) from error


def _create_sized(plan: NetworkPlan) -> nn.Module:
    """Pass `img_size` where the architecture has one: fixed position embeddings; ConvNeXt raises TypeError on it."""
    if plan.family != "convnext":
        try:
            body: nn.Module = timm.create_model(
                plan.architecture, pretrained=False, num_classes=0, img_size=plan.input_size
            )
            return body
        except TypeError:
            pass
    unsized: nn.Module = timm.create_model(plan.architecture, pretrained=False, num_classes=0)
    return unsized


def _check_size(plan: NetworkPlan) -> None:
    """Refuse an input that the network cannot take or would not see all of, with the nearest sizes that fit."""
    side = plan.input_size
    if (problem := _problem(plan, side)) is None:
        return
    ways = (range(side - 1, side - _LOOKED_AT, -1), range(side + 1, side + _LOOKED_AT))
    nearest = (next((other for other in way if _problem(plan, other) is None), None) for way in ways)
    fitting = " or ".join(f"{other} px" for other in nearest if other)
    raise TrialError(
        "configuration",
        f"{plan.architecture} cannot read {side} px: {problem}; use {fitting or 'another size or backbone'}",
    )


def _problem(plan: NetworkPlan, side: int) -> str | None:
    """Return what keeps a network from reading images of side × side px; tried on the meta device, without memory."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
            body = _create_sized(dataclasses.replace(plan, input_size=side)).eval()
            body.forward_features(torch.zeros(1, 3, side, side))  # type: ignore[operator]
    except NotImplementedError:  # an operation that this device lacks says nothing of the size
        return None
    except (RuntimeError, AssertionError, ValueError) as error:
        return str(error)
    unread = _unread(body, side)
    return f"its patches leave out {unread} px at the right and the lower edge" if unread else None


def _unread(body: nn.Module, side: int) -> int:
    """Return the pixels at the right and the lower edge that no patch covers."""
    for module in body.modules():
        projection = getattr(module, "proj", getattr(module, "conv", None))
        if hasattr(module, "patch_size") and isinstance(projection, nn.Conv2d) and projection.in_channels == 3:
            kernel, stride, padding = projection.kernel_size[0], projection.stride[0], int(projection.padding[0])
            padded = getattr(module, "dynamic_img_pad", False)
            return 0 if padded else max(0, (side + 2 * padding - kernel) % stride - padding)
    return 0
