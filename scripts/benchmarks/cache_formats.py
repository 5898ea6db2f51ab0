"""A plain memory map against kept formats: random batches of 32 rows, warm, one thread, no compression."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from datasets.torchvision_operators import declare_missing
from scripts.benchmarks._agreement import check_equal
from scripts.benchmarks.row import Row

BATCH = 32


def run(*, quick: bool) -> list[Row]:
    """Keep the memory map as long as none of the formats reads faster."""
    rows = []
    for side, count in ((224, 512 if quick else 2048), (512, 256 if quick else 1024)):
        pixels = np.random.default_rng(0).integers(0, 256, (count, side, side), dtype=np.uint8)
        with tempfile.TemporaryDirectory() as folder:
            ours = _rate("memory map", _memory_map(Path(folder), pixels), pixels)
            for name, opened in (("zarr", _zarr), ("litdata", _litdata)):
                described = f"Cache format at {side} px: images/s from a memory map, peer {name}"
                try:
                    peer = _rate(name, opened(Path(folder), pixels), pixels)
                except ImportError as error:
                    described += f" (skipped: {error.name or error} is not installed)"
                    rows.append(Row(described, ours, 0.0, 0.0, "≥ 1×", False))
                    continue
                rows.append(Row(described, ours, peer, ours / peer, "≥ 1×", ours >= peer))
    return rows


def _rate(name: str, read: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray) -> float:
    """Return images per second over random batches, each compared with what was written before the clock starts."""
    rng = np.random.default_rng(1)
    batches = [rng.choice(len(pixels), BATCH, replace=False) for _ in range(64)]
    for batch in batches:
        check_equal(f"batch from {name}", read(batch), pixels[batch])
    started, images = time.perf_counter(), 0
    while time.perf_counter() - started < 2.0:
        for batch in batches:
            images += len(read(batch))
    return images / (time.perf_counter() - started)


def _memory_map(folder: Path, pixels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    pixels.tofile(folder / "pixels.u8")
    mapped = np.memmap(folder / "pixels.u8", np.uint8, mode="r", shape=pixels.shape)
    return lambda rows: np.asarray(mapped.take(rows, axis=0))


def _zarr(folder: Path, pixels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    import zarr  # type: ignore[import-not-found, unused-ignore]

    array: Any = zarr.create_array(
        store=str(folder / "pixels.zarr"),
        shape=pixels.shape,
        chunks=(1, *pixels.shape[1:]),
        dtype=np.uint8,
        compressors=None,
    )
    array[:] = pixels

    def read(rows: np.ndarray) -> np.ndarray:
        order = np.argsort(rows)  # zarr reads ascending rows faster
        batch = np.empty((len(rows), *pixels.shape[1:]), np.uint8)
        batch[order] = array.oindex[rows[order]]
        return batch

    return read


def _litdata(folder: Path, pixels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    declare_missing()
    import litdata  # type: ignore[import-not-found, unused-ignore]
    from litdata.streaming import Cache  # type: ignore[import-not-found, unused-ignore]

    target = folder / "litdata"
    cache: Any = Cache(str(target), chunk_bytes="64MB")
    for index, row in enumerate(pixels):
        cache[index] = row
    cache.done()
    cache.merge()
    dataset: Any = litdata.StreamingDataset(str(target))
    return lambda rows: np.stack([dataset[int(row)] for row in rows])
