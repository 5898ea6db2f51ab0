"""The feature store: a frozen encoder's features, computed once and shared by every trial that asks for the same.

`<cache>/features/<key>/` holds `features.f32` (rows × width), `described.json`, `made_from.txt` (which cache of pixels)
and, last of all, `COMPLETE`; while it is computed see `feature_filling`. The key is a hash of the pixels, which of them
could be read, the preprocessing, the true input size, the encoder's weights (a local file's content, too) and the
pooling. Of several trials that need the same features, one computes and the others wait for it.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import nn

from datasets import preprocessing
from datasets.cleaning import FEATURES, STORE_MARKER, record_origin
from datasets.whole_file import replacing
from trainers import adaptations, assembly, offload, pretrained, seeding, tasks
from trainers.feature_filling import STORED, Filling
from trainers.material import ImageMaterial, TensorMaterial, open_images
from trainers.micro_batch import Pieces
from trainers.trial import Operation, TrialConfig, TrialError

DESCRIBED = "described.json"


def open_features(config: TrialConfig, operation: Operation, *, place: assembly.Place) -> TensorMaterial:
    """Return a trial's features and labels, computing the features if no trial did before.

    Args:
        config: of the trial; its recipe, seed (unless the encoder is random) and adaptation do not matter.
        operation: where the images and the store are.
        place: where to compute.
    """
    images = open_images(config, operation)
    folder = operation.cache / FEATURES / feature_key(config, images, weights=operation.weights)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not _is_whole(folder, rows=len(images.cache.readable)):
            compute(config, operation, images, place=place, folder=folder)
    return TensorMaterial(
        inputs=torch.from_numpy(read(folder)),
        labels=images.labels,
        pathologies=images.pathologies,
        instances=_readable_only(images),
        fingerprint=images.fingerprint,
        batch_size=config.recipe.batch_size,
        seed=config.seed,
        described=json.loads((folder / DESCRIBED).read_text()),
    )


def feature_key(config: TrialConfig, images: ImageMaterial, *, weights: Path | None = None) -> str:
    """Return 24 hex digits over all that decides about features.

    Args:
        config: of the trial.
        images: its images.
        weights: file or folder of pretrained weights; None asks the hub.

    Raises:
        TrialError: kind "configuration" or "weights".
    """
    plan = assembly.plan_network(config)
    decides: dict[str, Any] = {
        "pixels": images.manifest.pixels,
        "preprocessing": preprocessing.resolve(config.dataset.preprocessing).description(),
        "architecture": plan.architecture,
        "weights": plan.tag,
        "seed": config.seed if plan.tag is None else None,
        "input": [plan.resolution, plan.input_size],
        "pooling": assembly.pooling_of(plan, config.recipe.pooling),
        "precision": config.recipe.precision,
    }
    if (content := pretrained.local_content(plan, weights=weights)) is not None:
        decides["content"] = content
    if not images.cache.readable.all():  # a later preparation may read more of them
        decides["unreadable"] = np.flatnonzero(~images.cache.readable).tolist()
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:24]


def compute(
    config: TrialConfig, operation: Operation, images: ImageMaterial, *, place: assembly.Place, folder: Path
) -> None:
    """Run the encoder over every readable image, not augmented, and write the store.

    A large encoder runs in bfloat16, its blocks spread over the GPUs or brought in one after the other; see `offload`.
    """
    network = assembly.build_network(config, images.pathologies, weights=operation.weights).eval()
    forward = offload.placed(network, place.device, bf16=config.recipe.precision == "bf16")
    width, pieces = network.encoder.width, Pieces(operation.micro_batch)
    (folder / STORE_MARKER).unlink(missing_ok=True)
    record_origin(folder, images.cache.folder)  # first: what a killed trial leaves goes with the cache, too
    filling = Filling(folder, np.flatnonzero(images.cache.readable), (len(images.cache.readable), width))
    filling.fill(lambda rows: _features(images, rows, forward=forward, pieces=pieces), at_once=offload.IMAGES)
    described = {**assembly.describe(config, network, images.pathologies, images.fingerprint), "width": width}
    with replacing(folder / DESCRIBED) as whole:
        whole.write_text(json.dumps(described, indent=1, sort_keys=True))
    with replacing(folder / STORE_MARKER) as whole:
        whole.touch()


def read(folder: Path) -> np.ndarray:
    """Return a finished store's features, float32 (rows, width)."""
    return np.fromfile(folder / STORED, np.float32).reshape(-1, _width(folder))


def _width(folder: Path) -> int:
    return int(json.loads((folder / DESCRIBED).read_text())["width"])


def _is_whole(folder: Path, *, rows: int) -> bool:
    """Say whether a store is finished and was not cut off since; one that was is computed anew."""
    if not (folder / STORE_MARKER).is_file():
        return False
    try:
        return (folder / STORED).stat().st_size == rows * _width(folder) * np.dtype(np.float32).itemsize
    except (OSError, ValueError, KeyError):
        return False


def build_head(config: TrialConfig, material: TensorMaterial) -> nn.Module:
    """Return the head a trial trains on stored features, drawn from its seed; the encoder is not built."""
    with seeding.draws_at(config.seed, "network"):
        head = bare_head(config, int(material.described["width"]), material.pathologies)
    if (fit := getattr(head, "fit", None)) is not None:
        rows = material.rows("train")
        fit(material.inputs[rows], torch.from_numpy(material.labels[rows]))
    return head


def bare_head(config: TrialConfig, width: int, pathologies: Sequence[str]) -> nn.Module:
    """Return the head of a trial, its weights drawn from torch's generator as it stands."""
    own = tasks.load(config.task).head(width, pathologies, dropout=config.recipe.dropout)
    return adaptations.load(config.adaptation).head(own, width=width, outputs=len(pathologies))


def describe(config: TrialConfig, material: TensorMaterial) -> dict[str, Any]:
    """Return what is written beside a head's weights: the encoder as described in the store, this trial as it is."""
    own = {"trial": config.model_dump(mode="json"), "pathologies": list(material.pathologies)}
    return {**material.described, **own, "fingerprint": material.fingerprint}


@torch.no_grad()
def _features(
    images: ImageMaterial, rows: np.ndarray, *, forward: Callable[[torch.Tensor], torch.Tensor], pieces: Pieces
) -> np.ndarray:
    pixels = torch.from_numpy(images.cache.pixels[rows])[:, None]
    features = pieces.run(forward, pixels).float().cpu().numpy()
    if not np.isfinite(features).all():
        raise TrialError("non_finite", f"the encoder's features of images {rows[0] + 1} and on are not finite")
    return features


def _readable_only(images: ImageMaterial) -> Any:
    """Return the table with unreadable rows in no partition, so that none of them is drawn."""
    table = images.instances.copy()
    table.loc[~images.cache.readable, "partition"] = "unreadable"
    return table
