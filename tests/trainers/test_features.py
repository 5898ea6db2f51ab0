import dataclasses
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from datasets.cleaning import stores
from datasets.dataset_config import DatasetConfig
from trainers import adaptations, assembly, cells, checkpoint, features, pretrained
from trainers.evaluation.auroc import auroc
from trainers.evaluation.run import evaluate
from trainers.material import open_images
from trainers.neighbours import NeighboursHead
from trainers.network_plan import NetworkPlan
from trainers.timm_networks import TimmNetwork
from trainers.train import train
from trainers.trial import Operation, TrialConfig, TrialError

Trials = Callable[..., TrialConfig]
Operations = Callable[..., Operation]
CPU = assembly.Place(torch.device("cpu"))


def test_of_trials_that_need_the_same_features_one_computes_and_the_others_wait(
    trial: Trials, operation: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed, original = [], features.compute

    def slow(*arguments: Any, **settings: Any) -> None:
        computed.append(1)
        time.sleep(0.3)
        original(*arguments, **settings)

    monkeypatch.setattr(features, "compute", slow)
    config = trial(adaptation="probe", seed=77)  # a random encoder of its own
    with ThreadPoolExecutor(3) as pool:
        tasks = [pool.submit(features.open_features, config, operation(), place=CPU) for _ in range(3)]
        opened = [task.result() for task in tasks]
    assert len(computed) == 1
    assert all(torch.equal(opened[0].inputs, other.inputs) for other in opened)


def test_stored_features_are_the_networks(trial: Trials, operation: Operations) -> None:
    config = trial(adaptation="probe")
    material = features.open_features(config, operation(), place=CPU)
    network = assembly.build_network(config, material.pathologies, weights=None).eval()
    images = open_images(config, operation())
    rows = images.rows("val")[:5]
    with torch.no_grad():
        expected = network.features(torch.from_numpy(images.cache.pixels[rows])[:, None])
    assert torch.allclose(material.inputs[rows], expected, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [{"resolution": 96}, {"backbone": "test_vit"}, {"seed": 5}, {"recipe": {"pooling": "all_tokens"}}],
)
def test_whatever_decides_about_features_is_in_their_key(trial: Trials, operation: Operations, change: dict) -> None:
    one, other = trial(adaptation="probe"), trial(adaptation="probe", **change)
    keys = {features.feature_key(config, open_images(config, operation())) for config in (one, other)}
    assert len(keys) == 2
    same = one.model_copy(update={"adaptation": "knn", "recipe": one.recipe.model_copy(update={"learning_rate": 1.0})})
    assert features.feature_key(same, open_images(same, operation())) in keys


def _weights(path: Path, seed: int) -> None:
    import timm

    torch.manual_seed(seed)
    save_file(timm.create_model("test_vit3", num_classes=0, img_size=64).state_dict(), path)


@pytest.mark.parametrize("largest", [pretrained.LARGEST_HASHED, 0], ids=["hashed", "too large to hash"])
def test_a_weights_file_that_was_overwritten_gives_features_of_its_own(
    trial: Trials, operation: Operations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int
) -> None:
    monkeypatch.setattr(pretrained, "LARGEST_HASHED", largest)
    config = trial(adaptation="probe", backbone="test_vit3", initialization=f"file:{tmp_path / 'w.safetensors'}")
    opened = []
    for seed in (1, 2):
        _weights(tmp_path / "w.safetensors", seed)
        opened.append(features.open_features(config, operation(), place=CPU))
        elsewhere = operation().model_copy(update={"cache": tmp_path / f"nothing stored {seed}"})
        fresh = features.open_features(config, elsewhere, place=CPU)
        assert torch.equal(opened[-1].inputs, fresh.inputs)
        assert opened[-1].described["weights"] == fresh.described["weights"]
    assert not torch.equal(opened[0].inputs, opened[1].inputs)


def test_a_head_is_not_put_on_weights_that_came_after_it(trial: Trials, operation: Operations, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    config = trial(adaptation="probe", backbone="test_vit3", initialization=f"file:{file}", recipe={"epochs": 1})
    _weights(file, 1)
    result = train(config, operation=operation(), report=lambda _: None)
    best = operation().trial_folder / str(result.checkpoint)
    _weights(file, 2)
    message = r"w.safetensors is not the file that this head was trained on: sha256 \w{12}…, was \w{12}…"
    with pytest.raises(TrialError, match=message):
        evaluate(config, operation=operation(), checkpoint_folder=best, partition="val")
    with pytest.raises(TrialError, match=message):
        assembly.load_network(best)


def test_a_checkpoint_is_pooled_as_it_was_trained(trial: Trials, operation: Operations) -> None:
    config = trial(adaptation="probe", backbone="test_vit", resolution=160, recipe={"epochs": 1})
    result = train(config, operation=operation(), report=lambda _: None)
    best = operation().trial_folder / str(result.checkpoint)
    described = best / checkpoint.TRIAL
    told = json.loads(described.read_text())
    assert told["pooling"] == assembly.load_network(best)[0].pooling == "family"
    by_family = evaluate(config, operation=operation(), checkpoint_folder=best, partition="val").scores
    described.write_text(json.dumps({**told, "pooling": "all_tokens"}))  # as another version read the same recipe
    assert assembly.load_network(best)[0].pooling == "all_tokens"
    by_tokens = evaluate(config, operation=operation(), checkpoint_folder=best, partition="val").scores
    assert not np.allclose(by_family, by_tokens)


def test_pathologies_are_those_of_the_trial_and_not_of_the_one_that_filled_the_store(
    trial: Trials, tmp_path: Path
) -> None:
    """The store's key has no labels in it: trials with other pathologies, or in another order, share its features."""
    rng = np.random.default_rng(0)
    rows = ["path,patient,mass,edema"]
    for number in range(80):
        mass, edema = rng.integers(0, 2, 2)
        picture = rng.integers(0, 60, (64, 64))
        picture[:32] += 120 * mass
        picture[:, :32] += 70 * edema
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture.astype(np.uint8))
        rows.append(f"{number}.png,p{number},{mass},{edema}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    for findings in (["mass", "edema"], ["edema", "mass"]):
        options = {"findings": findings}
        data = DatasetConfig(name="ours", source="csv", validation_fraction=0.4, options=options)
        config = trial(dataset=data, adaptation="probe", recipe={"epochs": 3, "learning_rate": 0.1})
        folder = tmp_path / "-".join(findings)
        own = Operation(data_root=tmp_path, cache=tmp_path / "cache", trial_folder=folder)
        told: list[Any] = []
        result = train(config, operation=own, report=told.append)
        best = folder / str(result.checkpoint)
        scored = evaluate(config, operation=own, checkpoint_folder=best, partition="val")
        measured = told[(result.best_epoch or 0) - 1].metrics
        assert assembly.load_network(best)[2] == scored.pathologies == tuple(findings)
        for index, name in enumerate(findings):
            value = auroc(scored.labels[:, index], scored.scores[:, index])
            assert value == pytest.approx(measured[f"val/auroc/{name}"], abs=1e-6)
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 1


@pytest.mark.parametrize("name", [name for name in adaptations.names() if adaptations.load(name).ignores])
def test_what_an_adaptation_ignores_changes_nothing(trial: Trials, operation: Operations, name: str) -> None:
    others = {
        "augmentation": "none", "layer_decay": 0.5, "learning_rate": 0.5, "optimizer": "sgd", "weight_decay": 0.0,
        "schedule": "constant", "gradient_clip": None, "positive_weight": True, "ema": 0.5, "batch_size": 4,
        "dropout": 0.5, "warmup_epochs": 0.0, "epochs": 3, "patience": 2, "selection": "loss",
    }  # fmt: skip
    ignored = {setting: others[setting] for setting in adaptations.load(name).ignores}
    best = []
    for folder, recipe in (("plain", {"augmentation": "paper"}), ("other", ignored)):
        own = operation(folder)
        config = trial(adaptation=name, recipe=recipe)
        result = train(config, operation=own, report=lambda _: None)
        scored = evaluate(
            config, operation=own, checkpoint_folder=own.trial_folder / str(result.checkpoint), partition="val"
        )
        best.append(scored.scores)
    assert np.array_equal(*best)


def test_a_disk_without_room_for_the_features_is_told_as_that(
    trial: Trials, operation: Operations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    config, own = trial(adaptation="probe"), operation().model_copy(update={"cache": tmp_path / "cache"})
    shutil.copytree(operation().cache, own.cache, ignore=shutil.ignore_patterns("features"))
    with pytest.raises(OSError, match="No space left on device"):
        features.open_features(config, own, place=CPU)
    assert not list(own.cache.glob("features/*/*features.f32"))


@pytest.mark.parametrize(
    ("name", "content"), [("features.f32", bytes(1000)), ("described.json", b'{"wid'), ("features.f32", None)]
)
def test_features_that_were_cut_off_are_computed_anew(
    trial: Trials, operation: Operations, name: str, content: bytes | None
) -> None:
    config = trial(adaptation="probe")
    before = features.open_features(config, operation(), place=CPU).inputs
    folder = operation().cache / "features" / features.feature_key(config, open_images(config, operation()))
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    assert torch.equal(features.open_features(config, operation(), place=CPU).inputs, before)


def test_every_image_has_its_own_features_and_one_that_cannot_be_read_is_in_no_partition(
    trial: Trials, operation: Operations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 2 * features.offload.IMAGES + 5
    rows, readable = np.arange(count), np.arange(count) % 5 != 0
    images = SimpleNamespace(
        manifest=SimpleNamespace(pixels="made up"),
        cache=SimpleNamespace(
            readable=readable,
            pixels=np.tile(rows[:, None, None], (1, 4, 4)).astype(np.uint8),
            folder=tmp_path / "made-up",
        ),
        labels=np.zeros((count, 1), np.float32),
        pathologies=("nodule",),
        instances=pd.DataFrame({"partition": np.where(rows % 2, "train", "val")}),
        fingerprint="",
    )
    monkeypatch.setattr(features, "open_images", lambda *_: images)
    monkeypatch.setattr(
        features.offload,
        "placed",
        lambda network, *_, **__: lambda p: p[:, 0, :1, 0].float().expand(-1, network.encoder.width),
    )
    own = operation().model_copy(update={"cache": tmp_path / "cache"})
    material = features.open_features(trial(adaptation="probe"), own, place=CPU)
    assert material.inputs[:, 0].tolist() == np.where(readable, rows, 0).tolist()
    for name, odd in (("train", 1), ("val", 0)):
        assert material.rows(name).tolist() == [row for row in rows if row % 2 == odd and readable[row]]


def test_features_that_were_not_finished_leave_no_file_and_go_with_their_cache(
    trial: Trials, operation: Operations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kill leaves, as large as all features, was not known to be of any cache and stayed for ever."""
    config, own = trial(adaptation="probe"), operation().model_copy(update={"cache": tmp_path / "cache"})
    shutil.copytree(operation().cache, own.cache, ignore=shutil.ignore_patterns("features"))
    left: list[str | None] = []

    def broken(_: torch.Tensor) -> torch.Tensor:
        left.extend(store.made_from for store in stores(own.cache))
        return torch.full((1, 1), torch.nan)

    monkeypatch.setattr(features.offload, "placed", lambda *_, **__: broken)
    with pytest.raises(TrialError, match="the encoder's features of images 1 and on are not finite"):
        features.open_features(config, own, place=CPU)
    assert left == [open_images(config, own).cache.folder.name]
    assert not list(own.cache.glob("features/*/*features.f32"))


def test_weights_of_a_given_folder_are_known_by_content_those_of_the_hub_by_name(tmp_path: Path) -> None:
    plan = cells.resolve("imagenet", "vit_tiny", 224, "probe")
    assert isinstance(plan, NetworkPlan)
    assert pretrained.local_content(plan, weights=None) is None
    path = tmp_path / pretrained.file_name(plan.tag or "")
    told = set()
    for content in (b"one", b"two"):
        path.write_bytes(content)
        told.add(pretrained.local_content(plan, weights=tmp_path))
    assert told == {hashlib.sha256(content).hexdigest() for content in (b"one", b"two")}


def test_an_image_that_could_be_read_later_is_not_taken_from_a_store_without_it(
    trial: Trials, operation: Operations
) -> None:
    config = trial(adaptation="probe")
    whole = open_images(config, operation())
    readable = whole.cache.readable.copy()
    readable[3] = False
    partly = dataclasses.replace(whole, cache=dataclasses.replace(whole.cache, readable=readable))
    assert features.feature_key(config, whole) != features.feature_key(config, partly)


@pytest.mark.parametrize("adaptation", ["probe", "finetune"])
def test_a_device_that_trains_with_little_memory_also_computes_features_and_evaluates(
    trial: Trials, operation: Operations, monkeypatch: pytest.MonkeyPatch, adaptation: str
) -> None:
    """Where no gradient is kept 64 images go through at once; on this device two fit."""
    config = trial(adaptation=adaptation, seed=99, recipe={"epochs": 1, "batch_size": 2})
    original, at_once = TimmNetwork.forward, set()

    def limited(network: TimmNetwork, images: torch.Tensor, *, pooling: str = "family") -> torch.Tensor:
        if len(images) > 2:
            raise torch.OutOfMemoryError("injected")
        at_once.add(len(images))
        return original(network, images, pooling=pooling)

    monkeypatch.setattr(TimmNetwork, "forward", limited)
    given = operation(micro_batch=2 if adaptation == "finetune" else None)
    result = train(config, operation=given, report=lambda _: None)
    best = given.trial_folder / str(result.checkpoint)
    scores = evaluate(config, operation=given, checkpoint_folder=best, partition="val")
    assert 2 in at_once
    monkeypatch.setattr(TimmNetwork, "forward", original)
    whole = evaluate(config, operation=given, checkpoint_folder=best, partition="val")
    names = [name for name in whole.table if name.startswith("score")]
    assert names
    np.testing.assert_allclose(scores.table[names], whole.table[names], atol=1e-5)


def test_neighbours_vote_by_similarity_over_the_labels_that_are_given() -> None:
    head = NeighboursHead(2, 2)
    labels = torch.tensor([[1.0, torch.nan], [0.0, torch.nan]])
    head.fit(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), labels)
    shares = head(torch.tensor([[2.0, 0.0], [1.0, 1.0]])).sigmoid()
    # similarity 1 and 0: e^(1/0.07) to 1; equal similarities: one half; no neighbour has the second label: one half
    assert shares[0, 0] > 0.999
    assert shares[1, 0] == pytest.approx(0.5)
    assert np.allclose(shares[:, 1], 0.5)
