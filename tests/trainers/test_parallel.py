import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from datasets.dataset_config import DatasetConfig
from trainers import checkpoint, parallel
from trainers.parallel import LostProcessError, Ranks
from trainers.recipes import Recipe
from trainers.train import train
from trainers.trial import EpochMetrics, Operation, TrialConfig, TrialError


def small(backbone: str, **recipe: Any) -> TrialConfig:
    """A trial of 27 images and two epochs."""
    return TrialConfig(
        dataset=DatasetConfig(name="phantom", source="phantom", options={"patients": 20, "size": 64}),
        initialization="random",
        backbone=backbone,
        resolution=64,
        recipe=Recipe(epochs=2, learning_rate=1e-2, optimizer="sgd", **recipe),
    )


@pytest.mark.slow
def test_one_and_two_processes_train_the_same_network(tmp_path: Path) -> None:
    """No batch norm, no dropout: the same global batch gives the same weights to rounding."""
    config = small("test_convnext2", batch_size=7)  # uneven shares
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


@pytest.mark.slow
def test_batch_norm_sees_shares_and_every_process_keeps_the_same_statistics(tmp_path: Path) -> None:
    """Of 27 images the third batch has one, which both processes take whole."""
    config = small("test_efficientnet", batch_size=13, ema=0.9)
    told: list[list[EpochMetrics]] = [[], []]
    kept = []
    for number, events in enumerate(told):
        folder = tmp_path / str(number)
        operation = Operation(data_root=tmp_path / "root", cache=tmp_path / "cache", trial_folder=folder, processes=2)
        result = train(config, operation=operation, report=events.append)
        assert result.record["batch_norm_saw_micro_batches"] is True
        last = checkpoint.find_last(folder)
        assert last is not None
        kept.append(checkpoint.read_tensors(last, "network"))
    assert [event.metrics for event in told[0]] == [event.metrics for event in told[1]]
    assert all(torch.equal(value, kept[1][name]) for name, value in kept[0].items())


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_no_process_goes_without_images_or_with_one(count: int) -> None:
    for length in range(1, 14):
        shares = [range(length)[Ranks(rank, count).share(length)] for rank in range(count)]
        assert all(len(share) >= min(2, length) for share in shares)
        whole = [image for share in shares for image in share]
        assert whole == list(range(length)) * (count if length < 2 * count else 1)


@pytest.mark.slow
def test_running_statistics_are_averaged_over_the_processes(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        told = pool.map(_mean_of_two, [(rank, tmp_path) for rank in range(2)])
        assert list(told) == [[1.5, 1.5]] * 2


def _mean_of_two(place: tuple[int, Path]) -> list[float]:
    code = (
        "import sys, torch; from torch import nn; from trainers import parallel; from trainers.trial import Operation\n"
        "rank, folder = int(sys.argv[1]), sys.argv[2]\n"
        "operation = Operation(data_root=folder, cache=folder, trial_folder=folder, processes=2, device='cpu')\n"
        "ranks = parallel.join(parallel.Ranks(rank, 2), operation, folder)\n"
        "norm = nn.BatchNorm1d(1); norm.running_mean.fill_(1.0 + rank); norm.running_var.fill_(1.0 + rank)\n"
        "ranks.average_statistics(nn.Sequential(norm)); print(norm.running_mean.item(), norm.running_var.item())\n"
        "parallel.leave()"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(place[0]), str(place[1])],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    return [float(word) for word in found.stdout.split()]


def ends_itself(how: str) -> Callable[..., Any]:
    """Return what starts another process of a trial that fails in some way."""

    def start(_: Any, operation: Operation, __: Any, place: tuple[int, str]) -> "subprocess.Popen[str]":
        code = (
            "import os, sys; from trainers import parallel; from trainers.trial import Operation, TrialError\n"
            "rank, folder = int(sys.argv[1]), sys.argv[2]\n"
            "operation = Operation(data_root=folder, cache=folder, trial_folder=folder, processes=2, device='cpu')\n"
            "join = lambda: parallel.join(parallel.Ranks(rank, 2), operation, folder)\n"
            f"with parallel.telling(rank, folder):\n{how}"
        )
        return subprocess.Popen(
            [sys.executable, "-c", code, str(place[0]), place[1]], text=True, cwd=Path(__file__).parents[2]
        )

    return start


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("    raise TrialError('data', 'no image 7')", TrialError("data", "no image 7")),
        (
            "    join(); raise TrialError('out_of_memory', 'not one image')",
            TrialError("out_of_memory", "not one image"),
        ),
        ("    os.kill(os.getpid(), 9)", LostProcessError("process 1 of 2 ended with exit code -9")),
        ("    join(); os.kill(os.getpid(), 9)", LostProcessError("process 1 of 2 ended with exit code -9")),
        ("    join(); {}['a']", RuntimeError("process 1: KeyError: 'a'")),
    ],
)
def test_why_another_process_failed_is_told_at_once(
    how: str, expected: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(parallel, "_start", ends_itself(how))
    operation = Operation(data_root=tmp_path, cache=tmp_path, trial_folder=tmp_path, processes=2, device="cpu")
    with (
        pytest.raises(type(expected)) as raised,
        parallel.together(small("a"), operation, None) as ranks,
    ):
        while True:
            ranks.total(torch.ones(1))
    assert type(raised.value) is type(expected)
    assert raised.value.args == expected.args


@pytest.mark.slow
def test_a_failure_of_its_own_is_not_taken_for_anothers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parallel, "_start", ends_itself("    join(); sys.stdin.read()"))
    monkeypatch.setattr(parallel, "SECONDS_TO_END", 0.1)
    operation = Operation(data_root=tmp_path, cache=tmp_path, trial_folder=tmp_path, processes=2, device="cpu")
    for own in (TrialError("non_finite", "own"), RuntimeError("own")):
        with pytest.raises(type(own), match="own") as raised, parallel.together(small("a"), operation, None):
            raise own
        assert raised.value is own
        assert raised.value.__cause__ is None
