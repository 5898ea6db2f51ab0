"""Scores of a trained network on any partition of any data set."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from trainers import assembly, tasks
from trainers.material import Batch, ImageMaterial, Material, open_images
from trainers.network import Network
from trainers.trial import Operation, TrialConfig, TrialError


def score_partition(
    config: TrialConfig, operation: Operation, checkpoint_folder: Path, partition: str
) -> tuple[Material, np.ndarray, np.ndarray, tuple[str, ...]]:
    """Run a checkpoint's network over a partition.

    Returns:
        The material, scores float64 (rows, pathologies), the rows, and the pathologies that network and data share.

    Raises:
        TrialError: kind "data" if there is nothing to score.
    """
    place = assembly.take_place(operation)
    network, trained, pathologies = assembly.load_network(checkpoint_folder)
    # The images as the network was trained on them, whatever the data set.
    config = config.model_copy(update={"resolution": trained.resolution, "recipe": trained.recipe})
    material = open_images(config, operation, pinned=place.cuda)
    rows = material.rows(partition)
    shared = tuple(name for name in pathologies if name in material.pathologies)
    if len(rows) == 0 or not shared:
        missing = "has no readable image" if len(rows) == 0 else f"shares no pathology with {', '.join(pathologies)}"
        raise TrialError("data", f"the {partition} partition of {config.dataset.name} {missing}")
    scores = score(network, material, partition, config=trained, place=place)
    return material, scores[:, [pathologies.index(name) for name in shared]], rows, shared


@torch.no_grad()
def score(
    network: Network, material: ImageMaterial, partition: str, *, config: TrialConfig, place: assembly.Place
) -> np.ndarray:
    """Return the task's scores, float64 (rows, pathologies of the network), of a partition in order."""
    task = tasks.load(config.task)
    placed = place.put(network).eval()
    bf16 = place.cuda and config.recipe.precision == "bf16"
    scores = []
    for images, labels, _ in _batches(material, partition):
        inputs, _ = task.collate(images, labels, device=place.device)
        with torch.autocast(place.device.type, dtype=torch.bfloat16, enabled=bf16):
            outputs = placed(inputs)
        scores.append(task.scores(outputs).cpu().numpy())
    return np.concatenate(scores).astype(np.float64)


def _batches(material: ImageMaterial, partition: str) -> Iterator[Batch]:
    yield from material.partition(partition)
