"""One module per collection, each with `OPTIONS`, its own settings, and `read(root, config) -> SourceTable`."""

import dataclasses
import importlib
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd

from datasets.dataset_config import DatasetConfig
from datasets.errors import DatasetError
from datasets.labels import flip, harden, resolve_uncertain
from datasets.manifest import Manifest, sizes_of
from datasets.partition import check_cases, check_disjoint, check_not_empty, draw_by_patient
from datasets.source_options import parse_options
from datasets.source_table import SourceTable

VALIDATION_ON_TEST = "the test partition itself, as in paper 1: test figures are optimistic"
DRAWN = "drawn from train by patient"
ONLY_TEST = "none: all images are test"


@cache
def names() -> list[str]:
    """Return the sources that exist: the modules of this folder."""
    folder = Path(__file__).parent
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def checked(config: DatasetConfig) -> DatasetConfig:
    """Return a configuration with its source's own settings as the source reads them; no file is read.

    Defaults are left out, so that whoever writes one down asks for the same data as whoever does not.

    Raises:
        DatasetError: an unknown source, or a setting that it does not have or cannot take.
    """
    options = parse_options(config, _plugin(config.source).OPTIONS)
    return config.model_copy(update={"options": options.model_dump(mode="json", exclude_defaults=True)})


def load(config: DatasetConfig, root: Path) -> Manifest:
    """Read a data set's label files into a manifest; no pixel is read.

    Args:
        config: which source, label list, policies and partitions.
        root: the data set's folder in its official layout.

    Returns:
        A manifest whose partitions share no patient, whose cases have one patient each, and whose val and test labels
        are 0, 1 or NaN. Where all rows are published as test, train and val are empty: networks can be measured on it.

    Raises:
        DatasetError: with what, where, expected and fix.
    """
    return manifest_of(read(config, root), config, root)


def manifest_of(table: SourceTable, config: DatasetConfig, root: Path) -> Manifest:
    """Return the manifest of rows that were read before; otherwise as `load`."""
    check_cases(table.instances, where=f"data set {config.name}")
    table, validation = _partitioned(table, config)
    apart = table.instances["partition"] != "val" if table.validation_on_test else slice(None)
    check_disjoint(table.instances[apart], where=f"data set {config.name}")
    if validation != ONLY_TEST:
        check_not_empty(table.instances, where=f"data set {config.name}")
    labels = _policies(table, config)
    manifest = Manifest(
        source=config.source,
        root=root,
        instances=table.instances.reset_index(drop=True),
        labels=labels,
        pathologies=table.pathologies,
        fingerprint="",
        pixels="",
        validation=validation,
        completeness=table.completeness,
        quarantine_limit=config.quarantine_limit,
    )
    return manifest.fingerprinted(sizes_of(root, manifest.instances["path"]))


def read(config: DatasetConfig, root: Path) -> SourceTable:
    """Return a source's rows as published, before partitions are drawn and policies applied.

    Raises:
        DatasetError: as `load`.
    """
    plugin = _plugin(config.source)
    if not root.is_dir() and config.source != "phantom":  # the phantom writes what is missing
        raise DatasetError(
            f"no folder {root}",
            f"data set {config.name}",
            "the data set in its official layout",
            "say where it lies: `search … --data-root NAME=FOLDER`, `datasets … --root FOLDER`, or RADSWEEP_DATA",
        )
    table: SourceTable = plugin.read(root, config)
    return table


def _plugin(source: str) -> ModuleType:
    if source not in names():
        raise DatasetError(f"unknown source {source!r}", "key `source`", f"one of {', '.join(names())}")
    return importlib.import_module(f"datasets.sources.{source}")


def _partitioned(table: SourceTable, config: DatasetConfig) -> tuple[SourceTable, str]:
    """Draw the partitions that nobody published, by patient: test first if there is none, then val from train."""
    instances = table.instances.copy()
    patients = instances["patient"].to_numpy()
    if (instances["partition"] == "").any():
        in_test = draw_by_patient(patients, table.labels, fraction=table.test_fraction, seed=config.partition_seed)
        instances["partition"] = np.where(in_test, "test", "train")
    if (instances["partition"] == "test").all() and not table.validation_on_test:
        return dataclasses.replace(table, instances=instances), ONLY_TEST
    if (instances["partition"] == "val").any():
        return dataclasses.replace(table, instances=instances), "published"
    if table.validation_on_test:
        test = np.flatnonzero((instances["partition"] == "test").to_numpy())
        instances = pd.concat([instances, instances.iloc[test].assign(partition="val")], ignore_index=True)
        labels = np.concatenate([table.labels, table.labels[test]])
        return dataclasses.replace(table, instances=instances, labels=labels), VALIDATION_ON_TEST
    train = np.flatnonzero((instances["partition"] == "train").to_numpy())
    drawn = draw_by_patient(
        patients[train], table.labels[train], fraction=config.validation_fraction, seed=config.partition_seed + 1
    )
    instances.loc[instances.index[train[drawn]], "partition"] = "val"
    return dataclasses.replace(table, instances=instances), DRAWN


def _policies(table: SourceTable, config: DatasetConfig) -> np.ndarray:
    labels = resolve_uncertain(table.labels, table.pathologies, config.uncertain)
    train = (table.instances["partition"] == "train").to_numpy()
    if train.any():  # else nothing is learned here
        _check_two_classes(labels[train], table.pathologies, config)
    labels = np.where(train[:, None], labels, harden(labels))
    return flip(
        labels,
        table.pathologies,
        rows=np.flatnonzero(train),
        share=config.label_noise,
        mode=config.label_noise_mode,
        seed=config.partition_seed + 2,
    )


def _check_two_classes(train: np.ndarray, pathologies: tuple[str, ...], config: DatasetConfig) -> None:
    single = [
        f"{name} ({int((column > 0.5).sum())} positive, {int((column < 0.5).sum())} negative)"
        for name, column in zip(pathologies, train.T, strict=True)
        if not (column > 0.5).any() or not (column < 0.5).any()
    ]
    if single:
        raise DatasetError(
            f"nothing to learn: only one class in train for {', '.join(single)}",
            f"data set {config.name}",
            "positive and negative images of every pathology",
            "use more of the data set, another `uncertain` policy or the other label list",
        )
