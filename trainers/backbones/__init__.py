"""Backbones: one file each for the studies' own names; any timm name is a backbone without a file."""

import difflib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trainers import plugins, timm_names
from trainers.network_plan import Backbone, Family, NetworkPlan

if TYPE_CHECKING:
    from trainers.timm_networks import TimmNetwork


def names() -> list[str]:
    """Return the backbones that have a file."""
    return plugins.listed(sys.modules[__name__])


def find(name: str) -> Backbone:
    """Return what is known of a backbone, without importing torch or timm.

    Args:
        name: a file in this folder, or a timm name with or without a tag (`resnet50`, `resnet50.a1_in1k`).

    Raises:
        UnknownNameError: neither; names the closest of both and lists the files.
    """
    if name in names():
        backbone: Backbone = plugins.load(sys.modules[__name__], name, kind="backbone").BACKBONE
        return backbone
    architecture, _, tag = name.partition(".")
    tags = timm_names.catalogue().get(architecture)
    if tags is None:
        raise _unknown(name, architecture)
    if tag and tag not in tags:
        raise plugins.unknown("tag", tag, tags, also=f"as weights of timm's {architecture}")
    return Backbone(
        name=name,
        architecture=architecture,
        family=_family(architecture),
        patch_size=timm_names.patch_size_of(architecture),
        mean=None,
        std=None,
    )


def build(plan: NetworkPlan, *, weights: Path | None = None) -> "TimmNetwork":
    """Build a backbone and load its weights exactly; see `trainers.timm_networks.build`."""
    from trainers.timm_networks import build as build_with_timm

    return build_with_timm(plan, weights=weights)


def _family(architecture: str) -> Family:
    if architecture.startswith("convnext") or "_convnext" in architecture:
        return "convnext"
    if architecture.startswith("swin"):  # patches, but maps of several sizes and attention in windows
        return "cnn"
    if "_patch" in architecture or architecture.startswith(("vit_", "test_vit")):
        return "vit"
    return "cnn"


def _unknown(name: str, architecture: str) -> plugins.UnknownNameError:
    everything = sorted({*names(), *timm_names.catalogue()})
    close = difflib.get_close_matches(architecture, everything, n=3, cutoff=0.7)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    listed = ", ".join(names())
    return plugins.UnknownNameError(
        f"unknown backbone {name!r}{hint} (existing: {listed}; or any of timm's {len(timm_names.catalogue())} names)"
    )
