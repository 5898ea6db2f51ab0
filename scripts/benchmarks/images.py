"""From a DICOM file to the network's pixels: decoding, windowing, and the cache that saves both."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import pydicom
from pydicom.pixels import apply_voi_lut, pixel_array

from datasets.dicom import raw_display_table
from datasets.images import read
from datasets.preprocessing import resolve
from datasets.radiograph import gather
from scripts.benchmarks._agreement import check_equal, check_grey_levels, stretched
from scripts.benchmarks._image_material import BITS, TAGS, radiograph, write_jpeg2000
from scripts.benchmarks.row import Row

SIDE = 512


def run(*, quick: bool) -> list[Row]:
    """Measure on one thread, median of several repetitions, ours and the peer's in turn."""
    cv2.setNumThreads(1)
    repetitions = 3 if quick else 9
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "radiograph.dcm"
        write_jpeg2000(path, radiograph(0))
        return [_decoding(path, repetitions), _windowing(repetitions), _cache_row(path, Path(folder), repetitions)]


def alternate(ours: Callable[[], object], peer: Callable[[], object], repetitions: int) -> tuple[float, float]:
    """Return the median seconds of both, measured in turn so that a busy machine slows both."""
    ours(), peer()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repetitions):
        for call, taken in zip((ours, peer), times, strict=True):
            started = time.perf_counter()
            call()
            taken.append(time.perf_counter() - started)
    return median(times[0]), median(times[1])


def _by_pydicom(path: Path) -> np.ndarray:
    """Return the film with its longer side SIDE: our square without its borders and its stretch of grey levels."""
    dataset = pydicom.dcmread(path)
    shown = apply_voi_lut(pixel_array(dataset), dataset)
    height, width = (round(length * SIDE / max(shown.shape)) for length in shown.shape)
    return np.asarray(cv2.resize(shown, (width, height), interpolation=cv2.INTER_AREA))


def _square(film: np.ndarray) -> np.ndarray:
    """Return the peer's film as our preprocessing shows it: stretched, between black borders."""
    height, width = film.shape
    square = np.zeros((SIDE, SIDE))
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    square[top : top + height, left : left + width] = stretched(film)
    return square


def _ours(path: Path) -> np.ndarray:
    specification = resolve("standard")
    return specification.square(read(path, cover=specification.cover(SIDE)), SIDE)


def _decoding(path: Path, repetitions: int) -> Row:
    check_grey_levels("decoding", _ours(path), _square(_by_pydicom(path)))
    ours, peer = alternate(lambda: _ours(path), lambda: _by_pydicom(path), repetitions)
    name = f"JPEG 2000 2500 × 2048 to {SIDE} px: ms, peer pydicom + apply_voi_lut + resize"
    return Row(name, 1000 * ours, 1000 * peer, peer / ours, "≥ 8×", peer / ours >= 8)


def _windowing(repetitions: int) -> Row:
    values = radiograph(1)
    dataset = pydicom.Dataset()
    dataset.BitsStored, dataset.PixelRepresentation = BITS, 0
    for keyword, value in TAGS.items():
        setattr(dataset, keyword, value)

    def gathered() -> np.ndarray:
        table = raw_display_table(dataset, window=0)
        if table is None:
            raise RuntimeError("the benchmark's window was not applied")
        return gather(table[0], values)

    equal = bool(np.array_equal(gathered(), apply_voi_lut(values, dataset)))
    ours, peer = alternate(gathered, lambda: apply_voi_lut(values, dataset), 3 * repetitions)
    name = f"Windowing 2500 × 2048: ms, peer apply_voi_lut, {'equal to the bit' if equal else 'NOT EQUAL'}"
    return Row(name, 1000 * ours, 1000 * peer, peer / ours, "≥ 3×, equal", equal and peer / ours >= 3)


def _cache_row(path: Path, folder: Path, repetitions: int) -> Row:
    rows = 256
    stored = np.memmap(folder / "pixels.u8", np.uint8, mode="w+", shape=(rows, SIDE, SIDE))
    prepared = _ours(path)
    for row in range(rows):
        stored[row] = np.roll(prepared, row, axis=1)  # no two alike, so that a wrong row is noticed
    stored.flush()
    pixels = np.memmap(folder / "pixels.u8", np.uint8, mode="r", shape=(rows, SIDE, SIDE))
    order = np.random.default_rng(0).permutation(rows)

    def cached(row: int) -> np.ndarray:
        return np.array(pixels[row])

    def warm() -> None:
        for row in order:
            cached(row)

    for row in order:
        check_equal(f"cache row {row}", cached(row), np.roll(prepared, row, axis=1))
    ours, peer = alternate(warm, lambda: _by_pydicom(path), repetitions)
    ratio = peer / (ours / rows)
    name = f"Cache row of {SIDE} px, warm: ms, peer the cold JPEG 2000 path"
    return Row(name, 1000 * ours / rows, 1000 * peer, ratio, "≥ 500×", ratio >= 500)
