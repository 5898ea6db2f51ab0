import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from trainers import assembly, memory_model, train
from trainers.checkpoint_files import folder_bytes
from trainers.material import open_images
from trainers.quota import Ended, enforce
from trainers.train import memory_key
from trainers.trial import Operation, TrialConfig


def test_what_autograd_keeps_is_counted_without_parameters() -> None:
    network = nn.Sequential(nn.Linear(8, 16, bias=False), nn.ReLU(), nn.Linear(16, 4, bias=False)).to("meta")
    # the first layer's input (8), the activation after ReLU (16, shared by ReLU and the second layer): 24 float32
    assert memory_model.kept(network, torch.zeros(1, 8, device="meta")) == 24 * 4
    # parameters 192 floats; gradients and two moments of each: four copies
    assert memory_model.fixed_bytes(network, optimizer="adamw", average=False) == 192 * 4 * 4
    assert memory_model.fixed_bytes(network, optimizer="sgd", average=True) == 192 * 4 * 4


@pytest.mark.parametrize(("free", "size"), [(10_000, 33), (4_471, 33), (4_470, 17), (3_000, 17), (1_900, 9), (0, 1)])
def test_the_first_guess_halves_until_the_model_says_it_fits(free: int, size: int) -> None:
    # 33 × 100 + 500 = 3800 ≤ 0.85 × 4,471 = 3800.35, and above 0.85 × 4,470 = 3799.5
    # 17 × 100 + 500 = 2200 ≤ 2550; 9 × 100 + 500 = 1400 ≤ 1615
    assert memory_model.first_guess(33, per_image=100, fixed=500, free=free) == size


@pytest.mark.parametrize("side", [32, 64])
def test_the_first_guess_on_a_gpu_shows_the_network_no_image(
    trial: Callable[..., TrialConfig], operation: Callable[..., Operation], monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    """One in training mode would move batch normalisation's statistics, and at 32 px its maps have a single value."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (80 * 10**9, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "GPU")
    config = trial(backbone="test_efficientnet", resolution=side)
    own = operation()
    material = open_images(config, own)
    monkeypatch.setattr(type(material), "partition", None)
    place = SimpleNamespace(cuda=True, device=torch.device("cpu"))
    assert train._micro_batch(config, own, material, place) == 8  # type: ignore[arg-type]


def test_what_fitted_is_remembered(tmp_path: Path) -> None:
    assert memory_model.recall(tmp_path, "vit|224|gpu") is None
    memory_model.remember(tmp_path, "vit|224|gpu", 8)
    memory_model.remember(tmp_path, "vit|512|gpu", 2)
    assert memory_model.recall(tmp_path, "vit|224|gpu") == 8


def test_what_a_small_batch_or_share_needed_says_nothing_of_a_large_one(
    trial: Callable[..., TrialConfig], operation: Callable[..., Operation]
) -> None:
    place = assembly.Place(torch.device("cpu"))
    keys = {memory_key(trial(recipe={"batch_size": size}), operation(), place) for size in (8, 64)}
    assert len(keys) == 2
    assert memory_key(trial(seed=5), operation(), place) in keys
    assert memory_key(trial(), operation(processes=2), place) not in keys


def test_a_quota_takes_resume_state_first_then_weights_nobody_needs(tmp_path: Path) -> None:
    def trial(name: str, state: str = "COMPLETE") -> Path:
        for part in ("last-0003-000000", "best-0002"):
            folder = tmp_path / name / part
            folder.mkdir(parents=True)
            (folder / "network.safetensors").write_bytes(bytes(1000))
            (folder / "COMPLETE").touch()
        (tmp_path / name / "last-0003-000000" / "progress.json").write_text(f'{{"state": "{state}"}}')
        return tmp_path / name

    winner, loser, running, failed = trial("winner"), trial("loser"), trial("running"), trial("failed", "PAUSED")
    ended = [Ended(winner, needed=True), Ended(loser, needed=False), Ended(failed, needed=False)]
    # three resume states went, of the failed trial all of it; left are five weights and three times 21 bytes
    assert enforce(ended, study_folder=tmp_path, limit=5_100) == 5_063
    assert enforce(ended, study_folder=tmp_path, limit=100) == 3_063  # the losers' weights too; no more may go
    assert (winner / "best-0002" / "network.safetensors").exists()
    assert (running / "last-0003-000000" / "network.safetensors").exists()
    assert (loser / "last-0003-000000" / "progress.json").exists()
    assert not (failed / "last-0003-000000").exists()


@pytest.mark.parametrize(
    ("limit", "left", "gone"),
    [
        (6_000, 6_000, set()),
        (5_999, 6_000 - 500, {"a/last"}),  # its network is also the best: the optimizer's bytes alone come free
        (5_499, 6_000 - 2 * 500, {"a/last", "b/last"}),
        (4_499, 6_000 - 3 * 500 - 1_500, {"a/last", "b/last", "c/last", "b/best"}),  # the oldest of which nobody needs
        (0, 6_000 - 3 * 500 - 2 * 1_500, {"a/last", "b/last", "c/last", "b/best", "a/best"}),
    ],
)
def test_no_more_goes_than_the_quota_asks_for(tmp_path: Path, limit: int, left: int, gone: set[str]) -> None:
    for number, name in enumerate("abc"):
        last, best = tmp_path / name / "last-0001-000000", tmp_path / name / "best-0001"
        for folder in (last, best):
            folder.mkdir(parents=True)
            (folder / "COMPLETE").touch()
        (best / "network.safetensors").write_bytes(bytes(1500))
        (last / "network.safetensors").hardlink_to(best / "network.safetensors")
        (last / "optimizer.safetensors").write_bytes(bytes(500))
        os.utime(best, (1000 - number % 2, 1000 - number % 2))
    ended = [Ended(tmp_path / name, needed=name == "c") for name in "abc"]
    assert enforce(ended, study_folder=tmp_path, limit=limit) == left == folder_bytes(tmp_path)
    there = {f"{path.parent.name}/{path.name[:4]}" for path in tmp_path.glob("*/*")}
    assert there == {f"{name}/{part}" for name in "abc" for part in ("last", "best")} - gone


def test_what_goes_while_a_study_is_counted_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials that run replace their checkpoints."""
    for name in ("best-0001", "last-0001-000000"):
        (tmp_path / "trial" / name).mkdir(parents=True)
        (tmp_path / "trial" / name / "network.safetensors").write_bytes(bytes(1000))
    (tmp_path / "trial" / "best-0001" / "linked").hardlink_to(tmp_path / "trial" / "best-0001" / "network.safetensors")
    (tmp_path / "trial" / "best-0001" / "gone").symlink_to(tmp_path / "nothing")
    look = os.scandir

    def replaced(folder: Path | str) -> Any:
        if Path(folder).name.startswith("last-"):
            (Path(folder) / "network.safetensors").unlink()
            Path(folder).rmdir()
        return look(folder)

    monkeypatch.setattr(os, "scandir", replaced)
    assert folder_bytes(tmp_path) == 1000
