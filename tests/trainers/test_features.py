import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from trainers import assembly, features
from trainers.material import open_images
from trainers.neighbours import NeighboursHead
from trainers.trial import Operation, TrialConfig

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


def test_neighbours_vote_by_similarity_over_the_labels_that_are_given() -> None:
    head = NeighboursHead(2, 2)
    labels = torch.tensor([[1.0, torch.nan], [0.0, torch.nan]])
    head.fit(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), labels)
    shares = head(torch.tensor([[2.0, 0.0], [1.0, 1.0]])).sigmoid()
    # similarity 1 and 0: e^(1/0.07) to 1; equal similarities: one half; no neighbour has the second label: one half
    assert shares[0, 0] > 0.999
    assert shares[1, 0] == pytest.approx(0.5)
    assert np.allclose(shares[:, 1], 0.5)
