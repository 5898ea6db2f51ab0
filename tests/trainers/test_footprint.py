"""What a trial wants of memory, held against the network itself."""

import pytest
import torch

from trainers import assembly, large_weights, memory_model
from trainers.footprint import footprint
from trainers.trial import TrialConfig

TARGETS = 3


def trial(adaptation="finetune", **recipe):
    return TrialConfig.model_validate(
        {
            "dataset": {"name": "phantom", "source": "phantom"},
            "initialization": "random",
            "backbone": "test_vit3",
            "resolution": 32,
            "adaptation": adaptation,
            "recipe": {"name": "modern", "epochs": 1, "batch_size": 8, "precision": "fp32", **recipe},
        }
    )


def parameters(config, part=lambda network: network):
    network = assembly.build_network(config, [str(n) for n in range(TARGETS)], weights=None)
    return sum(parameter.numel() for parameter in part(network).parameters())


@pytest.mark.parametrize(
    ("recipe", "copies"),
    [
        ({"optimizer": "adamw"}, 4),  # weights, gradients, two moments
        ({"optimizer": "sgd"}, 3),
        ({"optimizer": "adamw", "ema": 0.99}, 5),
    ],
)
def test_training_holds_weights_gradients_the_optimizer_s_state_and_the_average(recipe, copies):
    config = trial(**recipe)
    assert footprint(config, TARGETS).fixed == 4 * copies * parameters(config)


def test_activations_grow_with_the_batch_and_halve_in_bfloat16():
    found, larger, halved = (
        footprint(trial(**more), TARGETS) for more in ({}, {"batch_size": 24}, {"precision": "bf16"})
    )
    assert found.per_image > 0 and not found.shared
    assert found.batch == 8 * found.per_image
    assert larger.batch == 3 * found.batch
    assert halved.per_image == found.per_image // 2


def test_a_probe_holds_its_frozen_encoder_in_bfloat16_and_its_features_in_main_memory():
    config = trial("probe")
    found = footprint(config, TARGETS)
    network = assembly.build_network(config, ["a"], weights=None)
    assert found.shared and found.batch == 0
    assert found.fixed == 2 * parameters(config, lambda network: network.encoder)
    assert found.stored == 4 * network.encoder.width


@pytest.mark.parametrize(("large", "bytes_each"), [(10**12, 8), (1, 2)])
@pytest.mark.parametrize("adaptation", ["finetune", "probe"])
def test_a_network_is_in_main_memory_twice_while_it_is_loaded_and_a_large_one_once(
    monkeypatch, adaptation, large, bytes_each
):
    """Created and read; from `large_weights.LARGE` on it takes over the file's tensors, in bfloat16."""
    monkeypatch.setattr(large_weights, "LARGE", large)
    config = trial(adaptation)
    assert footprint(config, TARGETS).host == bytes_each * parameters(config, lambda network: network.encoder)


@pytest.mark.parametrize("backbone", ["test_vit3", "tf_efficientnet_lite0"])
def test_an_image_takes_what_autograd_keeps_of_it_in_a_real_network_that_trains(backbone):
    config = trial().model_copy(update={"backbone": backbone, "resolution": 64})
    network = assembly.build_network(config, [str(n) for n in range(TARGETS)], weights=None).train()
    kept = memory_model.kept(network, torch.zeros(16, 1, 64, 64))
    assert footprint(config, TARGETS).per_image == pytest.approx(kept / 16, rel=0.05)
