"""What a worker process does for the driver: prepare data, train an assignment, evaluate a winner.

Plain functions of plain values: Ray runs them on a cluster, a test calls them directly. torch is imported by
the room `trainers`, inside the functions, so that the driver never pays for it.
"""

import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from datasets.dataset_config import DatasetConfig
from search import failures
from search.study_sections import Evaluation
from trainers.gpu_memory import Footprint
from trainers.trial import EpochMetrics, Operation, TrialConfig, TrialError

LINES_OF_LOG = 20
FOOTPRINT_TARGETS = 14
"""Outputs with which memory is estimated; some more or fewer do not matter."""


class WorkOrder(BaseModel):
    """An assignment with all that a worker needs to carry it out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trial: str
    config: TrialConfig
    operation: Operation
    until_epoch: int
    told_epochs: int


class PreparationOrder(BaseModel):
    """A data set to read and decode, for every resolution that a study needs of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: DatasetConfig
    key: str
    task: str
    resolutions: tuple[int, ...]
    data_root: Path
    address: str | None = None
    """Where it is brought from to `data_root`; None: it lies there."""
    cache: Path
    workers: int = 1
    trained_on: bool = True
    """False: winners are only measured on it, so that it needs no image but those of test."""


class DatasetPlace(BaseModel):
    """A data set and where it lies."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: DatasetConfig
    data_root: Path
    fingerprint: str | None = None
    """Of its manifest when the study looked at it."""


class EvaluationOrder(BaseModel):
    """A cell's winner to measure once on the test partition."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trial: str
    cell: str
    config: TrialConfig
    operation: Operation
    checkpoint: str
    folder: Path
    settings: Evaluation
    external: list[DatasetPlace] = []
    stored: list[str] | None = None
    """See `trainers.evaluation.winner.Asked`."""


def carry_out(order: WorkOrder, tell: Callable[[dict[str, str]], None]) -> None:
    """Train, telling each epoch as `epoch` and the end as `result` or `failure`, all as JSON or plain text.

    A failure is told, not raised; a process that dies tells nothing, and the
    backend tries again.
    """
    from trainers.train import train

    def report(told: EpochMetrics) -> None:
        if told.epoch > order.told_epochs:
            tell({"epoch": told.model_dump_json()})

    try:
        result = train(order.config, operation=order.operation, report=report, until_epoch=order.until_epoch)
    except TrialError as failure:
        tell({"failure": str(failure), "failure_kind": failure.kind, "log": _log(failure)})
    except Exception as failure:  # a bug ends this trial, with its place, not the study; a full disk is nobody's bug
        place = traceback.extract_tb(failure.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno} in {place.name}"
        told = f"{type(failure).__name__}: {failure} ({where})"
        tell({"failure": told, "failure_kind": failures.class_of(failure), "log": _log(failure)})
    else:
        tell({"result": result.model_dump_json()})


def _log(failure: Exception) -> str:
    """Return the last lines of the way to a failure: places in the code, no values of the data."""
    frames = traceback.extract_tb(failure.__traceback__)
    lines = [f"{Path(f.filename).name}:{f.lineno} in {f.name}: {f.line}" for f in frames]
    return "\n".join(lines[-LINES_OF_LOG:])


def prepare(order: PreparationOrder) -> Iterator[dict[str, Any]]:
    """Decode a data set's images for every resolution, then say what it holds.

    Yields:
        What is done now as {"note": text}, the names of the caches before they are built as {"caches": names}, and
        last {"data": the ledger's event}.
    """
    from datasets import cache, preprocessing, remote_root, sources
    from datasets.partition import check_not_empty
    from trainers import tasks

    if order.address is not None:
        yield {"note": f"bringing {order.dataset.name} here"}
        remote_root.bring(order.dataset, order.address, order.data_root)
    manifest = sources.load(order.dataset, order.data_root)
    if order.trained_on:
        check_not_empty(manifest.instances, where=f"data set {order.dataset.name}")
    specification = preprocessing.resolve(order.dataset.preprocessing)
    yield {"caches": [cache.cache_key(manifest, specification, side) for side in order.resolutions]}
    is_prepared = partial(cache.is_prepared, manifest, preprocessing=order.dataset.preprocessing, cache=order.cache)
    missing = [side for side in order.resolutions if not is_prepared(resolution=side)]
    if missing:
        sizes = ", ".join(map(str, missing))
        yield {"note": f"preparing {order.dataset.name}: {len(manifest)} images at {sizes} px"}
    prepared = cache.prepare_all(
        manifest,
        resolutions=order.resolutions,
        preprocessing=order.dataset.preprocessing,
        cache=order.cache,
        workers=order.workers,
    )
    quarantined = {digest: reason for preparation in prepared for digest, reason in preparation.quarantined}
    declaration = tasks.declare(order.task, manifest.pathologies)
    yield {
        "data": {
            "kind": "data",
            "key": order.key,
            "dataset": order.dataset.name,
            "fingerprint": manifest.fingerprint,
            "people": manifest.people,
            "images": {part: len(manifest.rows(part)) for part in ("train", "val", "test")},
            "quarantined": quarantined,
            "validation": manifest.validation,
            "declaration": declaration.model_dump(mode="json"),
        }
    }


def evaluate(order: EvaluationOrder) -> dict[str, Any]:
    """Measure a winner on the test partition; scores go to its folder, the figures are returned."""
    from trainers.evaluation.redraws import Bootstrap
    from trainers.evaluation.winner import Asked, evaluate_winner

    settings = order.settings
    external = {
        place.dataset.name: (
            order.config.model_copy(update={"dataset": place.dataset}),
            order.operation.model_copy(update={"data_root": place.data_root, "fingerprint": place.fingerprint}),
        )
        for place in order.external
    }
    redraws = Bootstrap(settings.redraws, settings.unit, level=settings.confidence, seed=settings.seed)
    return evaluate_winner(
        order.config,
        operation=order.operation,
        checkpoint_folder=order.operation.trial_folder / order.checkpoint,
        folder=order.folder,
        asked=Asked(redraws, settings.subgroups, external, order.stored),
    )


def measure_footprint(order: TrialConfig) -> Footprint:
    """Say how much GPU memory a trial wants."""
    from trainers.footprint import footprint

    return footprint(order, targets=FOOTPRINT_TARGETS)


def measure_baseline(order: DatasetPlace) -> dict[str, Any]:
    """Say what view, sex and age alone reach on the test partition, as rows like those of a winner."""
    from datasets import sources
    from trainers.evaluation.metadata import baseline_rows

    return {"rows": baseline_rows(sources.load(order.dataset, order.data_root))}
