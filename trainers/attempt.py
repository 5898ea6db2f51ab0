"""One process's work on a trial: epochs, checkpoints, events."""

import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainers import assembly, checkpoint, checkpoint_files, record
from trainers.checkpoint import Progress
from trainers.loop import Training
from trainers.material import Material
from trainers.trial import EpochMetrics, Operation, TaskDeclaration, TrialConfig, TrialError, TrialResult, TrialState

Report = Callable[[EpochMetrics], None]


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
    beside: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "settle"))
    settling: "Future[None] | None" = None

    def resume(self) -> None:
        """Take over weights, optimizer, moving average and progress from the newest checkpoint, if there is one."""
        network, recipe = self.training.network, self.config.recipe
        if self.training.ranks.rank == 0:
            checkpoint_files.sweep(self.operation.trial_folder)
        last = checkpoint.load_last(self.operation.trial_folder)
        if recipe.ema is not None:
            self.training.average = {name: value.clone() for name, value in network.state_dict().items()}
        if last is None:
            self.progress.record = record.at_start(self.config, self.training, self.material, self.trial)
            return
        self.progress = last.progress
        assembly.load_state(network, last.network, name=last.name)
        checkpoint.restore_optimizer(self.training.optimizer, last.optimizer, dict(network.named_parameters()))
        for name, value in last.average.items():
            if self.training.average is not None:
                self.training.average[name].copy_(value)

    def run(self, report: Report, until_epoch: int | None) -> TrialResult:
        """Train to the end or to `until_epoch`, reporting every epoch, earlier ones first."""
        tell(self.progress, report)
        try:
            while not nothing_left(self.progress, until_epoch):
                event = self._epoch()
                self._write_epoch(event)
                report(event)
            self._wait()
        finally:
            self.beside.shutdown()
        return result_of(self.progress)

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
        pathologies = self.material.pathologies
        by_case, labels, _ = task.by_case(scores, self.material.labels[rows], cases, pathologies)
        measured = task.metrics(by_case, labels, pathologies)
        metrics = {f"val/{name}": value for name, value in measured.items() if value is not None}
        timing = self.progress.timing
        timing["evaluation_seconds"] = timing.get("evaluation_seconds", 0.0) + time.monotonic() - started
        return {"val/loss": loss, **metrics}, tuple(f"val/{name}" for name, value in measured.items() if value is None)

    def _write_epoch(self, event: EpochMetrics) -> None:
        """Write the epoch durably: the best weights first, then the state that says they are the best."""
        progress = self.progress
        written: Path | None = None
        value = event.metrics.get(self.declared.primary_metric)
        if value is not None and self._better(event):
            progress.best_epoch, progress.best_value = event.epoch, value
            written, progress.best_sha256 = self._save_best(event.epoch)
        progress.state = TrialState.COMPLETE if self._over() else TrialState.PAUSED
        progress.record |= record.after_epoch(self.config, self.training, progress.timing)
        self._save(network=written)

    def _save_best(self, epoch: int) -> tuple[Path | None, str | None]:
        """Return the file, if it holds the network as it trains on, and its checksum."""
        if self.training.ranks.rank != 0:
            return None, None
        network = self.training.average or self.training.network.state_dict()
        best = checkpoint.save_best(self.operation.trial_folder, epoch=epoch, network=network, trial=self.trial)
        path = best / checkpoint.NETWORK
        return None if self.training.average else path, checkpoint.sha256(path)

    def _better(self, event: EpochMetrics) -> bool:
        best = [earlier for earlier in self.progress.history if earlier.epoch == self.progress.best_epoch]
        by_loss = self.config.recipe.selection == "loss"
        metric = "val/loss" if by_loss else self.declared.primary_metric
        if not best:
            return True
        value, former = event.metrics[metric], best[0].metrics[metric]
        return value < former if by_loss or self.declared.direction == "minimize" else value > former

    def _over(self) -> bool:
        recipe, progress = self.config.recipe, self.progress
        if progress.epoch >= recipe.epochs or self.training.optimizer is None:
            return True
        return recipe.patience is not None and self._since_better() >= recipe.patience

    def _since_better(self) -> int:
        """Return the epochs since the primary metric was at its best, whatever the best epoch is selected by."""
        name, sign = self.declared.primary_metric, self.declared.sign
        history = self.progress.history
        values = [(sign * event.metrics[name], -event.epoch) for event in history if name in event.metrics]
        _, first_best = max(values, default=(0.0, 0))
        return self.progress.epoch + first_best

    def _save(self, *, network: Path | None = None) -> None:
        if self.training.ranks.rank != 0:
            return
        names = {id(parameter): name for name, parameter in self.training.network.named_parameters()}
        self._wait()
        newest = checkpoint.save_last(
            self.operation.trial_folder,
            progress=self.progress,
            tensors={
                "network": self.training.network.state_dict(),
                "optimizer": checkpoint.optimizer_tensors(self.training.optimizer, names),
                "average": self.training.average or {},
            },
            trial=self.trial,
            network=network,
        )
        self.settling = self.beside.submit(
            checkpoint.settle, self.operation.trial_folder, newest, keep_best=self.progress.best_epoch
        )

    def _wait(self) -> None:
        """Wait until the checkpoint before is on the disk; an error of the disk comes out here."""
        if self.settling is not None:
            self.settling.result()


def nothing_left(progress: Progress, until_epoch: int | None) -> bool:
    """Tell whether a trial is at its end, or where it is to pause."""
    if progress.state is TrialState.COMPLETE:
        return True
    return until_epoch is not None and progress.epoch >= until_epoch


def tell(progress: Progress, report: Report) -> None:
    """Report every epoch of the history, as the same events."""
    for event in progress.history:
        report(event)


def result_of(progress: Progress) -> TrialResult:
    """Return how a trial stands."""
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
