"""Where data lie on this machine: from `--data-root`, or the folder that RADSWEEP_DATA names."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.dataset_config import DatasetConfig
from search.errors import StudyError

GENERATED = frozenset({"phantom"})
"""Sources that write their own data where there are none."""


def parse(pairs: Sequence[str]) -> dict[str, Path]:
    """Read `SOURCE=PATH` pairs.

    Raises:
        StudyError: a pair without `=`, or a folder that does not exist.
    """
    roots: dict[str, Path] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not (name and equals and path):
            raise StudyError(f"--data-root {pair}: expected SOURCE=PATH, e.g. --data-root nih_chest_xray14=/data/nih")
        if name not in GENERATED and not Path(path).is_dir():
            raise StudyError(f"--data-root {pair}: {path} is not a folder")
        roots[name] = Path(path).resolve()
    return roots


def find(dataset: DatasetConfig, roots: Mapping[str, Path], storage: Path) -> Path:
    """Return the folder of a data set on this machine.

    Raises:
        StudyError: nothing says where it is.
    """
    for name in (dataset.name, dataset.source):
        if name in roots:
            return roots[name]
    common = os.environ.get("RADSWEEP_DATA")
    for name in (dataset.name, dataset.source):
        if common and (Path(common) / name).is_dir():
            return (Path(common) / name).resolve()
    if dataset.source in GENERATED:
        return (storage / "generated" / dataset.name).resolve()
    looked = f"; RADSWEEP_DATA={common} has no folder {dataset.name}" if common else ""
    raise StudyError(
        f"data set {dataset.name}: no folder given. Say --data-root {dataset.name}=PATH, or set RADSWEEP_DATA to a "
        f"folder with a sub-folder {dataset.name}{looked}"
    )
