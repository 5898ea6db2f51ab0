"""What is written of networks of unusual build comes back as it was."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from trainers import assembly, checkpoint
from trainers.train import train
from trainers.trial import Operation, TrialConfig, TrialState


def test_a_module_that_stands_in_several_places_is_written_whole_and_stays_one(tmp_path: Path) -> None:
    shared = nn.Linear(3, 3)
    network = nn.Sequential(shared, nn.Linear(3, 3), shared)
    best = checkpoint.save_best(tmp_path, epoch=1, network=network.state_dict(), trial={})
    read = checkpoint.read_tensors(best, "network")
    assert read.keys() == network.state_dict().keys()
    again = nn.Linear(3, 3)
    other = nn.Sequential(again, nn.Linear(3, 3), again)
    assembly.load_state(other, read, name="best")
    inputs = torch.rand(2, 3)
    assert torch.equal(other(inputs), network(inputs))
    assert other[0] is other[2]


@pytest.mark.parametrize(("umask", "rights"), [(0o022, 0o644), (0o077, 0o600)])
def test_weights_have_the_rights_of_any_other_file(tmp_path: Path, umask: int, rights: int) -> None:
    """The library writes them for their owner alone: nobody else could load a model from a shared folder."""
    before = os.umask(umask)
    try:
        best = checkpoint.save_best(tmp_path, epoch=1, network=nn.Linear(3, 3).state_dict(), trial={})
    finally:
        os.umask(before)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in best.iterdir()} == dict.fromkeys(
        ("network.safetensors", "trial.json", "COMPLETE"), rights
    )


def test_a_network_with_shared_modules_trains_pauses_and_is_rebuilt(
    trial: Callable[..., TrialConfig], operation: Callable[..., Operation]
) -> None:
    config = trial(backbone="coat_lite_tiny", resolution=32)
    assert train(config, operation=operation(), report=lambda _: None, until_epoch=1).state is TrialState.PAUSED
    result = train(config, operation=operation(), report=lambda _: None)
    assert result.state is TrialState.COMPLETE
    network, _, _ = assembly.load_network(operation().trial_folder / str(result.checkpoint))
    assert torch.isfinite(network(torch.zeros(1, 1, 32, 32, dtype=torch.uint8))).all()
