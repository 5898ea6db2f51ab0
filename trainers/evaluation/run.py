"""Runs a trained network over a partition and keeps what it says of every case."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from datasets.errors import DatasetError
from datasets.privacy import case_key, keyed_hash
from trainers.evaluation.case_scores import CaseScores, age_band, collect
from trainers.trial import Operation, TrialConfig, TrialError

if TYPE_CHECKING:
    from trainers.material import Material


def evaluate(config: TrialConfig, *, operation: Operation, checkpoint_folder: Path, partition: str) -> CaseScores:
    """Run the network of a checkpoint over a partition.

    Args:
        config: what to evaluate on: the trial itself, or its copy with another data set (external validation; the
            pathologies that both have are scored).
        operation: where the data and the cache are; `key_folder` (or the cache) holds the key of the hashes.
        checkpoint_folder: with `network.safetensors` and `trial.json`.
        partition: train, val or test; readable rows only.

    Returns:
        One row per case, identifiers hashed.

    Raises:
        TrialError: kind "data" (nothing to score, no pathology shared) or "weights".
    """
    from trainers import prediction

    try:
        material, scores, rows, pathologies = prediction.score_partition(
            config, operation, checkpoint_folder, partition
        )
    except DatasetError as error:
        raise TrialError("data", str(error)) from error
    return by_case(config, material, scores, rows, (pathologies, operation))


def by_case(
    config: TrialConfig,
    material: "Material",
    scores: np.ndarray,
    rows: np.ndarray,
    settings: tuple[tuple[str, ...], Operation],
) -> CaseScores:
    """Gather instance scores into case scores.

    Args:
        config: whose task says how.
        material: labels and identifiers.
        scores: (rows, pathologies).
        rows: (rows,) of the material.
        settings: the pathologies scored, and the operation that says where the key is.
    """
    from datasets.labels import harden
    from trainers import tasks

    pathologies, operation = settings
    columns = [material.pathologies.index(name) for name in pathologies]
    labels = harden(material.labels[rows][:, columns])
    instances = material.instances.iloc[rows]
    cases, truth, first = tasks.load(config.task).by_case(scores, labels, instances["case"].to_numpy(), pathologies)
    key = case_key(operation.key_folder or operation.cache)
    return collect(_identity(instances.iloc[first], key), cases, truth, pathologies=pathologies)


def _identity(instances: pd.DataFrame, key: bytes) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "case": [keyed_hash(key, str(case)) for case in instances["case"]],
            "patient": [keyed_hash(key, str(patient)) for patient in instances["patient"]],
            "partition": instances["partition"].to_numpy(),
            "view": instances["view"].to_numpy(),
            "sex": instances["sex"].to_numpy(),
            "age_band": [age_band(float(age)) for age in instances["age"]],
            "origin": instances["origin"].to_numpy(),
        }
    )
