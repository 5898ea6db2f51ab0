"""A data card: what a folder holds, and in what it differs from what was published."""

import hashlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datasets.cache import cache_key, content_hashes
from datasets.dataset_config import DatasetConfig
from datasets.decoding import Task, decode_all
from datasets.derivation import MARKER, description, have_their_sizes
from datasets.manifest import PARTITIONS, Manifest
from datasets.preprocessing import names, resolve
from datasets.source_table import SourceTable

_AGES = (0, 1, 18, 40, 60, 80, 150)
_PROBE = 32  # pixels: enough to decode a file, cheap to make


def data_card(
    config: DatasetConfig,
    table: SourceTable,
    manifest: Manifest,
    *,
    images: bool = True,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Describe a data set without naming a patient and, if wanted, read every image.

    Args:
        config: of the data set.
        table: its rows as published, from `datasets.sources.read`.
        manifest: of these rows.
        images: decode every file to find those that cannot be read, and hash them to find duplicates.
        workers: processes.
        progress: told (files done, files in all).
    """
    once = _once(manifest)
    films = once.instances["patient"].value_counts()
    card: dict[str, Any] = {
        "source": manifest.source,
        "labels": config.labels,
        "completeness": table.completeness,
        "differences": [{"fact": d.fact, "published": d.published, "found": d.found} for d in table.differences],
        "fingerprint": manifest.fingerprint,
        "images": len(once),
        "patients": int(once.instances["patient"].nunique()),
        "cases": int(once.instances["case"].nunique()),
        "films_per_patient": {"mean": round(float(films.mean()), 2), "most": int(films.max())},
        "validation": manifest.validation,
        "partitions": {name: _partition(manifest, name) for name in PARTITIONS},
        "pathologies": {name: _pathology(manifest, column) for column, name in enumerate(manifest.pathologies)},
        "views": _counts(once.instances["view"]),
        "sexes": _counts(once.instances["sex"]),
        "ages": _ages(once.instances["age"]),
    }
    if images:
        card["files"] = _files(once, workers=workers, progress=progress)
    return card


def _once(manifest: Manifest) -> Manifest:
    """Return a manifest in which each image has one row: what serves for validation and test has two."""
    again = manifest.instances["path"].duplicated().to_numpy()
    return manifest.take(np.flatnonzero(~again)) if again.any() else manifest


def unreadable(manifest: Manifest, *, workers: int = 1) -> list[tuple[str, str]]:
    """Return (path, reason) of every image that cannot be decoded. Names files: for the data's keeper only."""
    once = _once(manifest)
    paths = once.instances["path"]
    return sorted((str(paths.iloc[d.row]), d.reason) for d in _decoded(once, workers) if d.reason is not None)


def changed_since_prepared(manifest: Manifest, cache: Path) -> list[str] | None:
    """Return the paths whose content is no longer what a cache was built from: silently flipped bits, or new files.

    Args:
        manifest: whose files are read and hashed, once.
        cache: folder of all caches; all finished ones of these files are looked at.

    Returns:
        None if there is no such cache. A file that changed its size, or is one of the few whose content is sampled
        (see `Manifest.pixels`), makes another manifest, which has none.
    """
    keys = {cache_key(manifest, resolve(name), resolution) for resolution, name in prepared(manifest, cache)}
    if not keys:
        return None
    paths = list(manifest.instances["path"])
    with ThreadPoolExecutor(4) as pool:  # hashing and reading both work outside the interpreter's lock
        found = list(pool.map(lambda path: _sha256(manifest.root / path), paths))
    altered: set[str] = set()
    for known in (content_hashes(cache / key) for key in keys):
        pairs = zip(paths, known, found, strict=True)
        altered |= {path for path, old, new in pairs if old.any() and old.tobytes() != new}
    return sorted(altered)


def prepared(manifest: Manifest, cache: Path) -> list[tuple[int, str]]:
    """Return (resolution, preprocessing) of the caches of this manifest that are complete and not cut off."""
    markers = list(cache.glob(f"*/{MARKER}"))
    keys = {path.parent.name for path in markers}
    resolutions = {told["resolution"] for told in map(description, markers) if "resolution" in told}
    asked = ((r, name, cache_key(manifest, resolve(name), r)) for r in sorted(resolutions) for name in names())
    rows = len(manifest)
    return [(r, name) for r, name, key in asked if key in keys and have_their_sizes(cache / key, rows=rows, side=r)]


def _partition(manifest: Manifest, name: str) -> dict[str, Any]:
    rows = manifest.rows(name)  # type: ignore[arg-type]
    return {"images": len(rows), "patients": int(manifest.instances["patient"].iloc[rows].nunique())}


def _pathology(manifest: Manifest, column: int) -> dict[str, Any]:
    described: dict[str, Any] = {}
    for name in PARTITIONS:
        labels = manifest.labels[manifest.rows(name), column]
        given = ~np.isnan(labels)
        described[name] = {
            "positive": int((labels > 0.5).sum()),
            "negative": int((labels < 0.5).sum()),
            "prevalence": round(float(labels[given].mean()), 4) if given.any() else None,
            "missing": round(float(1 - given.mean()), 4) if len(given) else 0.0,
        }
    return described


def _counts(column: pd.Series) -> dict[str, int]:
    return {str(value): int(count) for value, count in column.fillna("unknown").value_counts().items()}


def _ages(ages: pd.Series) -> dict[str, int]:
    names = [f"{low}-{high - 1}" for low, high in pairwise(_AGES)]
    bands = pd.cut(ages, list(_AGES), right=False, labels=names).value_counts(sort=False)
    return {**{str(band): int(n) for band, n in bands.items() if n}, "unknown": int(ages.isna().sum())}


def _decoded(manifest: Manifest, workers: int) -> Any:
    paths = manifest.instances["path"].to_numpy()
    tasks = (Task(row, manifest.root / path, "standard", (_PROBE,)) for row, path in enumerate(paths))
    return decode_all(tasks, workers=workers)


def _files(manifest: Manifest, *, workers: int, progress: Callable[[int, int], None] | None) -> dict[str, Any]:
    reasons: Counter[str] = Counter()
    contents: dict[str, list[int]] = {}
    for count, result in enumerate(_decoded(manifest, workers), start=1):
        if result.reason is not None:
            reasons[result.reason] += 1
        else:
            contents.setdefault(str(result.sha256), []).append(result.row)
        if progress and count % 100 == 0:
            progress(count, len(manifest))
    twice = [rows for rows in contents.values() if len(rows) > 1]
    partition = manifest.instances["partition"].to_numpy()
    return {
        "readable": sum(map(len, contents.values())),
        "unreadable": sum(reasons.values()),
        "reasons": dict(reasons.most_common()),
        "duplicates": sum(len(rows) - 1 for rows in twice),
        "duplicates_across_partitions": sum(len(set(partition[rows])) > 1 for rows in twice),
    }


def _sha256(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return b""
