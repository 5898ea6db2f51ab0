"""Where data lie: from `--data-root`, a folder or an address, or in the folder that RADSWEEP_DATA names."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.dataset_config import DatasetConfig
from datasets.remote_root import is_address, mirror_of
from search.errors import StudyError

GENERATED = frozenset({"phantom"})
"""Sources that write their own data where there are none."""

Root = Path | str
"""A folder, or an address such as s3://bucket/nih."""


def parse(pairs: Sequence[str]) -> dict[str, Root]:
    """Read `SOURCE=PATH` and `SOURCE=ADDRESS` pairs.

    Raises:
        StudyError: a pair without `=`, a folder that does not exist, or two places of one name.
    """
    roots: dict[str, Root] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not (name and equals and path):
            raise StudyError(f"--data-root {pair}: expected SOURCE=PATH, e.g. --data-root nih_chest_xray14=/data/nih")
        if name in roots:
            raise StudyError(f"--data-root {pair}: {name} was given before as {roots[name]}; give one of them")
        if is_address(path):
            roots[name] = path
            continue
        to_be_made = name in GENERATED and not Path(path).exists()
        if not to_be_made and not Path(path).is_dir():
            raise StudyError(f"--data-root {pair}: {path} is not a folder")
        roots[name] = Path(path).resolve()
    return roots


def address_of(dataset: DatasetConfig, roots: Mapping[str, Root]) -> str | None:
    """Return where a data set has to be brought from, None if it lies in a folder."""
    given = next((roots[name] for name in (dataset.name, dataset.source) if name in roots), None)
    return given if isinstance(given, str) else None


def find(dataset: DatasetConfig, roots: Mapping[str, Root], storage: Path) -> Path:
    """Return the folder of a data set on this machine; of one at an address, the folder it is brought to.

    Raises:
        StudyError: nothing says where it is.
    """
    for name in (dataset.name, dataset.source):
        if name in roots:
            given = roots[name]
            return mirror_of(given, storage.resolve() / "mirrors") if isinstance(given, str) else given
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
