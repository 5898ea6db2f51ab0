"""One trial: from a configuration to a trained network, resuming where an earlier attempt stopped."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datasets.errors import DatasetError
from trainers import adaptations, assembly, checkpoint, optim, parallel, tasks
from trainers.checkpoint import Progress
from trainers.loop import Training
from trainers.material import Material, TensorMaterial, open_images
from trainers.micro_batch import MicroBatch, has_batch_norm
from trainers.parallel import Ranks
from trainers.trial import EpochMetrics, Operation, TaskDeclaration, TrialConfig, TrialError, TrialResult, TrialState

Report = Callable[[EpochMetrics], None]


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
    last = checkpoint.find_last(operation.trial_folder)
    if last is not None:
        progress = checkpoint.read_progress(last)
        _check_same(config, last)
        if _nothing_left(progress, until_epoch):
            _tell(progress, report)
            return _result(progress)
    place = assembly.take_place(operation)
    with parallel.together(config, operation, until_epoch) as ranks:
        attempt = prepare_attempt(config, operation, open_material(config, operation, place), place=place, ranks=ranks)
        return attempt.run(report, until_epoch)


def join_trial(config: TrialConfig, operation: Operation, until_epoch: int | None, *, ranks: Ranks) -> None:
    """Work on a trial as another process than the one that reports; called by `python -m trainers join-trial`."""
    place = assembly.take_place(operation)
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
) -> "Attempt":
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
    trained = parallel.synchronized(place.put(network), ranks, place.device)
    training = Training(
        network=trained,
        optimizer=optim.build_optimizer(trained, config.recipe),
        task=task,
        loss=task.loss(material.labels[material.rows("train")], config.recipe),
        recipe=config.recipe,
        device=place.device,
        steps_per_epoch=material.steps(),
        seed=config.seed,
        micro_batch=MicroBatch(operation.micro_batch),
        ranks=ranks,
    )
    attempt = Attempt(config, operation, training, material, task.declare(material.pathologies), trial, Progress())
    attempt.resume()
    return attempt


def _network(config: TrialConfig, operation: Operation, material: Material) -> tuple[nn.Module, dict[str, Any]]:
    """Return what is trained, and its description: the whole network, or a head on stored features."""
    if isinstance(material, TensorMaterial):
        from trainers import features

        return features.build_head(config, material), features.describe(config, material)
    network = assembly.build_network(config, material.pathologies, weights=operation.weights)
    return network, assembly.describe(config, network, material.pathologies, material.fingerprint)


@dataclass(slots=True)
class Attempt:
    """One process's work on a trial."""

    config: TrialConfig
    operation: Operation
    training: Training
    material: Material
    declared: TaskDeclaration
    trial: dict[str, Any]
    progress: Progress

    def resume(self) -> None:
        """Take over weights, optimizer, moving average and progress from the newest checkpoint, if there is one."""
        network, recipe = self.training.network, self.config.recipe
        last = checkpoint.find_last(self.operation.trial_folder)
        if recipe.ema is not None:
            self.training.average = {name: value.clone() for name, value in network.state_dict().items()}
        if last is None:
            self.progress.record = self._first_record()
            return
        self.progress = checkpoint.read_progress(last)
        assembly.load_state(network, checkpoint.read_tensors(last, "network"), name=last.name)
        checkpoint.restore_optimizer(
            self.training.optimizer,
            checkpoint.read_tensors(last, "optimizer"),
            dict(network.named_parameters()),
        )
        for name, value in checkpoint.read_tensors(last, "average").items():
            if self.training.average is not None:
                self.training.average[name].copy_(value)

    def run(self, report: Report, until_epoch: int | None) -> TrialResult:
        """Train to the end or to `until_epoch`, reporting every epoch, earlier ones first."""
        _tell(self.progress, report)
        while not _nothing_left(self.progress, until_epoch):
            event = self._epoch()
            self._write_epoch(event)
            report(event)
        return _result(self.progress)

    def _epoch(self) -> EpochMetrics:
        """Train what is left of the current epoch, measure it, and note it in the progress."""
        progress, epoch = self.progress, self.progress.epoch
        self._train_steps(epoch)
        learned = self.training.optimizer is not None
        train_loss = {"train/loss": progress.loss_sum / progress.loss_steps} if learned else {}
        metrics, undefined = self._validate()
        event = EpochMetrics(
            epoch=epoch + 1,
            timestamp_ms=time.time_ns() // 1_000_000,
            metrics={**train_loss, **metrics},
            undefined=undefined,
        )
        progress.history.append(event)
        progress.epoch, progress.step, progress.loss_sum, progress.loss_steps = epoch + 1, 0, 0.0, 0
        return event

    def _train_steps(self, epoch: int) -> None:
        progress, started = self.progress, time.monotonic()
        written = started
        batches = self.material.train(epoch, start=progress.step)
        for whole_images, whole_labels, _ in batches:
            share = self.training.ranks.share(len(whole_images))
            images, labels = whole_images[share], whole_labels[share]
            loss = self.training.step(images, labels, epoch=epoch, index=progress.step)
            progress.loss_sum, progress.loss_steps = progress.loss_sum + loss, progress.loss_steps + 1
            progress.step += 1
            self._count(seconds=time.monotonic() - started, images=len(whole_images))
            started = time.monotonic()
            if self._due(started - written) and progress.step < self.training.steps_per_epoch:
                self._save()
                written = time.monotonic()

    def _due(self, seconds: float) -> bool:
        every = self.operation.checkpoint_seconds
        return every is not None and seconds >= every

    def _count(self, *, seconds: float, images: int) -> None:
        timing = self.progress.timing
        timing["train_seconds"] = timing.get("train_seconds", 0.0) + seconds
        timing["train_images"] = timing.get("train_images", 0.0) + images

    def _validate(self) -> tuple[dict[str, float], tuple[str, ...]]:
        """Return the validation partition's metrics, and the names of those without a value."""
        started = time.monotonic()
        rows = self.material.rows("val")
        scores, loss = self.training.predict(self.material.partition("val"))
        if not math.isfinite(loss):
            raise TrialError("non_finite", f"the validation loss is {loss} after epoch {self.progress.epoch + 1}")
        task = self.training.task
        cases = self.material.instances["case"].to_numpy()[rows]
        by_case, labels, _ = task.by_case(scores, self.material.labels[rows], cases)
        measured = task.metrics(by_case, labels, self.material.pathologies)
        metrics = {f"val/{name}": value for name, value in measured.items() if value is not None}
        timing = self.progress.timing
        timing["evaluation_seconds"] = timing.get("evaluation_seconds", 0.0) + time.monotonic() - started
        return {"val/loss": loss, **metrics}, tuple(f"val/{name}" for name, value in measured.items() if value is None)

    def _write_epoch(self, event: EpochMetrics) -> None:
        """Write the epoch durably: the best weights first, then the state that says they are the best."""
        progress, folder = self.progress, self.operation.trial_folder
        value = event.metrics.get(self.declared.primary_metric)
        if value is not None and self._better(value):
            progress.best_epoch, progress.best_value = event.epoch, value
            progress.best_sha256 = self._save_best(event.epoch)
        progress.state = TrialState.COMPLETE if self._over() else TrialState.PAUSED
        progress.record |= self._record()
        self._save()
        if self.training.ranks.rank == 0:
            checkpoint.drop_former_best(folder, keep=progress.best_epoch)

    def _save_best(self, epoch: int) -> str | None:
        if self.training.ranks.rank != 0:
            return None
        network = self.training.average or self.training.network.state_dict()
        best = checkpoint.save_best(self.operation.trial_folder, epoch=epoch, network=network, trial=self.trial)
        return checkpoint.sha256(best / checkpoint.NETWORK)

    def _better(self, value: float) -> bool:
        best = self.progress.best_value
        if best is None:
            return True
        return value > best if self.declared.direction == "maximize" else value < best

    def _over(self) -> bool:
        recipe, progress = self.config.recipe, self.progress
        if progress.epoch >= recipe.epochs or self.training.optimizer is None:
            return True
        since = progress.epoch - (progress.best_epoch or 0)
        return recipe.patience is not None and since >= recipe.patience

    def _save(self) -> None:
        if self.training.ranks.rank != 0:
            return
        network = self.training.network
        names = {id(parameter): name for name, parameter in network.named_parameters()}
        checkpoint.save_last(
            self.operation.trial_folder,
            progress=self.progress,
            tensors={
                "network": network.state_dict(),
                "optimizer": checkpoint.optimizer_tensors(self.training.optimizer, names),
                "average": self.training.average or {},
            },
            trial=self.trial,
        )

    def _first_record(self) -> dict[str, Any]:
        """Return what is known before the first step."""
        trained = sum(p.numel() for p in self.training.network.parameters() if p.requires_grad)
        plan = self.trial["plan"]
        return {
            "input_size": plan["input_size"],
            "size_rule": plan["size_rule"],
            "architecture": plan["architecture"],
            "weights": plan["tag"],
            "weights_source": self.trial["weights"],
            "licence": plan["licence"],
            "pooling": self.trial["pooling"],
            "trained_parameters": trained,
            "recipe": self.config.recipe.model_dump(mode="json"),
            "device": str(self.training.device),
            "torch": torch.__version__,
            "macro_over": self._macro_list(),
        }

    def _macro_list(self) -> list[str]:
        """Return the pathologies with both classes among the validation labels: what macro metrics average."""
        labels = self.material.labels[self.material.rows("val")]
        both = [(column == 1).any() and (column == 0).any() for column in labels.T]
        return [name for name, kept in zip(self.material.pathologies, both, strict=True) if kept]

    def _record(self) -> dict[str, Any]:
        """Return what was found while training so far."""
        timing, micro = self.progress.timing, self.training.micro_batch
        seconds = timing.get("train_seconds", 0.0)
        record: dict[str, Any] = {
            "train_seconds": seconds,
            "evaluation_seconds": timing.get("evaluation_seconds", 0.0),
            "images_per_second": timing.get("train_images", 0.0) / seconds if seconds else None,
            "micro_batch": micro.size or self.config.recipe.batch_size,
            "activation_checkpointing": micro.checkpointing,
            "batch_norm_saw_micro_batches": micro.size is not None
            and micro.size < self.config.recipe.batch_size
            and has_batch_norm(self.training.network),
        }
        if self.training.device.type == "cuda":
            record["peak_memory_bytes"] = torch.cuda.max_memory_allocated(self.training.device)
            record["gpu_seconds"] = seconds + record["evaluation_seconds"]
        return record


def _nothing_left(progress: Progress, until_epoch: int | None) -> bool:
    if progress.state is TrialState.COMPLETE:
        return True
    return until_epoch is not None and progress.epoch >= until_epoch


def _tell(progress: Progress, report: Report) -> None:
    for event in progress.history:
        report(event)


def _result(progress: Progress) -> TrialResult:
    best = progress.best_epoch
    return TrialResult(
        state=progress.state,
        epochs=progress.epoch,
        best_epoch=best,
        best_value=progress.best_value,
        checkpoint=None if best is None else f"best-{best:04d}",
        checkpoint_sha256=progress.best_sha256,
        record=progress.record,
    )


def _check_same(config: TrialConfig, last: Path) -> None:
    """Refuse to go on with another trial's checkpoint."""
    written = TrialConfig.model_validate(checkpoint.read_trial(last)["trial"])
    if written != config:
        raise TrialError(
            "configuration", "the trial's folder holds the checkpoint of another configuration; use another folder"
        )
