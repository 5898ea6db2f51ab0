"""Which architectures and pretrained tags timm has, without importing it.

Importing timm costs seconds and torch; `plan` only needs to know whether a name exists. timm registers every
architecture with a decorated function and lists its tags as dictionary keys, so its source text says both (checked
against `timm.list_models` and `timm.list_pretrained` by a test). Tags that timm makes in loops are missed: some vision
towers of language models, none of them of ImageNet or DINO.
"""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_ARCHITECTURE = re.compile(r"^@register_model\s+def (\w+)\(", re.MULTILINE)
_TAG = re.compile(r"""^\s*['"](\w+)\.(\w+)['"]\s*:\s*(?:_\w*cfg|\w+\(|\{)""", re.MULTILINE)


@cache
def catalogue() -> dict[str, tuple[str, ...]]:
    """Return timm's architectures and, for each, its pretrained tags in timm's order (the first is its default)."""
    spec = find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        return {}
    sources = [path.read_text() for path in sorted(Path(spec.submodule_search_locations[0], "models").glob("*.py"))]
    names = {name for source in sources for name in _ARCHITECTURE.findall(source)}
    tags: dict[str, list[str]] = {name: [] for name in sorted(names)}
    for source in sources:
        for architecture, tag in _TAG.findall(source):
            tags.setdefault(architecture, []).append(tag)
    return {name: tuple(found) for name, found in tags.items()}
