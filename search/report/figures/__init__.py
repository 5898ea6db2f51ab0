"""The report's figures, drawn by matplotlib without a display; each file draws one kind from the report's values."""

from collections.abc import Iterator
from typing import Any

from search.report.figures import cost, curves, forest, groups, heat_map, hyperparameters, results
from search.report.figures.canvas import Picture, styled


def draw(found: dict[str, Any]) -> list[Picture]:
    """Return all figures that have something to show, in the order in which they are read."""
    with styled():
        return list(_drawn(found))


def _drawn(found: dict[str, Any]) -> Iterator[Picture]:
    for kind in (results, heat_map, forest, hyperparameters, cost, curves, groups):
        yield from kind.draw(found)
