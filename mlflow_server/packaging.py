"""A trained network as an MLflow model that loads without this repository, from image files to named probabilities.

Its files: `artifacts/program.pt2` and `artifacts/weights.safetensors` (see `export.py`), `artifacts/reader/` (what
reads and prepares images, see `reader.py`), `artifacts/contract.json` (pathologies, thresholds, preprocessing, hashes),
`artifacts/MODEL_CARD.md`, and `inference.py`, which puts them together. Nothing in it is a pickle.
"""

import base64
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import mlflow.pyfunc
import numpy as np
from mlflow.models import Model, ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType

from mlflow_server import inference, reader
from mlflow_server.export import Scorer, export
from mlflow_server.model_card import Card
from trainers import assembly, checkpoint, tasks


@dataclass(frozen=True, slots=True)
class Package:
    """What a model is made of.

    Attributes:
        checkpoint: folder of the trial's best checkpoint.
        name: of the registered model.
        facts: where it comes from: study, cell, trial, run, fingerprint of the data; also in the model's metadata.
        data: what the study's ledger has of the data.
        evaluation: what the ledger has of the winner: rows, subgroups, external, thresholds.
        procedure: how the evaluation's intervals came about, in words.
        weights: folder or file of pretrained weights, where the checkpoint holds the head alone; None asks the hub.
    """

    checkpoint: Path
    name: str
    facts: Mapping[str, Any]
    data: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    procedure: str
    weights: Path | None = None

    def made_of(self) -> str:
        """Return a hash of the trained weights and of all that was measured: with another one it is another version."""
        weights = checkpoint.sha256(self.checkpoint / checkpoint.NETWORK)
        parts = [weights, self.procedure, self.evaluation]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def promises(self) -> dict[str, Any]:
        """Return what the model's contract says beside its files: outputs, thresholds, and how images are prepared."""
        trial = checkpoint.read_trial(self.checkpoint)
        return {
            "pathologies": trial["pathologies"],
            "thresholds": {name: self.evaluation["thresholds"].get(name) for name in trial["pathologies"]},
            "preprocessing": trial["preprocessing"],
            "resolution": trial["trial"]["resolution"],
        }

    def card(self) -> Card:
        """Return the model card."""
        network = checkpoint.read_trial(self.checkpoint)
        return Card(
            name=self.name,
            metric=tasks.declare(network["trial"]["task"], network["pathologies"]).metric,
            provenance=self.facts,
            network=network,
            data=self.data,
            evaluation=self.evaluation,
            procedure=self.procedure,
            requirements=reader.requirements(),
        )


def log_model(package: Package, *, run_id: str, uri: str) -> str:
    """Write the model to a run.

    Returns:
        The model's URI, `models:/m-…`, that the registry takes.
    """
    mlflow.set_tracking_uri(uri)
    # A model belongs to the active experiment, whatever its run: by default to experiment 0, whose files lie in
    # ./mlruns of wherever MLflow was first used.
    mlflow.set_experiment(experiment_id=MlflowClient(uri).get_run(run_id).info.experiment_id)
    with _contents(package) as contents:
        written = Model.log(artifact_path=None, name="network", flavor=mlflow.pyfunc, run_id=run_id, **contents)
    return str(written.model_uri)


def save_model(package: Package, folder: Path) -> None:
    """Write the same model to a folder."""
    with _contents(package) as contents:
        mlflow.pyfunc.save_model(path=str(folder), **contents)


@contextmanager
def _contents(package: Package) -> Iterator[dict[str, Any]]:
    """Yield the arguments of MLflow's `save_model`; the files they name live as long as the block."""
    with tempfile.TemporaryDirectory(prefix="radsweep-") as name:
        files = {
            "program": Path(name) / "program.pt2",
            "weights": Path(name) / "weights.safetensors",
            "reader": Path(name) / "reader",
            "card": Path(name) / "MODEL_CARD.md",
            "contract": Path(name) / "contract.json",
        }
        contract = _write(package, files)
        yield {
            "python_model": inference.__file__,
            "artifacts": {key: str(path) for key, path in files.items()},
            "signature": _signature(contract["pathologies"]),
            "input_example": [_example(contract["resolution"])],
            "pip_requirements": reader.requirements(),
            "metadata": {
                **contract,
                "weights_sha256": contract["sha256"]["weights"],
                "checkpoint_sha256": checkpoint.sha256(package.checkpoint / checkpoint.NETWORK),
                "licence": checkpoint.read_trial(package.checkpoint)["plan"]["licence"],
                **package.facts,
            },
        }


def _write(package: Package, files: Mapping[str, Path]) -> dict[str, Any]:
    """Write the files of a model; returns its contract."""
    network, config, _ = assembly.load_network(package.checkpoint, weights=package.weights)
    scorer = Scorer(network, tasks.load(config.task).scores)
    export(scorer, config.resolution, program=files["program"], weights=files["weights"])
    reader.copy_modules(files["reader"])
    files["card"].write_text(package.card().markdown())
    contract = {
        **package.promises(),
        "sha256": {
            "program": checkpoint.sha256(files["program"]),
            "weights": checkpoint.sha256(files["weights"]),
            "reader": inference.hash_of_folder(files["reader"]),
        },
    }
    files["contract"].write_text(json.dumps(contract, indent=1, sort_keys=True))
    return contract


def _signature(pathologies: list[str]) -> ModelSignature:
    signature = ModelSignature(
        inputs=Schema([ColSpec(AnyType())]),
        outputs=Schema([ColSpec(DataType.float, name) for name in pathologies]),
        params=ParamSchema([ParamSpec("decisions", DataType.boolean, default=False)]),
    )
    # An image may be bytes, text, a path or an array, alone or in any list: MLflow's types have no word for that. Told
    # that the code checks its input itself, MLflow hands over what it is given, instead of making a table of it.
    signature._is_signature_from_type_hint = True
    return signature


def _example(side: int) -> str:
    """Return a drawn picture, no patient's, as base64 of a PNG."""
    ramp = np.linspace(0, 255, side, dtype=np.uint8)
    _, encoded = cv2.imencode(".png", np.minimum(ramp[:, None], ramp[None, ::-1]))
    return base64.b64encode(encoded.tobytes()).decode()
