"""The report's figures, drawn by matplotlib without a display; each file draws one kind from the report's values."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain
from typing import Any

from search.report.figures import cost, curves, forest, groups, heat_map, hyperparameters, results
from search.report.figures.canvas import Picture, styled
from trainers.evaluation.family import processors

KINDS = {kind.__name__: kind.draw for kind in (results, heat_map, forest, hyperparameters, cost, curves, groups)}
"""In the order in which they are read."""
CELLS_PER_PROCESS = 20
"""Fewer are drawn before another process has started."""


def draw(found: dict[str, Any]) -> list[Picture]:
    """Return all figures that have something to show, in the order in which they are read."""
    processes = min(processors(), len(found["cells"]) // CELLS_PER_PROCESS)
    if processes < 2:
        return list(chain.from_iterable(_drawn(found, kind) for kind in KINDS))
    # Spawned, since a forked process could inherit locks of Ray's threads.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(chain.from_iterable(pool.map(partial(_drawn, found), KINDS)))


def _drawn(found: dict[str, Any], kind: str) -> list[Picture]:
    with styled():
        return list(KINDS[kind](found))
