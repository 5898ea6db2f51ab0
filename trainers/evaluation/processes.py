"""Work spread over the processors that this process may use."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")


def spread(work: Callable[[Item], Found], items: Sequence[Item], *, most: int) -> list[Found]:
    """Return what `work` makes of each item, in their order.

    Args:
        work: can be pickled, and so can what it takes and returns.
        items: a process takes the next one when it is done with its last.
        most: processes that are worth the two seconds which each takes to start; with fewer than two of them, or of
            processors, all is done in this one.
    """
    processes = min(processors(), most)
    if processes < 2:
        return [work(item) for item in items]
    # A forked process could inherit locks of Ray's threads, so they are spawned.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(work, items))


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
