"""What a worker tells the driver of a training: each epoch once, and how it ended."""

from pathlib import Path

import pytest

from datasets.dataset_config import DatasetConfig
from search import worker
from trainers import train
from trainers.trial import EpochMetrics, Operation, TrialConfig, TrialError, TrialResult

CONFIG = TrialConfig(
    dataset=DatasetConfig(name="d", source="d"), initialization="r", backbone="b", resolution=32, recipe={"epochs": 3}
)
PAUSED = TrialResult(state="PAUSED", epochs=3, best_epoch=2, best_value=0.5)


def told(monkeypatch, training, *, told_epochs=0) -> list[dict[str, str]]:
    """Carry out an order with another training, and return the messages."""
    messages: list[dict[str, str]] = []
    monkeypatch.setattr(train, "train", training)
    operation = Operation(data_root=Path(), cache=Path(), trial_folder=Path())
    order = worker.WorkOrder(trial="t", config=CONFIG, operation=operation, until_epoch=3, told_epochs=told_epochs)
    worker.carry_out(order, messages.append)
    return messages


def test_epochs_that_the_ledger_has_are_not_told_again(monkeypatch):
    def training(config, *, operation, report, until_epoch):
        for epoch in range(1, until_epoch + 1):  # as from a checkpoint, which tells all again
            report(EpochMetrics(epoch=epoch, timestamp_ms=epoch, metrics={"val/score": 0.5}))
        return PAUSED

    *epochs, end = told(monkeypatch, training, told_epochs=1)
    assert [EpochMetrics.model_validate_json(message["epoch"]).epoch for message in epochs] == [2, 3]
    assert TrialResult.model_validate_json(end["result"]) == PAUSED


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        (TrialError("data", "no case"), "data", "no case"),
        (OSError(28, "No space left on device"), "disk_full", "OSError: [Errno 28] No space left on device ("),
        (MemoryError("batch"), "host_memory", "MemoryError: batch ("),
        (KeyError("x"), "bug", "KeyError: 'x' ("),
    ],
)
def test_a_failure_is_told_with_its_class_and_the_last_places_on_the_way(monkeypatch, failure, kind, message):
    def deeper(depth):
        if depth == 0:
            raise failure
        deeper(depth - 1)

    (end,) = told(monkeypatch, lambda *_, **__: deeper(30))
    assert end["failure_kind"] == kind
    assert end["failure"].startswith(message)
    assert end["failure"].endswith(" in deeper)") or kind == "data"
    places = end["log"].splitlines()
    assert len(places) == worker.LINES_OF_LOG
    assert places[-1].endswith("in deeper: raise failure")
