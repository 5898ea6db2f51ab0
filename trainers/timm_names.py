"""Which architectures and pretrained tags timm has, and their patch sizes, without importing it.

Importing timm costs seconds and torch; `plan` only needs to know whether a name exists and which sizes fit. timm
registers every architecture with a decorated function and lists its tags as dictionary keys, so its source text says
both (checked against `timm.list_models` and `timm.list_pretrained` by a test), and the function most often the patch
size. Tags that timm makes in loops are missed: some vision towers of language models, none of them of ImageNet or DINO.
"""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_ARCHITECTURE = re.compile(r"^@register_model\s+def (\w+)\(", re.MULTILINE)
_TAG = re.compile(r"""^\s*['"](\w+)\.(\w+)['"]\s*:\s*(?:_\w*cfg|\w+\(|\{)""", re.MULTILINE)
_DEFINITION = re.compile(r"^@register_model\s+def (\w+)\((.*?)(?=^@|\Z)", re.MULTILINE | re.DOTALL)
_PATCH = re.compile(r"\bpatch_size=(\d+)\b")
_NAMED_PATCH = re.compile(r"_patch(\d+)(?:_|$|\.)")
_OTHER_PATCHES = re.compile(r"\b(?:stride|backbone)=")
"""Patches that overlap, and patches of another network's maps."""


@cache
def catalogue() -> dict[str, tuple[str, ...]]:
    """Return timm's architectures and, for each, its pretrained tags in timm's order (the first is its default)."""
    names = {name for source in _sources() for name in _ARCHITECTURE.findall(source)}
    tags: dict[str, list[str]] = {name: [] for name in sorted(names)}
    for source in _sources():
        for architecture, tag in _TAG.findall(source):
            tags.setdefault(architecture, []).append(tag)
    return {name: tuple(found) for name, found in tags.items()}


def patch_size_of(architecture: str) -> int | None:
    """Return the patch size (pixels) that timm writes into an architecture's name or its definition, or None."""
    named = _NAMED_PATCH.search(architecture)
    return int(named.group(1)) if named else _defined_patches().get(architecture)


@cache
def _defined_patches() -> dict[str, int]:
    """Return the patch sizes of architectures whose whole image is cut into patches that stand side by side."""
    definitions = (found for source in _sources() for found in _DEFINITION.findall(source))
    patches = {name: _PATCH.search(text) for name, text in definitions if not _OTHER_PATCHES.search(text)}
    return {name: int(patch.group(1)) for name, patch in patches.items() if patch}


@cache
def _sources() -> tuple[str, ...]:
    """Return the text of timm's modules of networks, () if timm is not installed."""
    spec = find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        return ()
    return tuple(path.read_text() for path in sorted(Path(spec.submodule_search_locations[0], "models").glob("*.py")))
