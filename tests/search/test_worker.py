"""What a worker tells the driver of a training: each epoch once, and how it ended."""

from pathlib import Path

import pytest

from datasets.dataset_config import DatasetConfig
from search import worker
from search.study_sections import Evaluation
from trainers import train
from trainers.evaluation import winner
from trainers.evaluation.redraws import Bootstrap
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


def test_a_winner_is_measured_as_the_study_asks_and_on_others_data_where_they_lie(monkeypatch, tmp_path):
    other = DatasetConfig(name="other", source="csv")
    place = worker.DatasetPlace(dataset=other, data_root=tmp_path / "other", fingerprint="of other")
    operation = Operation(data_root=tmp_path, cache=tmp_path, trial_folder=tmp_path / "t", fingerprint="own")
    settings = {"redraws": 300, "unit": "case", "confidence": 0.9, "seed": 4, "subgroups": ["sex"]}
    order = worker.EvaluationOrder(
        trial="t",
        cell="c",
        config=CONFIG,
        operation=operation,
        checkpoint="best-2",
        folder=tmp_path / "winners",
        settings=Evaluation(**settings),
        external=[place],
        stored=["other"],
    )
    told = {}
    monkeypatch.setattr(winner, "evaluate_winner", lambda config, **words: told.update(words, config=config) or {})
    assert worker.evaluate(order) == {}
    assert (told["config"], told["operation"], told["folder"]) == (CONFIG, operation, tmp_path / "winners")
    assert told["checkpoint_folder"] == tmp_path / "t" / "best-2"
    foreign = operation.model_copy(update={"data_root": tmp_path / "other", "fingerprint": "of other"})
    assert told["asked"] == winner.Asked(
        Bootstrap(300, "case", level=0.9, seed=4),
        ("sex",),
        {"other": (CONFIG.model_copy(update={"dataset": other}), foreign)},
        ["other"],
    )
