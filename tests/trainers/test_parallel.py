from pathlib import Path

import pytest

from datasets.dataset_config import DatasetConfig
from trainers import checkpoint
from trainers.recipes import Recipe
from trainers.train import train
from trainers.trial import EpochMetrics, Operation, TrialConfig


@pytest.mark.slow
def test_one_and_two_processes_train_the_same_network(tmp_path: Path) -> None:
    """No batch norm, no dropout: the same global batch gives the same weights to rounding."""
    config = TrialConfig(
        dataset=DatasetConfig(name="phantom", source="phantom", options={"patients": 20, "size": 64}),
        initialization="random",
        backbone="test_convnext2",
        resolution=64,
        recipe=Recipe(epochs=2, batch_size=7, learning_rate=1e-2, optimizer="sgd"),  # 7: uneven shares
    )
    told: dict[int, list[EpochMetrics]] = {1: [], 2: []}
    networks = {}
    for processes, events in told.items():
        folder = tmp_path / str(processes)
        operation = Operation(
            data_root=tmp_path / "root", cache=tmp_path / "cache", trial_folder=folder, processes=processes
        )
        result = train(config, operation=operation, report=events.append)
        assert result.epochs == 2
        last = checkpoint.find_last(folder)
        assert last is not None
        networks[processes] = checkpoint.read_tensors(last, "network")
    largest = max(float((value - networks[2][name]).abs().max()) for name, value in networks[1].items())
    assert largest < 1e-4  # float32: sums are taken in another order
    for alone, shared in zip(told[1], told[2], strict=True):
        assert alone.metrics == pytest.approx(shared.metrics, rel=1e-4)
