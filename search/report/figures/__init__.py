"""The report's figures, drawn by matplotlib without a display; each file draws one kind from the report's values."""

from functools import partial
from itertools import chain
from typing import Any

from search.report.figures import cost, curves, forest, groups, heat_map, hyperparameters, results
from search.report.figures.canvas import Picture, styled
from trainers.evaluation.processes import spread

KINDS = {kind.__name__: kind.draw for kind in (results, heat_map, forest, hyperparameters, cost, curves, groups)}
"""In the order in which they are read."""
CELLS_PER_PROCESS = 20
"""Fewer are drawn before another process has started."""


def draw(found: dict[str, Any]) -> list[Picture]:
    """Return all figures that have something to show, in the order in which they are read."""
    drawn = spread(partial(_drawn, found), list(KINDS), most=len(found["cells"]) // CELLS_PER_PROCESS)
    return list(chain.from_iterable(drawn))


def _drawn(found: dict[str, Any], kind: str) -> list[Picture]:
    with styled():
        return list(KINDS[kind](found))
