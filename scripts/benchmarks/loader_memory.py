"""What several loaders of one cache add to the memory of a node, against what one adds."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from scripts.benchmarks.row import Row

SIDE = 512
_ROOT = Path(__file__).resolve().parents[2]
_LOADER = """
import sys
from pathlib import Path
import numpy as np
from datasets.cache import ImageCache
from datasets.loaders import Batches
from datasets.manifest import Manifest
from datasets.source_table import instance_rows

def share():
    return sum(int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("Pss:"))

def wait():
    sys.stdin.readline()

path, rows, side = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
names = np.arange(rows).astype(str)
instances = instance_rows(rows, path=names, case=names, patient=names, partition="train")
manifest = Manifest("x", Path(), instances, np.zeros((rows, 14), np.float32), tuple("abcdefghijklmn"), "", "", "")
print("ready", flush=True); wait()
print(share(), flush=True); wait()
pixels = np.memmap(path, np.uint8, mode="r", shape=(rows, side, side))
batches = Batches(manifest, ImageCache(pixels, np.ones(rows, bool), Path()), partition="train", batch_size=32)
for batch in batches.epoch(1):
    pass
print("read", flush=True); wait()
print(share(), flush=True); wait()
"""


def run(*, quick: bool) -> list[Row]:
    """Let loaders read a whole epoch, and add up what their proportional memory (PSS) grew by."""
    rows, loaders = (1024, 4) if quick else (2048, 8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pixels.u8"
        np.random.default_rng(0).integers(0, 256, rows * SIDE * SIDE, dtype=np.uint8).tofile(path)
        many, one = _growth(path, rows, loaders), _growth(path, rows, 1)
    name = f"Memory of {loaders} loaders on one cache of {rows} × {SIDE} px: MB PSS they add, peer one loader"
    return [Row(name, many, one, many / one, "≤ 1.3×", many / one <= 1.3)]


def _growth(path: Path, rows: int, loaders: int) -> float:
    command = [sys.executable, "-c", _LOADER, str(path), str(rows), str(SIDE)]
    started = [
        subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(loaders)
    ]
    try:
        before = _asked(started)
        return (_asked(started) - before) / 1024
    finally:
        for process in started:
            process.kill()
            process.wait()


def _asked(started: "list[subprocess.Popen[str]]") -> float:
    """Wait until all have come to the same point, then add up what each says of itself."""
    for process in started:
        _line(process)
    total = 0
    for process in started:
        _go_on(process)
        total += int(_line(process))
    for process in started:
        _go_on(process)
    return total


def _line(process: "subprocess.Popen[str]") -> str:
    if process.stdout is None or not (line := process.stdout.readline()):
        raise RuntimeError("a loader of the benchmark ended early")
    return line


def _go_on(process: "subprocess.Popen[str]") -> None:
    if process.stdin is not None:
        process.stdin.write("\n")
        process.stdin.flush()
