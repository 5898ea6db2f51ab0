"""A trained network as an MLflow model that loads without this repository.

The artefact is an exported program (torch.export, no pickle) from uint8 pixels to one probability per
pathology, with its preprocessing and pathology names in the model's metadata. Size, channels and normalisation
are inside the program.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.pytorch
import numpy as np
import torch
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from torch import Tensor, nn

from trainers import assembly, checkpoint, tasks

EXAMPLES = 2
"""A traced batch of one would fix the batch size at one."""


class Scorer(nn.Module):
    """Pixels in, probabilities out: the network and its task's scores.

    Args:
        network: outputs for (N, 1, R, R).
        scores: turns outputs into probabilities.
    """

    def __init__(self, network: nn.Module, scores: Any):
        super().__init__()
        self.network = network
        self._scores = scores

    def forward(self, pixels: Tensor) -> Tensor:
        """Return probabilities float32 (N, pathologies) for uint8 pixels (N, 1, R, R)."""
        scored: Tensor = self._scores(self.network(pixels))
        return scored


@dataclass(frozen=True, slots=True)
class Package:
    """What is put into the model beside the program."""

    checkpoint: Path
    """Folder of the trial's best checkpoint."""
    facts: Mapping[str, Any]
    """Written into the model's metadata: trial, study, data fingerprint …"""
    files: Sequence[Path] = ()
    """Evidence to ship along, under extra_files/."""


def log_model(package: Package, *, run_id: str, uri: str) -> str:
    """Write the model to a run.

    Returns:
        The model's URI, `models:/m-…`, that the registry takes.
    """
    mlflow.set_tracking_uri(uri)
    written = Model.log(artifact_path=None, name="network", flavor=mlflow.pytorch, run_id=run_id, **_contents(package))
    return str(written.model_uri)


def save_model(package: Package, folder: Path) -> None:
    """Write the same model to a folder."""
    mlflow.pytorch.save_model(path=str(folder), **_contents(package))


def _contents(package: Package) -> dict[str, Any]:
    network, config, pathologies = assembly.load_network(package.checkpoint)
    trial = checkpoint.read_trial(package.checkpoint)
    side = config.resolution if config.resolution == network.input_size else network.input_size
    example = np.zeros((EXAMPLES, 1, side, side), np.uint8)
    return {
        "pytorch_model": Scorer(network, tasks.load(config.task).scores).eval(),
        "serialization_format": "pt2",
        "input_example": example,
        "signature": ModelSignature(
            inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, 1, side, side))]),
            outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, len(pathologies)))]),
        ),
        "pip_requirements": [f"torch=={torch.__version__.partition('+')[0]}", "numpy"],
        "extra_files": [str(path) for path in package.files],
        "metadata": {
            "pathologies": list(pathologies),
            "preprocessing": trial["preprocessing"],
            "resolution": side,
            "input": "uint8 (N, 1, R, R): one grey channel after the preprocessing named here, 0 to 255",
            "weights_sha256": checkpoint.sha256(package.checkpoint / checkpoint.NETWORK),
            "licence": trial["plan"]["licence"],
            **package.facts,
        },
    }
