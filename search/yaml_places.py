"""YAML with the line of every key, so that an error can point into the file."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from search.errors import StudyError

NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
ODD = re.compile(r"[-+]?(0[0-7_]+$|[0-9_]+:)")
Place = tuple[str | int, ...]
"""Keys and indices from the top of the file, as pydantic reports them."""


def load(path: Path) -> tuple[dict[str, Any], dict[Place, int]]:
    """Read a YAML mapping.

    Returns:
        The mapping, and the line (counted from 1) of every key and list item in it.

    Raises:
        StudyError: the file is absent, is not YAML, holds a key twice or a number that YAML reads as another, or is
            not a mapping.
    """
    if not path.is_file():
        raise StudyError(f"{path}: no such study file. Shipped ones: search/studies/*.yaml")
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except UnicodeDecodeError as problem:
        raise StudyError(f"{path}: not UTF-8 text: {problem}") from problem
    except (yaml.YAMLError, ValueError, RecursionError) as problem:  # ValueError: a date that is none
        raise StudyError(f"{path}: not valid YAML: {problem}") from problem
    if not isinstance(content, dict):
        raise StudyError(
            f"{path}: a study file is a mapping that starts with `name: …`, found {type(content).__name__}"
        )
    lines: dict[Place, int] = {}
    doubles: list[str] = []
    try:
        _walk(root, (), lines, doubles)
    except RecursionError:
        raise StudyError(f"{path}: an anchor holds itself") from None
    if odd := list(_odd_numbers(root)):
        raise StudyError(f"{path}: numbers that YAML reads as others:\n" + "\n".join(f"  {line}" for line in odd))
    if doubles:
        raise StudyError(f"{path}: keys given twice, keep one of each:\n" + "\n".join(f"  {line}" for line in doubles))
    return content, lines


def line_of(place: Place, lines: dict[Place, int]) -> int | None:
    """Return the line of the innermost part of `place` that stands in the file."""
    for length in range(len(place), 0, -1):
        if place[:length] in lines:
            return lines[place[:length]]
    return None


def _odd_numbers(node: yaml.Node | None) -> Iterator[str]:
    """Tell of numbers to the base of 60 or 8, which nobody means who writes `72:00` or `0224`."""
    if isinstance(node, yaml.ScalarNode) and node.tag in NUMBERS and ODD.match(node.value):
        read = yaml.safe_load(node.value)
        yield f"line {node.start_mark.line + 1}: {node.value} would be {read}; write it plainly, or a name in quotes"
    elif isinstance(node, yaml.CollectionNode):
        for part in node.value:
            for inner in part if isinstance(part, tuple) else (part,):
                yield from _odd_numbers(inner)


def _walk(node: yaml.Node | None, place: Place, lines: dict[Place, int], doubles: list[str]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, key.value)
            line = key.start_mark.line + 1
            if inner in lines:
                doubles.append(f"line {line}: `{'.'.join(map(str, inner))}`, first on line {lines[inner]}")
            lines[inner] = line
            _walk(value, inner, lines, doubles)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*place, index)] = item.start_mark.line + 1
            _walk(item, (*place, index), lines, doubles)
