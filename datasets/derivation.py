"""Smaller squares out of a larger cache, where that is the same as going back to the file.

It seldom is: a square has been windowed, rounded to bytes and perhaps padded, and averaging bytes again
rounds twice. It is where the larger square *is* the file: 8-bit images already of that size, such as
NIH ChestX-ray14 at 1024 px, which its preparation left as they were. Each row says so itself (`verbatim.u8`); none
does whose file is JPEG 2000 that is decoded reduced.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from datasets.decoding import Decoded
from datasets.preprocessing import Preprocessing
from datasets.radiograph import Radiograph

PIXELS = "pixels.u8"
VERBATIM = "verbatim.u8"
MARKER = "complete.json"


def derived(
    rows: np.ndarray, *, wanted: dict[str, Any], cache: Path, specification: Preprocessing
) -> Iterator[Decoded]:
    """Yield the squares of those rows that a larger complete cache of the same files holds verbatim.

    Args:
        rows: int64, row numbers.
        wanted: what the marker of the cache that is being built will say.
        cache: folder of all caches.
        specification: the preparation.
    """
    larger = _larger(cache, wanted)
    if larger is None:
        return
    folder, side = larger
    verbatim = np.fromfile(folder / VERBATIM, np.uint8).astype(bool)
    hashes = np.fromfile(folder / "sha256.bin", np.uint8).reshape(-1, 32)
    pixels = np.memmap(folder / PIXELS, np.uint8, mode="r", shape=(len(verbatim), side, side))
    for row in rows[verbatim[rows]]:
        square = specification.square(Radiograph(np.array(pixels[row]), 8), wanted["resolution"])
        yield Decoded(int(row), hashes[row].tobytes().hex(), (square,), None, (False,))


def _larger(cache: Path, wanted: dict[str, Any]) -> tuple[Path, int] | None:
    """Return the complete cache of the same files and preparation that is next in resolution, and that resolution."""
    found = []
    for path in cache.glob(f"*/{MARKER}"):
        told = description(path)
        folder, side = path.parent, told.get("resolution", 0)
        same = all(told.get(key) == wanted[key] for key in ("pixels", "preprocessing", "images"))
        serves = same and side > wanted["resolution"] and (folder / VERBATIM).is_file()
        if serves and have_their_sizes(folder, rows=wanted["images"], side=side):
            found.append((folder, side))
    return min(found, key=lambda pair: pair[1], default=None)


def description(marker: Path) -> dict[str, Any]:
    """Return what the marker of a complete cache says of it; nothing if it is damaged."""
    try:
        told = json.loads(marker.read_text())
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def have_their_sizes(folder: Path, *, rows: int, side: int) -> bool:
    """Say whether a cache's files are as long as so many rows need; earlier versions wrote no `verbatim.u8`."""
    sizes = {PIXELS: rows * side * side, "state.u8": rows, "sha256.bin": rows * 32}
    if (folder / VERBATIM).exists():
        sizes[VERBATIM] = rows
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items())
