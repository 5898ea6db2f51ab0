"""The words that pass between `search` and `trainers`: a trial, what it reports, how it ended.

Importing this file costs no torch: the driver and `plan` read it.
"""

import hashlib
import json
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from datasets.dataset_config import DatasetConfig
from trainers.recipes import Recipe


class TrialConfig(BaseModel):
    """One training, complete: two trials with equal configurations on equal data are the same trial."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str = "multilabel"
    dataset: DatasetConfig
    initialization: str
    backbone: str
    resolution: int = Field(ge=16, description="side of the square input, in pixels")
    adaptation: str = "finetune"
    recipe: Recipe
    seed: int = Field(0, ge=0)

    def identity(self, fingerprint: str) -> str:
        """Return the trial's name: 16 hex digits of sha256 over the canonical JSON and the data.

        Args:
            fingerprint: of the manifest this configuration reads (`datasets.manifest.Manifest.fingerprint`).
        """
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(f"{canonical}\n{fingerprint}".encode()).hexdigest()[:16]


class Operation(BaseModel):
    """Where and with what a trial runs; nothing here may change its result (but see `trainers.micro_batch`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_root: Path = Field(description="folder of the data set, in its official layout")
    fingerprint: str | None = Field(
        None, description="of the manifest that was found before; other data are refused. None takes what is there"
    )
    cache: Path = Field(description="folder of decoded images, shared by all trials of a node")
    key_folder: Path | None = Field(
        None, description="folder of the key that hashes cases and patients; None: the cache. Shared between nodes"
    )
    trial_folder: Path = Field(description="checkpoints of this trial; shared between nodes")
    weights: Path | None = Field(None, description="folder or file of pretrained weights; None asks the hub")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(1, ge=1, description="CPU threads of this trial")
    loader_workers: int = Field(0, ge=0)
    micro_batch: int | None = Field(None, ge=1, description="images per forward pass; None lets it be found")
    processes: int = Field(1, ge=1, description="processes that share every batch of the trial, one per GPU")
    checkpoint_seconds: float | None = Field(
        600, gt=0, description="also write a checkpoint within an epoch after this long; None: only at its end"
    )


class EpochMetrics(BaseModel):
    """What a trial measured in one epoch: an event, the same however often it is told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int = Field(ge=1, description="epochs finished, counted from 1")
    timestamp_ms: int = Field(description="Unix time at the end of the epoch; kept when told again")
    metrics: dict[str, float] = Field(description="defined scalars, e.g. val/auroc/pneumothorax")
    undefined: tuple[str, ...] = Field((), description="metrics without a value, e.g. one class only")


class TrialState(StrEnum):
    """How far a trial came."""

    PAUSED = "PAUSED"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAILED = "FAILED"


class TrialResult(BaseModel):
    """The end of one call of `train`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: TrialState
    epochs: int = Field(ge=0, description="epochs trained in all, over every attempt")
    best_epoch: int | None = None
    best_value: float | None = Field(None, description="the primary metric at best_epoch, on validation")
    checkpoint: str | None = Field(None, description="best checkpoint, relative to the trial's folder")
    checkpoint_sha256: str | None = None
    record: dict[str, Any] = Field(
        default_factory=dict, description="what was found while training: true input size, images/s, memory …"
    )

    @model_validator(mode="after")
    def _best_is_whole(self) -> "TrialResult":
        if (self.best_epoch is None) != (self.best_value is None):
            raise ValueError("best_epoch and best_value are given together or not at all")
        return self


class TrialError(Exception):
    """A trial that cannot succeed by being tried again: its configuration, data or numbers are at fault."""

    def __init__(self, kind: Literal["data", "weights", "non_finite", "configuration", "out_of_memory"], message: str):
        super().__init__(kind, message)  # all arguments: the error is pickled between processes
        self.kind = kind

    def __str__(self) -> str:
        """Return the message."""
        return str(self.args[1])


class TaskDeclaration(BaseModel):
    """What a task promises the rooms above, so that none of them needs to know the task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    primary_metric: str = Field(description="e.g. val/auroc/macro")
    direction: Literal["maximize", "minimize"]
    targets: tuple[str, ...] = Field(description="pathology names, in the order of the network's outputs")

    @property
    def sign(self) -> float:
        """What makes a larger value of the primary metric the better one: 1, or -1 where it is minimized."""
        return 1.0 if self.direction == "maximize" else -1.0

    @property
    def metric(self) -> str:
        """The primary metric's bare name: `auroc` of `val/auroc/macro`."""
        return self.primary_metric.split("/")[1]
