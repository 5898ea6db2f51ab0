import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from datasets import sources
from datasets.errors import DatasetError
from trainers import assembly, checkpoint, checkpoint_files
from trainers.attempt import Attempt
from trainers.evaluation.redraws import Bootstrap
from trainers.evaluation.run import evaluate
from trainers.evaluation.winner import Asked, evaluate_winner
from trainers.loop import Training
from trainers.recipes import Recipe
from trainers.seeding import derive, draws_at
from trainers.train import train
from trainers.trial import EpochMetrics, Operation, TrialConfig, TrialError, TrialResult, TrialState

Trials = Callable[..., TrialConfig]
Operations = Callable[..., Operation]


def test_a_trial_trains_is_scored_and_rebuilt_from_its_checkpoint(trial: Trials, operation: Operations) -> None:
    config, where, told = trial(), operation(), []
    result = train(config, operation=where, report=told.append)
    assert result.state is TrialState.COMPLETE
    assert [event.epoch for event in told] == [1, 2]
    assert {"train/loss", "val/loss", "val/auroc/macro"} <= set(told[0].metrics)
    assert set(told[0].undefined) & set(told[0].metrics) == set()
    assert result.best_value == max(event.metrics["val/auroc/macro"] for event in told)
    best = where.trial_folder / str(result.checkpoint)
    assert checkpoint.sha256(best / checkpoint.NETWORK) == result.checkpoint_sha256
    for key in ("input_size", "images_per_second", "train_seconds", "forward_flops_per_image", "peak_memory_bytes"):
        assert result.record[key], key
    scores = evaluate(config, operation=where, checkpoint_folder=best, partition="val")
    metrics = {f"val/{k}": v for k, v in _task_metrics(scores).items()}
    assert metrics["val/auroc/macro"] == pytest.approx(result.best_value)
    assert not set(scores.table.columns) & {"path", "age"}
    network, _, pathologies = assembly.load_network(best)
    assert network(torch.zeros(1, 1, 64, 64, dtype=torch.uint8)).shape == (1, len(pathologies))


def _task_metrics(scores) -> dict[str, float | None]:
    from trainers import tasks

    return dict(tasks.load("multilabel").metrics(scores.scores, scores.labels, scores.pathologies))


def _graded(trial: Trials, **settings: Any) -> TrialConfig:
    """A trial on the same films, more of them for validation: every AUROC is defined, and rarely 0 or 1."""
    return trial(dataset=trial().dataset.model_copy(update={"validation_fraction": 0.4}), **settings)


def test_pausing_and_going_on_tells_the_same_events_again(trial: Trials, operation: Operations) -> None:
    config, first, second, third = trial(), [], [], []
    paused = train(config, operation=operation(), report=first.append, until_epoch=1)
    assert (paused.state, paused.epochs) == (TrialState.PAUSED, 1)
    ended = train(config, operation=operation(), report=second.append)
    assert ended.state is TrialState.COMPLETE
    assert second[0] == first[0]  # the same timestamp too
    again = train(config, operation=operation(), report=third.append)
    assert third == second and again == ended
    whole: list[EpochMetrics] = []
    train(config, operation=operation("whole"), report=whole.append)
    assert [event.metrics for event in whole] == [event.metrics for event in second]


def test_data_that_changed_since_the_study_looked_at_them_are_refused(trial: Trials, operation: Operations) -> None:
    """A trial comes back to its data at every rung: it must not go on under other labels."""
    config, where = trial(), operation()
    fingerprint = sources.load(config.dataset, where.data_root).fingerprint
    known = where.model_copy(update={"fingerprint": fingerprint})
    ended = train(config, operation=known, report=lambda _: None, until_epoch=1)
    assert ended.epochs == 1
    other = where.model_copy(update={"fingerprint": "0" * 64})
    with pytest.raises(TrialError, match="changed since the study looked at them") as refused:
        train(config, operation=other, report=lambda _: None)
    assert refused.value.kind == "data"
    best = where.trial_folder / str(ended.checkpoint)
    with pytest.raises(TrialError, match="changed since the study looked at them"):
        evaluate(config, operation=other, checkpoint_folder=best, partition="test")


def test_a_paused_trial_whose_resume_state_was_dropped_begins_anew(trial: Trials, operation: Operations) -> None:
    config, first, second = trial(), [], []
    train(config, operation=operation(), report=first.append, until_epoch=1)
    checkpoint_files.drop_resume_state(operation().trial_folder)
    assert train(config, operation=operation(), report=second.append).state is TrialState.COMPLETE
    assert [event.metrics for event in second[:1]] == [event.metrics for event in first]
    checkpoint_files.drop_resume_state(operation().trial_folder)
    again: list[EpochMetrics] = []
    assert train(config, operation=operation(), report=again.append).state is TrialState.COMPLETE
    assert again == second  # told from its history


def test_what_the_last_checkpoint_replaced_goes_though_its_attempt_was_killed_before(
    trial: Trials, operation: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = trial(), operation().trial_folder
    with monkeypatch.context() as killed:
        killed.setattr(checkpoint, "settle", lambda *_, **__: None)
        train(config, operation=operation(), report=lambda _: None)
    assert len(list(folder.glob("last-*"))) == config.recipe.epochs
    ended = train(config, operation=operation(), report=lambda _: None)
    assert sorted(path.name.split("-0")[0] for path in folder.iterdir()) == ["best", "last"]
    assert (folder / str(ended.checkpoint)).is_dir()


def test_another_configuration_does_not_take_over_a_folder(trial: Trials, operation: Operations) -> None:
    train(trial(), operation=operation(), report=lambda _: None, until_epoch=1)
    with pytest.raises(TrialError, match="another configuration"):
        train(trial(seed=1), operation=operation(), report=lambda _: None)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_gradient_that_is_not_finite_is_not_stepped_on(
    trial: Trials, operation: Operations, monkeypatch: pytest.MonkeyPatch, clip: float | None
) -> None:
    """The loss may be a number and its gradient none."""
    weights: list[torch.Tensor] = []

    def broken(training: Training, *_: object, **__: object) -> torch.Tensor:
        for parameter in training.network.parameters():
            parameter.grad = torch.full_like(parameter, float("nan"))
        weights.extend(training.network.parameters())
        return torch.zeros((), dtype=torch.float64)

    monkeypatch.setattr(Training, "_gradients", broken)
    with pytest.raises(TrialError, match="the gradient's norm is nan at epoch 1, step 1") as raised:
        train(trial(recipe={"gradient_clip": clip}), operation=operation(), report=lambda _: None)
    assert raised.value.kind == "non_finite"
    assert all(torch.isfinite(weight).all() for weight in weights)


def test_a_non_finite_loss_names_epoch_and_step(trial: Trials, operation: Operations) -> None:
    config = trial(recipe={"learning_rate": 1e30, "optimizer": "sgd", "gradient_clip": None, "warmup_epochs": 0})
    with pytest.raises(TrialError, match=r"at epoch 1, step \d+|after epoch 1") as raised:
        train(config, operation=operation(), report=lambda _: None)
    assert raised.value.kind == "non_finite"


def test_early_stopping(trial: Trials, operation: Operations) -> None:
    # With a learning rate that changes nothing, the first epoch stays the best.
    config = trial(recipe={"epochs": 9, "patience": 2, "learning_rate": 1e-30, "weight_decay": 0.0})
    result = train(config, operation=operation(), report=lambda _: None)
    assert (result.epochs, result.best_epoch, result.state) == (3, 1, TrialState.COMPLETE)


@pytest.mark.parametrize("selection", ["primary", "loss"])
def test_patience_counts_by_the_primary_metric_whatever_selects_the_best_epoch(
    trial: Trials, operation: Operations, monkeypatch: pytest.MonkeyPatch, selection: str
) -> None:
    loss, auroc = iter([5.0, 4.0, 3.0, 2.0, 1.0, 0.9]), iter([0.7, 0.8, 0.8, 0.7, 0.9, 0.9])
    monkeypatch.setattr(Attempt, "_validate", lambda _: ({"val/loss": next(loss), "val/auroc/macro": next(auroc)}, ()))
    result = train(
        trial(recipe={"epochs": 6, "patience": 2, "selection": selection}), operation=operation(), report=lambda _: None
    )
    # 0.8 of epoch 2 is not exceeded in epochs 3 and 4, though the loss still falls
    assert (result.epochs, result.best_epoch) == (4, 2 if selection == "primary" else 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "vit_bse"}, "did you mean vit_base"),
        ({"backbone": "tf_eficientnet_lite0"}, "did you mean tf_efficientnet_lite0 or tf_efficientnet_lite[1-4] or"),
        ({"initialization": "dinov2", "backbone": "convnext_base"}, "no such weights exist"),
        ({"adaptation": "lora", "backbone": "tf_efficientnet_lite0"}, "lora is defined for ViT and ConvNeXt"),
        ({"adaptation": "ful"}, "existing: finetune"),
        ({"recipe": {"augmentation": "strnog"}}, "unknown augmentation 'strnog'.*one of none, flip"),
    ],
)
def test_impossible_trials_say_why(trial: Trials, operation: Operations, settings: dict, message: str) -> None:
    with pytest.raises(TrialError, match=message) as raised:
        train(trial(**settings), operation=operation(), report=lambda _: None)
    assert raised.value.kind == "configuration"


@pytest.mark.parametrize("adaptation", ["probe", "probe_mlp", "knn"])
def test_probes_share_features_and_are_scored_from_the_store(
    trial: Trials, operation: Operations, adaptation: str
) -> None:
    config = _graded(trial, adaptation=adaptation, recipe={"learning_rate": 1e-2})
    told: list[EpochMetrics] = []
    result = train(config, operation=operation(), report=told.append)
    stores = list((operation().cache / "features").glob("*/features.f32"))
    assert stores
    written = {store: store.stat().st_mtime_ns for store in stores}
    train(config.model_copy(update={"adaptation": "probe"}), operation=operation("other"), report=lambda _: None)
    assert {store: store.stat().st_mtime_ns for store in stores} == written
    _check_evaluated_as_told(config, operation(), result, told)


def _check_evaluated_as_told(
    config: TrialConfig, where: Operation, result: TrialResult, told: list[EpochMetrics]
) -> None:
    """The best checkpoint is scored with every metric that its epoch reported, and these tell weights apart."""
    best = where.trial_folder / str(result.checkpoint)
    metrics = _task_metrics(evaluate(config, operation=where, checkpoint_folder=best, partition="val"))
    reported = told[(result.best_epoch or 0) - 1].metrics
    assert metrics == {name: pytest.approx(reported[f"val/{name}"], abs=1e-6) for name in metrics}
    assert 0 < reported["val/auroc/macro"] < 1
    assert result.best_value == reported["val/auroc/macro"]


@pytest.mark.parametrize("backbone", ["test_convnext2", "test_vit"])
def test_lora_leaves_the_encoder_as_it_was(trial: Trials, operation: Operations, backbone: str) -> None:
    config = trial(adaptation="lora", backbone=backbone, recipe={"epochs": 1, "learning_rate": 1e-2})
    train(config, operation=operation(), report=lambda _: None)
    last = checkpoint.find_last(operation().trial_folder)
    assert last is not None
    trained = checkpoint.read_tensors(last, "network")
    fresh = assembly.build_network(config, ["a", "b", "c", "d"], weights=None).state_dict()
    changed = {name for name, value in fresh.items() if not torch.equal(value, trained[name])}
    assert changed
    assert all("lora_" in name or name.startswith("head.") for name in changed)


def test_moving_average_is_what_is_kept(trial: Trials, operation: Operations, monkeypatch: pytest.MonkeyPatch) -> None:
    auroc = iter([0.7, 0.8])
    monkeypatch.setattr(Attempt, "_validate", lambda _: ({"val/loss": 1.0, "val/auroc/macro": next(auroc)}, ()))
    result = train(trial(recipe={"ema": 0.5}), operation=operation(), report=lambda _: None)
    assert result.best_epoch == 2  # whose average the last checkpoint holds
    last = checkpoint.find_last(operation().trial_folder)
    assert last is not None
    average, trained = (checkpoint.read_tensors(last, stem) for stem in ("average", "network"))
    kept = checkpoint.read_tensors(operation().trial_folder / str(result.checkpoint), "network")
    assert kept.keys() == average.keys() == trained.keys()
    assert all(torch.equal(kept[name], average[name]) for name in kept)
    assert any(not torch.equal(kept[name], trained[name]) for name in kept)


def test_with_a_moving_average_the_metrics_are_those_of_the_weights_that_are_kept(
    trial: Trials, operation: Operations
) -> None:
    told: list[EpochMetrics] = []
    config = _graded(trial, recipe={"ema": 0.99, "learning_rate": 1e-2})
    result = train(config, operation=operation(), report=told.append)
    _check_evaluated_as_told(config, operation(), result, told)


def test_learning_rate_follows_warm_up_and_cosine() -> None:
    from trainers.optim import rate_factor

    recipe = Recipe(epochs=4, warmup_epochs=1)
    factors = [rate_factor(step, steps_per_epoch=10, recipe=recipe) for step in range(40)]
    assert factors[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert factors[10] == 1.0
    assert factors[25] == pytest.approx(0.5 * (1 + math.cos(math.pi * 15 / 30)))
    assert factors[-1] < 0.01
    paper = Recipe(name="paper")
    assert {rate_factor(step, steps_per_epoch=10, recipe=paper) for step in range(300)} == {1.0}


def test_layer_decay_lowers_the_rate_towards_the_input(trial: Trials) -> None:
    from trainers.optim import parameter_groups

    network = assembly.build_network(trial(), ["a"], weights=None)
    groups = parameter_groups(network, Recipe(layer_decay=0.5))
    scales = {group["lr_scale"] for group in groups}
    assert max(scales) == 1.0 and min(scales) < 0.1
    counted = sum(parameter.numel() for group in groups for parameter in group["params"])
    assert counted == sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("backbone", "last"),
    [("vit_tiny", "blocks.11."), ("convnext_tiny", "stages.3.blocks.2."), ("resnet18", "layer4.1.")],
)
def test_the_head_has_the_whole_rate_and_the_last_block_one_step_less(trial: Trials, backbone: str, last: str) -> None:
    from trainers.optim import parameter_groups

    with torch.device("meta"):
        network = assembly.build_network(trial(backbone=backbone), ["a"], weights=None, load=False)
    scale = {id(p): g["lr_scale"] for g in parameter_groups(network, Recipe(layer_decay=0.65)) for p in g["params"]}
    of_head = {scale[id(parameter)] for parameter in network.head.parameters()}
    of_last = {scale[id(p)] for name, p in network.encoder.body.named_parameters() if name.startswith(last)}
    assert (of_head, of_last) == ({1.0}, {0.65})


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", "convnext_atto", "resnet18", "mobilenetv3_small_050", "efficientvit_b0", "test_vit3"],
)
def test_layers_have_the_rates_that_timm_gives_them_under_its_own_classifier(name: str) -> None:
    """Of some networks what stands after the last block is a layer with the classifier, of others it has its own."""
    from trainers.timm_networks import layer_groups, param_groups_layer_decay, timm

    with torch.device("meta"):
        whole, body = (timm.create_model(name, pretrained=False, num_classes=classes) for classes in (5, 0))
    of_timm = {id(p): g["lr_scale"] for g in param_groups_layer_decay(whole, layer_decay=0.5) for p in g["params"]}
    groups = layer_groups(body, weight_decay=0.1, layer_decay=0.5)
    ours = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    expected = {key: of_timm[id(parameter)] for key, parameter in whole.named_parameters()}
    assert all(ours[id(parameter)] == expected[key] for key, parameter in body.named_parameters())


# The network's mean and std are 0.5, a grey of 51 is 0.2: (0.2 - 0.5) / 0.5 = -0.6.
@pytest.mark.parametrize(("preprocessing", "fed"), [("standard", -0.6), ("paper", 0.2)])
def test_the_papers_preprocessing_feeds_grey_as_it_is_and_others_normalise_it(
    trial: Trials, operation: Operations, preprocessing: str, fed: float
) -> None:
    config = trial(dataset=trial().dataset.model_copy(update={"preprocessing": preprocessing}), recipe={"epochs": 1})
    result = train(config, operation=operation(), report=lambda _: None)
    rebuilt, _, _ = assembly.load_network(operation().trial_folder / str(result.checkpoint))
    for network in (assembly.build_network(config, ["a"], weights=None), rebuilt):
        assert network.encoder.mean == network.encoder.std == (0.5, 0.5, 0.5)
        prepared = network.prepare(torch.full((1, 1, 64, 64), 51, dtype=torch.uint8))
        assert torch.allclose(prepared, torch.full((1, 3, 64, 64), fed))


def test_draws_depend_on_the_place_alone_and_leave_the_callers_generator() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    with draws_at(3, "step", 2):
        here = torch.rand(1)
    assert torch.equal(torch.rand(1), expected)
    with draws_at(3, "step", 2):
        assert torch.equal(torch.rand(1), here)
    assert derive(1, 23) != derive(12, 3)


def test_errors_travel_between_processes() -> None:
    error = copy.copy(TrialError("weights", "no such file"))  # by the same protocol as pickling
    assert (error.kind, str(error)) == ("weights", "no such file")


def test_external_data_are_scored_on_the_pathologies_both_have(trial: Trials, operation: Operations) -> None:
    config = trial(recipe={"epochs": 1})
    result = train(config, operation=operation(), report=lambda _: None)
    other = config.dataset.model_copy(update={"options": {"patients": 16, "size": 64, "seed": 5}})
    best = operation().trial_folder / str(result.checkpoint)
    scores = evaluate(
        config.model_copy(update={"dataset": other}), operation=operation(), checkpoint_folder=best, partition="test"
    )
    assert len(scores.table) > 0 and scores.pathologies
    assert set(scores.table["partition"]) == {"test"}


def test_external_data_of_the_training_are_refused_before_anything_is_scored(
    trial: Trials, operation: Operations, tmp_path: Path
) -> None:
    config = trial(recipe={"epochs": 1})
    result = train(config, operation=operation(), report=lambda _: None)
    best = operation().trial_folder / str(result.checkpoint)

    def look(name: str) -> dict[str, object]:
        other = config.model_copy(update={"dataset": config.dataset.model_copy(update={"name": name})})
        asked = Asked(Bootstrap(redraws=10), external={name: (other, operation())})
        return evaluate_winner(
            config, operation=operation(), checkpoint_folder=best, folder=tmp_path / "winner", asked=asked
        )

    with pytest.raises(DatasetError, match="phantom is not external to phantom"):
        look("phantom")
    assert not (tmp_path / "winner").exists()
    assert look("other_phantom")["external"]


def test_the_best_epoch_is_chosen_by_metric_or_by_loss(trial: Trials, operation: Operations) -> None:
    chosen = {}
    for selection, metric, choose in (("primary", "val/auroc/macro", max), ("loss", "val/loss", min)):
        told: list[EpochMetrics] = []
        config = _graded(trial, seed=2, recipe={"epochs": 4, "selection": selection, "learning_rate": 1e-2})
        result = train(config, operation=operation(selection), report=told.append)
        values = [event.metrics[metric] for event in told]
        chosen[selection] = result.best_epoch
        assert len(set(values)) == 4
        assert result.best_epoch == 1 + values.index(choose(values))
        assert result.best_value == told[result.best_epoch - 1].metrics["val/auroc/macro"]
    assert chosen["primary"] != chosen["loss"]
