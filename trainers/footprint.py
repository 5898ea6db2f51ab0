"""How much memory a trial wants, from its configuration alone: the network is built on the meta device."""

import torch

from trainers import adaptations, assembly, large_weights, memory_model
from trainers.gpu_memory import Footprint
from trainers.timm_networks import meta_network, parameter_count
from trainers.trial import TrialConfig

BYTES_OF_BF16, BYTES_OF_FLOAT = 2, 4
IMAGES = 2
"""Batch normalisation refuses one alone where its maps have a single value."""


def footprint(config: TrialConfig, targets: int) -> Footprint:
    """Measure a trial's wants without memory, weights or data.

    Args:
        config: of the trial.
        targets: outputs of the network.

    Raises:
        TrialError: kind "configuration".
    """
    recipe = config.recipe
    plan = assembly.plan_network(config)
    if adaptations.load(config.adaptation).on_features:
        encoder = meta_network(plan)
        parameters, stored = parameter_count(encoder), encoder.width * BYTES_OF_FLOAT
        return Footprint(parameters * BYTES_OF_BF16, 0, 0, shared=True, host=_host_bytes(parameters), stored=stored)
    with torch.device("meta"):
        network = assembly.build_network(config, [f"target {n}" for n in range(targets)], weights=None, load=False)
        images = torch.zeros(IMAGES, 1, plan.input_size, plan.input_size)
    per_image = memory_model.kept(network.train(), images) // IMAGES
    per_image = per_image // 2 if recipe.precision == "bf16" else per_image
    fixed = memory_model.fixed_bytes(network, optimizer=recipe.optimizer, average=recipe.ema is not None)
    return Footprint(
        fixed,
        per_image * recipe.batch_size,
        per_image,
        shared=False,
        host=_host_bytes(parameter_count(network.encoder)),
    )


def _host_bytes(parameters: int) -> int:
    """Return the main memory in which a network is loaded: as it was created, and what is read into it.

    What a checkpoint is written from, file by file, is no more: the network, or the optimizer's two moments.
    """
    whole = parameters * BYTES_OF_FLOAT
    return parameters * BYTES_OF_BF16 if whole >= large_weights.LARGE else 2 * whole
