"""A trial's checkpoint folders as files: which are whole, what may go. No torch here: the driver tidies with it."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

MARKER = "COMPLETE"
"""Written last into a checkpoint folder; without it the folder is not one."""
PROGRESS = "progress.json"


def complete(folder: Path, prefix: str) -> list[Path]:
    """Return a trial's whole checkpoint folders whose name begins with `last-` or `best-`, sorted."""
    return sorted(path for path in folder.glob(f"{prefix}*") if (path / MARKER).is_file())


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint, its marker first, so that a half-removed folder is never taken for a whole one."""
    (checkpoint / MARKER).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what an attempt that was killed has half written or half removed; if it still lives, that ends it."""
    named = (*folder.glob("last-*"), *folder.glob("best-*"))
    half_removed = (path for path in named if not (path / MARKER).is_file())
    for leftover in (*folder.glob(".writing-*"), *half_removed):
        shutil.rmtree(leftover, ignore_errors=True)


def drop_resume_state(folder: Path) -> None:
    """Remove what only serves to go on training; for trials that ended (pruned, failed, complete), to save bytes.

    A trial that trained to its end keeps its history, from which it is told again. Of any other nothing is left to go
    on from: if it comes back, it begins anew.
    """
    sweep(folder)
    for last in complete(folder, "last-"):
        if not _trained_to_its_end(last):
            remove(last)
            continue
        for path in last.glob("*.safetensors"):
            path.unlink()


def _trained_to_its_end(last: Path) -> bool:
    try:
        return bool(json.loads((last / PROGRESS).read_text())["state"] == "COMPLETE")
    except (OSError, ValueError):  # a machine that lost its power may have torn it
        return False


def drop_trial(folder: Path) -> None:
    """Remove everything of a trial that ended and is not wanted: if it comes back, it begins anew."""
    for checkpoint in (*complete(folder, "last-"), *complete(folder, "best-")):
        remove(checkpoint)
    shutil.rmtree(folder, ignore_errors=True)


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder, a file with two names counted once.

    Trials that run write and remove checkpoints meanwhile: what is gone before it is looked at is not counted.
    """
    sizes: dict[tuple[int, int], int] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                stat = Path(place, name).stat()
                sizes[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(sizes.values())
