"""A feature store that is being filled: row after row, and from where a killed attempt stood.

An encoder of billions of parameters takes hours for a data set; a node that is preempted more often than that would
never come to their end. `.features.f32` holds what is computed so far, `.filled.json` for how many images.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from datasets.whole_file import replacing, reserve

STORED = "features.f32"
FILLED = ".filled.json"
SECONDS_BETWEEN_NOTES = 30.0


class Filling:
    """The file of a store while it is computed; one process holds it (see `features.open_features`).

    Args:
        folder: of the store.
        rows: of the file, int64 (images,), those that get features, in the order in which they do.
        shape: of the file, rows × width.

    Raises:
        OSError: the disk has no room for it; there is no file then.
    """

    def __init__(self, folder: Path, rows: np.ndarray, shape: tuple[int, int]):
        self._folder, self._rows = folder, rows
        self._path = folder / f".{STORED}"
        size = shape[0] * shape[1] * np.dtype(np.float32).itemsize
        self._filled = self._noted(size)
        if not self._filled:
            reserve(self._path, size)
        self._store = np.memmap(self._path, np.float32, mode="r+", shape=shape)

    def fill(self, compute: Callable[[np.ndarray], np.ndarray], *, at_once: int) -> None:
        """Compute what is missing, and give the file its name.

        If that fails nothing of it stays; a kill, or an interrupt, leaves what was noted.

        Args:
            compute: from rows (B,) to features, float32 (B, width).
            at_once: images of one call; the same ones are computed together in every attempt.
        """
        noted = time.monotonic()
        try:
            for first in range(self._filled, len(self._rows), at_once):
                chosen = self._rows[first : first + at_once]
                self._store[chosen] = compute(chosen)
                if time.monotonic() - noted >= SECONDS_BETWEEN_NOTES:
                    self._note(first + len(chosen))
                    noted = time.monotonic()
        except Exception:
            self._remove()
            raise
        self._store.flush()
        self._path.replace(self._folder / STORED)
        (self._folder / FILLED).unlink(missing_ok=True)

    def _noted(self, size: int) -> int:
        """Return for how many images an earlier attempt left features; 0 where it left none that are whole."""
        try:
            filled = json.loads((self._folder / FILLED).read_text())["images"]
            whole = self._path.stat().st_size == size and isinstance(filled, int) and 0 <= filled <= len(self._rows)
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        return filled if whole else 0

    def _note(self, filled: int) -> None:
        self._store.flush()  # first: what is noted must be there after a power cut
        with replacing(self._folder / FILLED) as aside:
            aside.write_text(json.dumps({"images": filled}))

    def _remove(self) -> None:
        for path in (self._folder / FILLED, self._path):
            path.unlink(missing_ok=True)
