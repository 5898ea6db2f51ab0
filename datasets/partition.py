"""Who may be learned from and who is examined: partitions that no patient straddles."""

import numpy as np
import pandas as pd

from datasets.errors import DatasetError


def draw_by_patient(patients: np.ndarray, labels: np.ndarray, *, fraction: float, seed: int) -> np.ndarray:
    """Choose about `fraction` of the patients, stratified by the rarest finding each of them has.

    Patients are put in order of their rarest positive label, at random inside each such stratum, and
    every (1/fraction)-th is taken (systematic sampling). So a stratum of k patients gives k·fraction of
    them, rounded up or down, and the whole as well. The draw does not depend on the order of the rows.

    Args:
        patients: (rows,) identifiers.
        labels: float32 (rows, pathologies), NaN where not given.
        fraction: between 0 and 1.
        seed: of the draw.

    Returns:
        bool (rows,): rows of the chosen patients.
    """
    names, member = np.unique(patients.astype(str), return_inverse=True)
    rng = np.random.default_rng(seed)
    stratum = _rarest_positive(labels, member, len(names))
    order = np.lexsort((rng.random(len(names)), stratum))
    steps = np.floor(np.arange(len(names) + 1) * fraction + rng.random())
    chosen = np.zeros(len(names), dtype=bool)
    chosen[order] = np.diff(steps) > 0
    return np.asarray(chosen[member])


def _rarest_positive(labels: np.ndarray, member: np.ndarray, patients: int) -> np.ndarray:
    has = np.zeros((patients, labels.shape[1]), dtype=bool)
    positive = np.nan_to_num(labels, nan=0.0) > 0.5
    for column in range(labels.shape[1]):
        has[member[positive[:, column]], column] = True
    by_rarity = np.argsort(has.sum(axis=0), kind="stable")
    first = has[:, by_rarity].argmax(axis=1)
    return np.asarray(np.where(has.any(axis=1), first, labels.shape[1]))


def check_disjoint(instances: pd.DataFrame, *, where: str) -> None:
    """Refuse partitions that share patients, saying how many.

    Args:
        instances: with the columns `patient` and `partition`.
        where: the data set, for the message.

    Raises:
        DatasetError: some patients are in more than one partition.
    """
    pairs = instances[["patient", "partition"]].drop_duplicates()
    straddling = int((pairs["patient"].value_counts() > 1).sum())
    if straddling:
        raise DatasetError(
            f"{straddling} patients are in more than one partition",
            where,
            "every patient in exactly one of train, val and test",
            "split by patient, not by image",
        )


def check_cases(instances: pd.DataFrame, *, where: str) -> None:
    """Refuse cases that belong to several patients: their scores and labels would be merged into one.

    Args:
        instances: with the columns `case` and `patient`.
        where: the data set, for the message.

    Raises:
        DatasetError: some cases have more than one patient.
    """
    pairs = instances[["case", "patient"]].drop_duplicates()
    merged = int((pairs["case"].value_counts() > 1).sum())
    if merged:
        raise DatasetError(
            f"{merged} cases have more than one patient",
            f"{where}, column of the cases",
            "identifiers of examinations that no two patients share",
            "number them over all patients, e.g. patient and visit in one column (source csv: option `case`)",
        )


def check_not_empty(instances: pd.DataFrame, *, where: str) -> None:
    """Refuse a manifest in which train, val or test has no image."""
    counts = instances["partition"].value_counts()
    for partition in ("train", "val", "test"):
        if not counts.get(partition, 0):
            raise DatasetError(
                f"the {partition} partition is empty",
                where,
                "images in train, val and test",
                "raise validation_fraction or use more of the data set"
                if partition == "val"
                else "check the split files, or the table's column of partitions",
            )
