"""How fast a trial trains on this machine: a few steps on random images, no data and no weights needed."""

import time
from collections.abc import Callable

import numpy as np
import torch

from trainers import adaptations, assembly, offload, optim, seeding, tasks
from trainers.loop import Training
from trainers.micro_batch import MicroBatch, Pieces
from trainers.trial import TrialConfig

TARGETS = 14
LONGEST = 60.0
"""Seconds after which no further step is begun."""
WARM_UP = 2
"""Steps that are not counted: kernels are chosen and memory is found in them."""


def images_per_second(config: TrialConfig, *, steps: int) -> float:
    """Train on random images and return images per second.

    For an adaptation on stored features this is the speed of its frozen encoder, which is what such a trial waits for.

    Args:
        config: of the trial; its initialization is not loaded.
        steps: to count, fewer where they take more than a minute.

    Raises:
        TrialError: it cannot be built, or not even one image fits.
    """
    place = assembly.choose_place("auto", precision=config.recipe.precision)
    names = [f"target {n}" for n in range(TARGETS)]
    network = assembly.build_network(config, names, weights=None, load=False)
    on_features = adaptations.load(config.adaptation).on_features
    draws = np.random.default_rng(config.seed)
    side = assembly.plan_network(config).input_size
    batch = offload.IMAGES if on_features else config.recipe.batch_size
    images = torch.from_numpy(draws.random((batch, 1, side, side), dtype=np.float32))
    labels = torch.from_numpy(draws.integers(0, 2, (batch, TARGETS)).astype(np.float32))
    if on_features:
        forward = offload.placed(network.eval(), place.device, bf16=config.recipe.precision == "bf16")
        return _encoded(forward, images, steps)
    trained = place.put(network)
    task = tasks.load(config.task)
    training = Training(
        network=trained,
        optimizer=optim.build_optimizer(trained, config.recipe),
        task=task,
        loss=task.loss(labels.numpy(), config.recipe),
        recipe=config.recipe,
        device=place.device,
        steps_per_epoch=WARM_UP + steps,
        seed=config.seed,
        micro_batch=MicroBatch(None, guarded=place.cuda),
    )
    return _timed(lambda index: training.step(images, labels, epoch=0, index=index), batch, steps)


def _encoded(forward: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, steps: int) -> float:
    pieces = Pieces()

    def step(_: int) -> None:
        with torch.inference_mode():
            pieces.run(forward, images)

    with seeding.draws_at(0, "speed"):
        return _timed(step, len(images), steps)


def _timed(step: Callable[[int], object], batch: int, steps: int) -> float:
    began, counted = time.monotonic(), 0
    since = began
    for index in range(WARM_UP + steps):
        step(index)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if index + 1 == WARM_UP:
            since = time.monotonic()
        counted = max(0, index + 1 - WARM_UP)
        if counted and time.monotonic() - began > LONGEST:
            break
    return batch * counted / (time.monotonic() - since)
