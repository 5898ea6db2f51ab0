"""Initializations: one file each, tables only. `resolve` joins a table with a backbone and a resolution."""

import re
import sys
from pathlib import Path

from trainers import backbones, plugins, timm_names
from trainers.network_plan import Backbone, Initialization, NetworkPlan, Pretrained, Refusal, true_size

FILE_PREFIX = "file:"


def names() -> list[str]:
    """Return the initializations that have a file; `file:PATH` names a local checkpoint beside them."""
    return plugins.listed(sys.modules[__name__])


def load(initialization: str) -> Initialization:
    """Return the table of an initialization.

    Raises:
        UnknownNameError: lists the initializations that exist.
    """
    if initialization not in names():
        raise plugins.unknown("initialization", initialization, names(), also="or file:PATH of a safetensors file")
    table: Initialization = plugins.load(sys.modules[__name__], initialization, kind="initialization").INITIALIZATION
    return table


def is_trained(initialization: str) -> bool:
    """Say whether weights are loaded; otherwise they are drawn from the trial's seed.

    Raises:
        UnknownNameError: lists the initializations that exist.
    """
    return initialization.startswith(FILE_PREFIX) or load(initialization).trained


def resolve(initialization: str, backbone: str, resolution: int) -> NetworkPlan | Refusal:
    """Decide what a cell's network is, without importing torch or timm.

    Args:
        initialization: a name in this folder, or `file:PATH` of a safetensors file.
        backbone: a name in `trainers/backbones`, or any timm name.
        resolution: asked side of the square input, pixels.

    Returns:
        The plan, or a refusal with the reason (no such weights, no such input size).

    Raises:
        UnknownNameError: a name that does not exist at all; lists those that do.
    """
    shape = backbones.find(backbone)
    if initialization.startswith(FILE_PREFIX):
        found: Pretrained | Refusal | None = _from_file(initialization, shape)
    else:
        found = _weights(load(initialization), initialization, shape)
    if isinstance(found, Refusal):
        return found
    return _plan(initialization, shape, found, resolution)


def _weights(table: Initialization, initialization: str, shape: Backbone) -> Pretrained | Refusal | None:
    if not table.trained:
        return None
    if shape.name in table.table:
        return table.table[shape.name]
    for key in (shape.name, shape.family):
        if key in table.holes:
            return Refusal(f"{initialization} × {shape.name}: {table.holes[key]}")
    if table.tag_pattern is None or shape.name in backbones.names():
        return Refusal(
            f"{initialization} × {shape.name}: no such weights are known; {initialization} has weights for "
            f"{', '.join(sorted(table.table))}"
        )
    return _by_tag(table, initialization, shape)


def _by_tag(table: Initialization, initialization: str, shape: Backbone) -> Pretrained | Refusal:
    """Choose among timm's own tags for an architecture: the first that fits the pattern."""
    architecture, _, asked = shape.name.partition(".")
    tags = timm_names.catalogue().get(architecture, ())
    candidates = (asked,) if asked else tags
    pattern = re.compile(table.tag_pattern or "")
    for tag in candidates:
        if pattern.search(tag):
            return Pretrained(
                f"{architecture}.{tag}",
                licence=table.licence,
                gated=table.gated,
                mean=None,
                std=None,
                patch_size=shape.patch_size,
                paper_pooling=table.paper_pooling if shape.family == "vit" else "family",
                architecture=architecture,
                note=table.note,
            )
    listed = ", ".join(tags) or "none"
    return Refusal(f"{initialization} × {shape.name}: timm lists no such weights for it; its tags: {listed}")


def _from_file(initialization: str, shape: Backbone) -> Pretrained | Refusal:
    path = Path(initialization.removeprefix(FILE_PREFIX))
    if path.suffix != ".safetensors":
        return Refusal(
            f"{initialization}: only .safetensors files are read as weights; convert others once with "
            f"`python -m trainers convert-checkpoint {path} --to {path.with_suffix('.safetensors')}`"
        )
    return Pretrained(
        initialization,
        licence="of the file",
        mean=shape.mean,
        std=shape.std,
        patch_size=shape.patch_size,
        architecture=shape.architecture,
    )


def _plan(initialization: str, shape: Backbone, weights: Pretrained | None, resolution: int) -> NetworkPlan | Refusal:
    architecture = _architecture(shape, weights)
    patch_size = weights.patch_size if weights else shape.patch_size
    if patch_size is None and shape.family == "vit":
        patch_size = timm_names.patch_size_of(architecture)
    smallest = 2 * patch_size if patch_size else shape.smallest
    size = true_size(resolution, patch_size=patch_size, smallest=smallest)
    if isinstance(size, Refusal):
        return Refusal(f"{initialization} × {shape.name}: {size.reason}")
    return NetworkPlan(
        initialization=initialization,
        backbone=shape.name,
        architecture=architecture,
        family=shape.family,
        tag=weights.tag if weights else None,
        licence=weights.licence if weights else "none",
        gated=weights.gated if weights else False,
        mean=weights.mean if weights else shape.mean,
        std=weights.std if weights else shape.std,
        patch_size=patch_size,
        pooling=weights.pooling if weights else "family",
        paper_pooling=weights.paper_pooling if weights else "family",
        resolution=resolution,
        input_size=size[0],
        size_rule=size[1],
        note=weights.note if weights else "",
    )


def _architecture(shape: Backbone, weights: Pretrained | None) -> str:
    if weights is None:
        return shape.architecture
    if weights.architecture:
        return weights.architecture
    return weights.tag.partition(".")[0]
