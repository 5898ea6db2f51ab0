"""Decodes files that nobody vouches for, in a process that may die of them: `python -m datasets.decode_worker`.

Speaks with `datasets.decoding` over its standard streams: one JSON line in per file, one JSON line and
the squares' bytes out. Nothing is unpickled on either side.
"""

import hashlib
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np

from datasets import dicom  # noqa: F401 - imported before memory is bounded and the clock runs
from datasets.headers import JPEG2000
from datasets.images import content_of, decode
from datasets.limits import Limits, NotRead, Unreadable, bound_memory, start_clock
from datasets.preprocessing import Preprocessing, resolve
from datasets.radiograph import Radiograph


def main() -> None:
    """Serve until the input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a decoder that prints must not be taken for an answer
    warnings.simplefilter("ignore")
    cv2.setNumThreads(1)
    limits = Limits(**json.loads(sys.argv[1]))
    _warm()
    bound_memory(limits)
    answers.write(b"ready\n")
    answers.flush()
    for line in sys.stdin.buffer:
        _answer(answers, json.loads(line), limits)


def _answer(answers: BinaryIO, task: dict[str, Any], limits: Limits) -> None:
    specification = resolve(task["preprocessing"])
    start_clock(limits.seconds * specification.effort * len(task["resolutions"]))
    try:
        sha256, squares, verbatim = _squares(Path(task["path"]), specification, task["resolutions"], limits)
        answer: dict[str, Any] = {"sha256": sha256, "verbatim": verbatim}
    except Unreadable as verdict:
        answer, squares = {"reason": str(verdict), "again": isinstance(verdict, NotRead)}, []
    except (MemoryError, RecursionError) as error:
        reason = f"needs more than its share of memory: {type(error).__name__}"
        answer, squares = {"reason": reason, "again": isinstance(error, MemoryError)}, []
    finally:
        start_clock(0)
    answers.write(json.dumps(answer).encode() + b"\n")
    for square in squares:
        answers.write(square.tobytes())
    answers.flush()


def _squares(
    path: Path, specification: Preprocessing, resolutions: list[int], limits: Limits
) -> tuple[str, list[np.ndarray], list[bool]]:
    """Return the content's sha256, one square per resolution, and which of them smaller ones may be made of.

    Each square is what it would be if asked for alone.
    """
    content = content_of(path)
    decoded: dict[int | None, Radiograph] = {}
    squares, verbatim = [], []
    for resolution in resolutions:
        cover = specification.cover(resolution) if content[128:132] == b"DICM" else None
        if cover not in decoded:
            decoded[cover] = decode(content, cover=cover, window=specification.window, limits=limits)
        radiograph = decoded[cover]
        squares.append(specification.square(radiograph, resolution))
        # A smaller square would be decoded from a reduced JPEG 2000, which is not this one made smaller.
        reducible = cover is not None and JPEG2000 in content
        same = radiograph.table is None and np.array_equal(squares[-1], radiograph.values)
        verbatim.append(same and not reducible)
    return hashlib.sha256(content).hexdigest(), squares, verbatim


def _warm() -> None:
    """Do once what allocates for good, so that the bound on memory is a bound on files."""
    import scipy.ndimage

    scipy.ndimage.zoom(np.zeros((4, 4)), 2, order=2)
    cv2.resize(np.zeros((4, 4), np.float32), (2, 2), interpolation=cv2.INTER_AREA)


if __name__ == "__main__":
    main()
