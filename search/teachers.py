"""Which cells teach which: what a search learns in cheap cells it uses in expensive ones.

Cells of the same initialization, backbone and further axes at lower resolutions, on any data set, teach a cell how
its curves end and which hyperparameters win. They say nothing of initializations or backbones, so these are never
dropped on a hint. A cell is judged only when its teachers are over: its decisions then rest on the same curves
however the search was scheduled, interrupted or resumed.
"""

from collections.abc import Mapping
from typing import Any

from search import pruners
from search.curve_endings import FEWEST_GROUPS
from search.grid import Cell
from search.study_sections import Pruning

CARRIES_OVER = frozenset({"dataset", "resolution"})
"""Axes across which curves of the same hyperparameters are alike."""


def teachers(cells: Mapping[str, Cell], pruning: Pruning) -> dict[str, tuple[str, ...]]:
    """Name each cell's teachers.

    Args:
        cells: of the study, by name.
        pruning: of the study; only cells that are compared within themselves learn, by a pruner that can.

    Returns:
        By cell; cells with too few teachers are left out.
    """
    if not pruning.carry or pruning.within != "cell" or not pruners.learns(pruning.pruner):
        return {}
    found = {
        name: tuple(other for other, candidate in cells.items() if _teaches(candidate, cell))
        for name, cell in cells.items()
    }
    return {name: others for name, others in found.items() if len(others) >= FEWEST_GROUPS}


def _teaches(other: Cell, cell: Cell) -> bool:
    theirs, own = dict(other.axes), dict(cell.axes)
    return theirs["resolution"] < own["resolution"] and _rest(theirs) == _rest(own)


def _rest(axes: Mapping[str, Any]) -> dict[str, Any]:
    return {axis: value for axis, value in axes.items() if axis not in CARRIES_OVER}
