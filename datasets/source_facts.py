"""Published counts of complete collections, held against the files at hand."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from datasets.source_table import UNCERTAIN, Difference


def count(instances: pd.DataFrame, labels: np.ndarray, pathologies: tuple[str, ...]) -> dict[str, int]:
    """Return what can be counted without reading a pixel.

    Returns:
        images, patients, train, val, test, `view <name>`, and per pathology positives and `uncertain <name>`.
    """
    counts = {"images": len(instances), "patients": instances["patient"].nunique()}
    counts |= {str(name): int(n) for name, n in instances["partition"].value_counts().items() if name}
    counts |= {f"view {name}": int(n) for name, n in instances["view"].value_counts().items()}
    counts |= {name: int((labels[:, i] == 1).sum()) for i, name in enumerate(pathologies)}
    return counts | {f"uncertain {name}": int((labels[:, i] == UNCERTAIN).sum()) for i, name in enumerate(pathologies)}


def compare(
    facts: Mapping[str, int], instances: pd.DataFrame, labels: np.ndarray, pathologies: tuple[str, ...]
) -> tuple[str, tuple[Difference, ...]]:
    """Tell a complete collection from a subset, and either from a copy that is wrong.

    With fewer images than published nothing may exceed its published count: that is a subset. A count
    above the published one, or any difference at the published number of images, is a broken or altered copy.

    Returns:
        'complete', 'subset' or 'differs', and the facts that were not met.
    """
    found = count(instances, labels, pathologies)
    differences = tuple(
        Difference(fact, published, found.get(fact, 0))
        for fact, published in facts.items()
        if found.get(fact, 0) != published
    )
    if not differences:
        return "complete", ()
    smaller = found["images"] < facts["images"]
    return ("subset" if smaller and all(d.found <= d.published for d in differences) else "differs"), differences
