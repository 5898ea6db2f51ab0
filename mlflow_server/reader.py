"""The part of `datasets` that a registered model takes along: from the bytes of a file to what the network is fed.

The modules are copied as they stand; only their imports of one another become relative, so that the copy can be
imported under any name.
"""

import ast
import re
import shutil
from importlib.metadata import version
from pathlib import Path

import datasets

ENTRIES = ("images", "preprocessing")
"""Modules that the model calls; whatever they import of `datasets` comes along."""
REQUIREMENTS = (
    "numpy",
    "opencv-python-headless",
    "pandas",
    "pillow",
    "pybase64",
    "pydicom",
    "pylibjpeg",
    "pylibjpeg-libjpeg",
    "pylibjpeg-openjpeg",
    "python-gdcm",
    "safetensors",
    "scipy",
    "torch",
)
"""Distributions that the copied modules and `inference.py` import, or that pydicom finds by itself."""


def copy_modules(target: Path) -> tuple[str, ...]:
    """Write the modules into a new folder.

    Returns:
        Their names.
    """
    (source,) = (Path(place) for place in datasets.__path__)
    names = _closure(source)
    target.mkdir(parents=True)
    shutil.copy(source / "__init__.py", target)
    for name in names:
        text = (source / f"{name}.py").read_text()
        (target / f"{name}.py").write_text(re.sub(r"^(\s*from )datasets(\.| )", _relative, text, flags=re.MULTILINE))
    return names


def requirements() -> list[str]:
    """Return what has to be installed beside mlflow, at the versions that are installed here."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS]


def _relative(found: re.Match[str]) -> str:
    return f"{found[1]}." + ("" if found[2] == "." else " ")


def _closure(source: Path) -> tuple[str, ...]:
    """Return the entries and all modules of `datasets` that they import, directly or not."""
    waiting, found = list(ENTRIES), set[str]()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _imported((source / f"{name}.py").read_text())
    return tuple(sorted(found))


def _imported(text: str) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "datasets":
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("datasets."):
            names.append((node.module or "").removeprefix("datasets."))
    return names
