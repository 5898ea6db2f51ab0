"""Every setting of a recipe reaches the training."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from datasets.transforms import AUGMENTATIONS, Augmentation
from trainers import adaptations, assembly, checkpoint, optim, tasks
from trainers.attempt import Attempt
from trainers.loop import Training
from trainers.masked_bce import positive_weights
from trainers.micro_batch import MicroBatch
from trainers.recipes import Recipe
from trainers.train import open_material, prepare_attempt, train
from trainers.trial import Operation, TrialConfig

Trials = Callable[..., TrialConfig]
Operations = Callable[..., Operation]
CPU = assembly.Place(torch.device("cpu"))
PLAIN = Recipe(epochs=3, batch_size=16, warmup_epochs=0.5, learning_rate=1e-3).model_dump()
OTHER = {
    "name": "paper", "epochs": 2, "batch_size": 8, "optimizer": "adam", "learning_rate": 0.01, "weight_decay": 0.5,
    "schedule": "constant", "warmup_epochs": 0.0, "precision": "fp32", "gradient_clip": 0.01, "positive_weight": True,
    "augmentation": "none", "ema": 0.5, "layer_decay": 0.5, "pooling": "all_tokens", "selection": "loss",
    "dropout": 0.5, "patience": 1,
}  # fmt: skip
WITHOUT_EFFECT = {
    "name": "only gives the defaults of settings that are not given",
    "precision": "the CPU computes in fp32 either way",
}


@pytest.fixture(scope="module")
def plain() -> dict[str, bytes]:
    """The weights that PLAIN gives, by adaptation: trained once."""
    return {}


@pytest.mark.parametrize(
    ("adaptation", "setting"),
    [
        pytest.param(name, setting, marks=[pytest.mark.slow] if name == "lora" else [])
        for name in adaptations.names()
        for setting in Recipe.model_fields
        if setting not in adaptations.load(name).ignores
    ],
)
def test_a_setting_that_is_not_ignored_changes_the_weights(
    trial: Trials,
    operation: Operations,
    monkeypatch: pytest.MonkeyPatch,
    plain: dict[str, bytes],
    adaptation: str,
    setting: str,
) -> None:
    assert setting in OTHER, f"a new setting needs another value than its default: add {setting} to OTHER"

    def weights(**changed: Any) -> bytes:
        # The metric is best after the first epoch, the loss after the last.
        values = iter([(3.0, 0.9), (2.0, 0.8), (1.0, 0.7)])
        names = ("val/loss", "val/auroc/macro")
        monkeypatch.setattr(Attempt, "_validate", lambda _: (dict(zip(names, next(values), strict=True)), ()))
        recipe = {**PLAIN, **changed}
        config = trial(adaptation=adaptation, backbone="test_vit", resolution=32, recipe=recipe)
        return _trained_and_kept(config, operation("other" if changed else "plain"))

    if adaptation not in plain:
        plain[adaptation] = weights()
    assert (weights(**{setting: OTHER[setting]}) == plain[adaptation]) is (setting in WITHOUT_EFFECT)


def _trained_and_kept(config: TrialConfig, where: Operation) -> bytes:
    """Return the weights after the last epoch, and those of the best one."""
    result = train(config, operation=where, report=lambda _: None)
    folders = [checkpoint.find_last(where.trial_folder), where.trial_folder / str(result.checkpoint)]
    states = [checkpoint.read_tensors(folder, "network") for folder in folders if folder is not None]
    assert all(states)
    return b"".join(state[name].numpy().tobytes() for state in states for name in sorted(state))


def test_the_papers_recipe_is_that_of_its_code() -> None:
    """As tayebiarasteh/vit-med and chestx have it; epochs and learning rate of the final runs are not published.

    Adam without weight decay, schedule, warm-up or clipping; strict FP32; BCE weighted by negatives / positives;
    horizontal flip and ±7°; the mean over all tokens; the epoch of the lowest validation loss.
    """
    free = {"epochs", "batch_size", "learning_rate"}
    assert Recipe.model_validate("paper").model_dump(exclude=free) == {
        "name": "paper", "optimizer": "adam", "weight_decay": 0.0, "schedule": "constant", "warmup_epochs": 0.0,
        "precision": "fp32", "gradient_clip": None, "positive_weight": True, "augmentation": "paper", "ema": None,
        "layer_decay": None, "pooling": "paper", "selection": "loss", "dropout": 0.0, "patience": None,
    }  # fmt: skip
    assert AUGMENTATIONS["paper"] == Augmentation(flip=0.5, degrees=7, nearest=True)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("adam", torch.optim.Adam, {"betas": (0.9, 0.999), "amsgrad": False, "decoupled_weight_decay": False}),
        ("adamw", torch.optim.AdamW, {"betas": (0.9, 0.999), "amsgrad": False, "decoupled_weight_decay": True}),
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "dampening": 0}),
    ],
)
def test_the_optimizer_is_the_one_that_is_named(name: str, kind: type, expected: dict[str, Any]) -> None:
    optimizer = optim.build_optimizer(nn.Linear(2, 1), Recipe(optimizer=name, learning_rate=0.3, weight_decay=0.2))
    assert type(optimizer) is kind
    matrices, vectors = optimizer.param_groups
    for group in (matrices, vectors):
        assert {key: group[key] for key in expected} == expected
        assert group["lr"] == 0.3
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.2, 0.0)


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_weights_decay_biases_norms_and_scales_do_not(trial: Trials, layer_decay: float | None) -> None:
    network = assembly.build_network(trial(), ["a", "b"], weights=None)
    groups = optim.parameter_groups(network, Recipe(weight_decay=0.2, layer_decay=layer_decay))
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    found = {name: decay[id(parameter)] for name, parameter in network.named_parameters()}
    assert found == {name: 0.2 if parameter.ndim > 1 else 0.0 for name, parameter in network.named_parameters()}
    assert set(found.values()) == {0.0, 0.2}


CASE = torch.tensor([[6.0, 8.0]], dtype=torch.float64)
LABELS = torch.tensor([[0.0]], dtype=torch.float64)


def _linear(**settings: Any) -> Training:
    """One case (6, 8) is negative and its score 1/2: the gradient is (3, 4), of norm 5."""
    network = nn.Linear(2, 1, bias=False).double()
    nn.init.zeros_(network.weight)
    recipe = Recipe(**{"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.0, "warmup_epochs": 0.0, **settings})
    task = tasks.load("multilabel")
    return Training(
        network=network,
        optimizer=optim.build_optimizer(network, recipe),
        task=task,
        loss=task.loss(LABELS.numpy(), recipe),
        recipe=recipe,
        device=CPU.device,
        steps_per_epoch=10,
        seed=0,
        micro_batch=MicroBatch(None),
    )


@pytest.mark.parametrize(
    ("clip", "gradient"),
    [(None, (3.0, 4.0)), (10.0, (3.0, 4.0)), (1.0, (0.6, 0.8)), (0.5, (0.3, 0.4))],
)
def test_a_gradient_is_clipped_to_its_norm(clip: float | None, gradient: tuple[float, float]) -> None:
    training = _linear(gradient_clip=clip)
    training.step(CASE, LABELS, epoch=0, index=0)
    # Nesterov's first step: the gradient and 0.9 of it
    expected = [-0.1 * 1.9 * value for value in gradient]
    assert training.network.weight[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_a_step_draws_by_seed_epoch_and_place_alone() -> None:
    """However often it is repeated, and whatever was drawn before; no two steps share their masks."""
    training = _linear(learning_rate=1e-30)
    linear = nn.Linear(64, 1, bias=False).double()
    nn.init.constant_(linear.weight, 0.01)
    training.network = nn.Sequential(nn.Dropout(0.5), linear)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 64, generator=generator, dtype=torch.float64)
    losses = {}
    for seed in (0, 1):
        training.seed = seed
        for epoch, index in ((0, 0), (0, 1), (1, 0), (1, 1)):
            losses[seed, epoch, index], again = (training.step(images, LABELS, epoch=epoch, index=index) for _ in "ab")
            assert again == losses[seed, epoch, index]
    assert len(set(losses.values())) == len(losses)


def test_a_batch_without_any_label_teaches_nothing() -> None:
    training = _linear()
    assert training.step(CASE, torch.full_like(LABELS, torch.nan), epoch=0, index=0) == 0.0
    assert training.network.weight[0].tolist() == [0.0, 0.0]
    unlabelled = (CASE, torch.full_like(LABELS, torch.nan), torch.zeros(1))
    assert training.predict([unlabelled])[1] == 0.0
    # the score 1/2 of a negative costs log 2; a case without a label does not thin that out
    assert training.predict([(CASE, LABELS, torch.zeros(1)), unlabelled])[1] == pytest.approx(np.log(2))


def test_the_moving_average_is_what_is_evaluated() -> None:
    training = _linear(ema=0.75, gradient_clip=None)
    training.average = {name: value.clone() for name, value in training.network.state_dict().items()}
    training.step(CASE, LABELS, epoch=0, index=0)
    weight = [-0.1 * 1.9 * 3, -0.1 * 1.9 * 4]
    scores, loss = training.predict([(CASE, LABELS, torch.zeros(1))])
    logit = (1 - 0.75) * (6 * weight[0] + 8 * weight[1])  # three quarters of the average are the zeros before
    assert scores.tolist() == [[pytest.approx(1 / (1 + np.exp(-logit)))]]
    assert loss == pytest.approx(np.log(1 + np.exp(logit)))
    assert training.network.weight[0].tolist() == pytest.approx(weight)


@pytest.mark.parametrize("asked", [False, True])
def test_positives_weigh_as_the_train_partition_has_them(trial: Trials, operation: Operations, asked: bool) -> None:
    config = trial(recipe={"positive_weight": asked})
    material = open_material(config, operation(), CPU)
    loss = prepare_attempt(config, operation(), material, place=CPU).training.loss
    weights = positive_weights(material.labels[material.rows("train")])
    assert not torch.equal(weights, positive_weights(material.labels))
    # a logit of 0 costs ln 2, whether the label is 1 or 0
    assert loss.total(torch.zeros(1, 4), torch.ones(1, 4)).item() == pytest.approx(
        np.log(2) * (weights.sum().item() if asked else 4), rel=1e-6
    )
    assert loss.total(torch.zeros(1, 4), torch.zeros(1, 4)).item() == pytest.approx(np.log(2) * 4)


@pytest.mark.parametrize("adaptation", ["finetune", "probe"])
def test_dropout_stands_before_the_head(trial: Trials, operation: Operations, adaptation: str) -> None:
    config = trial(adaptation=adaptation, recipe={"dropout": 0.3})
    network = prepare_attempt(config, operation(), open_material(config, operation(), CPU), place=CPU).training.network
    head = network if adaptation == "probe" else network.head
    assert [type(layer) for layer in head] == [nn.Dropout, nn.Linear]
    assert head[0].p == 0.3


@pytest.mark.parametrize("adaptation", ["finetune", "probe"])
def test_another_seed_shows_other_inputs_in_another_order(
    trial: Trials, operation: Operations, adaptation: str
) -> None:
    def epoch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        batches = open_material(trial(adaptation=adaptation, seed=seed), operation(), CPU).train(0, start=0)
        inputs, _, rows = (torch.cat(parts) for parts in zip(*batches, strict=True))
        return rows, inputs[rows.argsort()]

    (rows, inputs), (other_rows, other_inputs) = epoch(0), epoch(1)
    assert sorted(rows.tolist()) == sorted(other_rows.tolist())
    assert not torch.equal(rows, other_rows)
    assert not torch.equal(inputs, other_inputs)
