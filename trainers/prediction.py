"""Scores of a trained network on any partition of any data set."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from trainers import adaptations, assembly, checkpoint, tasks
from trainers.material import Material, open_images
from trainers.micro_batch import Pieces
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
    trial = checkpoint.read_trial(checkpoint_folder)
    trained = TrialConfig.model_validate(trial["trial"])
    place = assembly.take_place(operation, precision=trained.recipe.precision)
    # Everything as the network was trained; only the data may be others, prepared in the same way.
    dataset = config.dataset.model_copy(update={"preprocessing": trained.dataset.preprocessing})
    recipe = trained.recipe.model_copy(update={"pooling": trial["pooling"]})  # what `paper` means may have changed
    config = trained.model_copy(update={"dataset": dataset, "recipe": recipe})
    material, network, pathologies = _opened(config, operation, checkpoint_folder, place)
    rows = material.rows(partition)
    shared = tuple(name for name in pathologies if name in material.pathologies)
    if len(rows) == 0 or not shared:
        missing = "has no readable image" if len(rows) == 0 else f"shares no pathology with {', '.join(pathologies)}"
        raise TrialError("data", f"the {partition} partition of {config.dataset.name} {missing}")
    scores = score(network, material, partition, config=trained, place=place, pieces=Pieces(operation.micro_batch))
    return material, scores[:, [pathologies.index(name) for name in shared]], rows, shared


def _opened(
    config: TrialConfig, operation: Operation, checkpoint_folder: Path, place: assembly.Place
) -> tuple[Material, nn.Module, tuple[str, ...]]:
    """Return what the network reads, the network, and its pathologies: a probe's head reads the feature store."""
    trial = checkpoint.read_trial(checkpoint_folder)
    pathologies = tuple(trial["pathologies"])
    if not adaptations.load(config.adaptation).on_features:
        network, _, _ = assembly.load_network(checkpoint_folder, weights=operation.weights)
        return open_images(config, operation, pinned=place.cuda), network, pathologies
    from trainers import features

    material = features.open_features(config, operation, place=place)
    assembly.check_encoder(material.described["weights"], trial)
    head = features.bare_head(config, int(material.described["width"]), pathologies)
    assembly.load_state(head, checkpoint.read_tensors(checkpoint_folder, "network"), name=checkpoint_folder.name)
    return material, head, pathologies


@torch.no_grad()
def score(
    network: nn.Module,
    material: Material,
    partition: str,
    *,
    config: TrialConfig,
    place: assembly.Place,
    pieces: Pieces,
) -> np.ndarray:
    """Return the task's scores, float64 (rows, pathologies of the network), of a partition in order."""
    task = tasks.load(config.task)
    placed = place.put(network).eval()
    bf16 = place.cuda and config.recipe.precision == "bf16"

    def forward(images: Tensor, labels: Tensor) -> Tensor:
        inputs, _ = task.collate(images, labels, device=place.device)
        with torch.autocast(place.device.type, dtype=torch.bfloat16, enabled=bf16):
            outputs = placed(inputs)
        return task.scores(outputs)

    found = [pieces.run(forward, images, labels).cpu().numpy() for images, labels, _ in material.partition(partition)]
    return np.concatenate(found).astype(np.float64)
