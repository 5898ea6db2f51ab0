"""The files of a registered model, looked at without loading it: that takes torch, which a server need not have."""

import hashlib
import json
import tempfile
from pathlib import Path, PurePosixPath

from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from mlflow_server.errors import PromotionError

CONTRACT = "contract.json"
HASHED = {"program": "program.pt2", "weights": "weights.safetensors"}
"""Files whose sha256 the contract has, by their name there."""
PACKAGED = frozenset({MLMODEL_FILE_NAME, CONTRACT, *HASHED.values()})
"""Files without which a version cannot be loaded, see `packaging.py`."""


def are_there(place: str, *, uri: str) -> bool:
    """Say whether a model's files are there, for all that is known: they can be deleted without the version.

    Args:
        place: where they lie.
        uri: MLflow tracking URI.
    """
    try:
        there = get_artifact_repository(place, tracking_uri=uri)
        files = [*there.list_artifacts(), *there.list_artifacts("artifacts")]
    except Exception as problem:  # any: each kind of store has exceptions of its own, also where it is away
        return getattr(problem, "error_code", None) != "RESOURCE_DOES_NOT_EXIST"
    return {PurePosixPath(file.path).name for file in files} >= PACKAGED


def check(name: str, place: str, *, uri: str) -> None:
    """Hold a model's program and weights against the hashes in its contract, as far as its files can be brought.

    Args:
        name: by which the model is told.
        place: where its files lie.
        uri: MLflow tracking URI.

    Raises:
        PromotionError: one is not what was packaged.
    """
    with tempfile.TemporaryDirectory(prefix="radsweep-") as folder:
        try:
            there = get_artifact_repository(place, tracking_uri=uri).download_artifacts("artifacts", folder)
        except Exception:  # any, as above: a store that is away, or is closed to whoever asks here
            return
        if changed := _changed(Path(there)):
            raise PromotionError(f"{name}: {', '.join(changed)}: not as packaged, by the sha256 in {CONTRACT}")


def _changed(folder: Path) -> list[str]:
    """Name the files that are not those of the contract."""
    try:
        hashes = json.loads((folder / CONTRACT).read_text())["sha256"]
        return [file for name, file in HASHED.items() if _sha256(folder / file) != hashes[name]]
    except (ValueError, KeyError, TypeError):
        return [CONTRACT]


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
