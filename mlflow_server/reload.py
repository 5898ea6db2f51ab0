"""Whether a packaged model is the trained network: its hash, its data, and its scores after loading it anew."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException

from mlflow_server.promotion import Reason
from mlflow_server.registry import REFERENCE
from trainers import checkpoint
from trainers.evaluation.case_scores import CaseScores
from trainers.trial import Operation, TrialConfig

CASES = 256
"""Test cases that are scored again."""
BATCH = 32


@dataclass(frozen=True, slots=True)
class Original:
    """What the packaged model must agree with.

    Attributes:
        checkpoint: folder of the trial's best checkpoint.
        sha256: of the network's weights, as the study's ledger has it; None if it has none.
        promises: what the package's contract must say, see `Package.promises`.
        fingerprint: of the data, as the ledger has it.
        scores: test scores that the trial stored.
        config: of the trial.
        operation: where its data and cache are.
    """

    checkpoint: Path
    sha256: str | None
    promises: Mapping[str, Any]
    fingerprint: str
    scores: CaseScores
    config: TrialConfig
    operation: Operation


def checks(source: str, original: Original, *, uri: str, tolerance: float) -> tuple[Reason, ...]:
    """Load a packaged model as a user of the registry would and hold it against its origin.

    Args:
        source: a model's URI or folder.
        original: the trial.
        uri: MLflow tracking URI.
        tolerance: largest difference of a score.

    Returns:
        Three conditions: weights; contract; data and scores. One alone where the model cannot even be loaded.
    """
    mlflow.set_tracking_uri(uri)
    try:
        loaded = mlflow.pyfunc.load_model(source)
    except Exception as problem:  # whatever stands in its files; a ValueError: one is not what was packaged
        told = next(iter(str(problem).splitlines()), "")
        evidence = (
            told if isinstance(problem, MlflowException | OSError | ValueError) else f"{type(problem).__name__}: {told}"
        )
        return (Reason("the packaged model can be loaded", False, evidence + _remedy(source)),)
    facts = loaded.metadata.metadata or {}
    return (
        _same(
            "the packaged weights are those of the ledger",
            {
                "ledger": original.sha256,
                "checkpoint": checkpoint.sha256(original.checkpoint / checkpoint.NETWORK),
                "package": facts.get("checkpoint_sha256"),
            },
        ),
        _as_promised(source, original.promises, uri),
        _reproduced(loaded, original, facts, tolerance),
    )


def _as_promised(source: str, promises: Mapping[str, Any], uri: str) -> Reason:
    """Hold the contract, by which the model names and cuts its scores, against what it was to say."""
    place = f"{source}/artifacts/contract.json"
    local = mlflow.artifacts.download_artifacts(artifact_uri=place, tracking_uri=uri)
    contract = json.loads(Path(local).read_text())
    others = [name for name, value in promises.items() if contract.get(name) != value]
    told = f"{', '.join(others)} differ{_remedy(source)}" if others else "all four"
    named = "the packaged pathologies, thresholds, preprocessing and resolution are those of the ledger"
    return Reason(named, not others, told)


def _remedy(source: str) -> str:
    """Say how to get a new package instead of a registered one, which every promotion of the run takes again."""
    version = REFERENCE.fullmatch(source)
    return f"; if that stays so, delete version {version[3]} of {version[1]} and promote again" if version else ""


def _same(condition: str, hashes: dict[str, str | None]) -> Reason:
    holds = len(set(hashes.values())) == 1 and None not in hashes.values()
    told = ", ".join(f"{where} {str(value)[:12]}" for where, value in hashes.items())
    return Reason(condition, holds, f"sha256 {str(hashes['ledger'])[:12]} in all three" if holds else told)


def _reproduced(loaded: Any, original: Original, facts: dict[str, Any], tolerance: float) -> Reason:
    from datasets.errors import DatasetError
    from trainers.evaluation.run import by_case
    from trainers.material import open_images

    condition = f"loaded anew, the model gives the stored scores to {tolerance:g} and reads the data of the ledger"
    try:
        material = open_images(original.config, original.operation)
    except (DatasetError, OSError) as problem:
        return Reason(condition, False, f"the test images cannot be read: {problem}")
    if not facts.get("data_fingerprint") == original.fingerprint == material.fingerprint:
        told = f"package {str(facts.get('data_fingerprint'))[:12]}, ledger {original.fingerprint[:12]}"
        return Reason(condition, False, f"not the same data: {told}, on disk {material.fingerprint[:12]}")
    rows = _rows_of_first_cases(material)
    pixels = material.cache.pixels
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    scores = np.concatenate([np.asarray(loaded.predict(pixels[batch][:, None])) for batch in batches])
    names = tuple(facts["pathologies"])
    again = by_case(original.config, material, scores, rows, (names, original.operation))
    known = original.scores.where(original.scores.table["case"].isin(again.table["case"]).to_numpy())
    if len(known.table) != len(again.table) or known.pathologies != names:
        return Reason(condition, False, f"{len(again.table)} cases scored, {len(known.table)} of them stored")
    largest = float(np.abs(again.aligned(known).scores - known.scores).max())
    return Reason(condition, largest <= tolerance, f"largest difference {largest:.1e} over {len(again.table)} cases")


def _rows_of_first_cases(material: Any) -> np.ndarray:
    """Return the test rows of the first so many cases, whole cases."""
    rows: np.ndarray = material.rows("test")
    cases = material.instances["case"].to_numpy()[rows]
    first = set(list(dict.fromkeys(cases.tolist()))[:CASES])
    chosen: np.ndarray = rows[np.array([case in first for case in cases], dtype=bool)]
    return chosen
