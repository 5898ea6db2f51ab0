"""One trial: from a configuration to a trained network, resuming where an earlier attempt stopped."""

from typing import Any

import torch
from torch import nn

from datasets import transforms
from datasets.errors import DatasetError
from trainers import adaptations, assembly, checkpoint, checkpoint_files, memory_model, optim, parallel, tasks
from trainers.attempt import Attempt, Report, nothing_left, result_of, tell
from trainers.checkpoint import Progress
from trainers.footprint import footprint
from trainers.loop import Training
from trainers.material import Material, TensorMaterial, open_images
from trainers.micro_batch import MicroBatch
from trainers.parallel import Ranks
from trainers.trial import Operation, TrialConfig, TrialError, TrialResult


def train(config: TrialConfig, *, operation: Operation, report: Report, until_epoch: int | None = None) -> TrialResult:
    """Train one trial, or go on with it, or only tell again what it did.

    Every epoch of an earlier attempt is reported again first, as the same event. A new epoch is written into the
    checkpoint before it is reported, so that a report lost on the way is told again by the next attempt.

    Args:
        config: what to train; nothing else changes the result.
        operation: where and with what.
        report: told of each finished epoch.
        until_epoch: stop after this many epochs in all (state PAUSED); None trains to the recipe's end.

    Returns:
        How the trial stands.

    Raises:
        TrialError: it cannot succeed by being tried again.
    """
    assembly.plan_network(config)  # what cannot be is said before anything is read
    _check_augmentation(config)
    found = checkpoint.look_at_last(operation.trial_folder)
    if found is not None:
        last, progress, written = found
        _check_same(config, written)
        if nothing_left(progress, until_epoch):
            # The attempt that came this far may have been killed before what its last checkpoint replaced was gone.
            checkpoint_files.sweep(operation.trial_folder)
            checkpoint.settle(operation.trial_folder, last, keep_best=progress.best_epoch)
            tell(progress, report)
            return result_of(progress)
    place = assembly.take_place(operation, precision=config.recipe.precision)
    with parallel.together(config, operation, until_epoch) as ranks:
        attempt = prepare_attempt(config, operation, open_material(config, operation, place), place=place, ranks=ranks)
        result = attempt.run(report, until_epoch)
        if place.cuda and attempt.training.micro_batch.size is not None:
            memory_model.remember(
                operation.cache, memory_key(config, operation, place), attempt.training.micro_batch.size
            )
        return result


def join_trial(config: TrialConfig, operation: Operation, until_epoch: int | None, *, ranks: Ranks) -> None:
    """Work on a trial as another process than the one that reports; called by `python -m trainers join-trial`."""
    place = assembly.take_place(operation, precision=config.recipe.precision)
    attempt = prepare_attempt(config, operation, open_material(config, operation, place), place=place, ranks=ranks)
    attempt.run(lambda _: None, until_epoch)


def open_material(config: TrialConfig, operation: Operation, place: assembly.Place) -> Material:
    """Open what the trial reads: images, or the stored features of its frozen encoder.

    Raises:
        TrialError: kind "data", with the message of the data room.
    """
    try:
        if adaptations.load(config.adaptation).on_features:
            from trainers.features import open_features

            return open_features(config, operation, place=place)
        return open_images(config, operation, pinned=place.cuda)
    except DatasetError as error:
        raise TrialError("data", str(error)) from error


def prepare_attempt(
    config: TrialConfig,
    operation: Operation,
    material: Material,
    *,
    place: assembly.Place,
    ranks: Ranks | None = None,
) -> Attempt:
    """Build the network and put back what an earlier attempt left.

    Raises:
        TrialError: kind "data" for empty partitions, "configuration" or "weights" for the network.
    """
    for partition in ("train", "val"):
        if len(material.rows(partition)) == 0:
            raise TrialError("data", f"the {partition} partition of {config.dataset.name} has no readable image")
    task = tasks.load(config.task)
    network, trial = _network(config, operation, material)
    ranks = ranks or Ranks()
    trained = place.put(network)
    training = Training(
        network=trained,
        optimizer=optim.build_optimizer(trained, config.recipe),
        task=task,
        loss=task.loss(material.labels[material.rows("train")], config.recipe),
        recipe=config.recipe,
        device=place.device,
        steps_per_epoch=material.steps(),
        seed=config.seed,
        micro_batch=MicroBatch(_micro_batch(config, operation, material, place), guarded=place.cuda),
        ranks=ranks,
    )
    attempt = Attempt(config, operation, training, material, task.declare(material.pathologies), trial, Progress())
    attempt.resume()
    return attempt


def memory_key(config: TrialConfig, operation: Operation, place: assembly.Place) -> str:
    """Return what decides about memory: what is built, how it is trained, by how many processes, on which GPU."""
    name = torch.cuda.get_device_name(place.device) if place.cuda else place.device.type
    plan = assembly.plan_network(config)
    built = f"{plan.architecture}|{plan.input_size}|{config.adaptation}|{config.recipe.precision}"
    # What a smaller batch, or a smaller share of one, needs says nothing of a larger one.
    return f"{built}|{config.recipe.batch_size}/{operation.processes}|{name}"


def _micro_batch(config: TrialConfig, operation: Operation, material: Material, place: assembly.Place) -> int | None:
    """Return the images to try at once: as told, as remembered, or as the memory model guesses; None: all."""
    if operation.micro_batch is not None or not place.cuda or isinstance(material, TensorMaterial):
        return operation.micro_batch
    known = memory_model.recall(operation.cache, memory_key(config, operation, place))
    if known is not None:
        return known
    wanted = footprint(config, len(material.pathologies))  # of a network without memory: this one must see no image yet
    return memory_model.first_guess(
        -(-config.recipe.batch_size // operation.processes),
        per_image=wanted.per_image,
        fixed=wanted.fixed,
        free=torch.cuda.mem_get_info(place.device)[0],
    )


def _network(config: TrialConfig, operation: Operation, material: Material) -> tuple[nn.Module, dict[str, Any]]:
    """Return what is trained, and its description: the whole network, or a head on stored features."""
    if isinstance(material, TensorMaterial):
        from trainers import features

        return features.build_head(config, material), features.describe(config, material)
    network = assembly.build_network(config, material.pathologies, weights=operation.weights)
    return network, assembly.describe(config, network, material.pathologies, material.fingerprint)


def _check_augmentation(config: TrialConfig) -> None:
    try:
        transforms.resolve(config.recipe.augmentation)
    except DatasetError as error:
        raise TrialError("configuration", str(error)) from error


def _check_same(config: TrialConfig, written: dict[str, Any]) -> None:
    """Refuse to go on with another trial's checkpoint."""
    if TrialConfig.model_validate(written["trial"]) != config:
        raise TrialError(
            "configuration", "the trial's folder holds the checkpoint of another configuration; use another folder"
        )
