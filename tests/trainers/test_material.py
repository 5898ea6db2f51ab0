"""What a trial reads, and what of another data set its network is shown."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from trainers import assembly, checkpoint, prediction
from trainers.material import EVALUATION_BATCH, ImageMaterial, TensorMaterial
from trainers.trial import TrialConfig, TrialError


def tensors(seed: int = 0) -> TensorMaterial:
    """Twenty rows of which every second is for training; an input is its row's number."""
    return TensorMaterial(
        inputs=torch.arange(20)[:, None].float(),
        labels=np.arange(20, dtype=np.float32)[:, None],
        pathologies=("nodule",),
        instances=pd.DataFrame({"partition": ["train", "val"] * 10}),
        fingerprint="",
        batch_size=3,
        seed=seed,
    )


def test_features_are_shown_once_an_epoch_in_an_order_of_its_own() -> None:
    def order(epoch: int, *, start: int = 0, seed: int = 0) -> list[int]:
        batches = list(tensors(seed).train(epoch, start=start))
        for inputs, labels, rows in batches:
            assert inputs[:, 0].tolist() == labels[:, 0].tolist() == rows.tolist()
        return [row for _, _, rows in batches for row in rows.tolist()]

    orders = [order(0), order(1), order(2), order(0, seed=1)]
    assert all(sorted(found) == list(range(0, 20, 2)) for found in orders)
    assert len({tuple(found) for found in orders}) == 4
    assert order(0) == orders[0]
    assert order(1, start=2) == orders[1][6:]  # where an epoch was left
    assert [rows.tolist() for _, _, rows in tensors().partition("val")] == [list(range(1, 20, 2))]
    assert tensors().steps() == 3  # a rest of one row goes with the batch before


@pytest.mark.parametrize("name", ["train", "val"])
def test_an_image_that_cannot_be_read_is_shown_to_nobody(trial: Callable[..., TrialConfig], name: str) -> None:
    """Its pixels in the cache are 0, a black film with a label."""
    count = 2 * EVALUATION_BATCH + 5
    rows = np.arange(count)
    readable = rows % 7 != 0
    manifest = SimpleNamespace(
        rows=lambda partition: {name: rows}[partition],
        labels=rows[:, None].astype(np.float32),
        instances=pd.DataFrame({"case": rows}),
    )
    pixels = np.broadcast_to(rows[:, None, None], (count, 4, 4)).astype(np.uint8)
    cache = SimpleNamespace(readable=readable, pixels=pixels)
    material = ImageMaterial(manifest, cache, trial(), workers=0, pinned=False)  # type: ignore[arg-type]
    assert material.rows(name).tolist() == rows[readable].tolist()
    shown = list(material.partition(name))
    assert [row for _, _, chosen in shown for row in chosen.tolist()] == rows[readable].tolist()
    for images, labels, chosen in shown:
        assert images.shape == (len(chosen), 1, 4, 4)
        assert images[:, 0, 0, 0].tolist() == labels[:, 0].tolist() == chosen.tolist()


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch, trial: Callable[..., TrialConfig]) -> Callable[..., Any]:
    """Score data with these pathologies by a network that gives its output's number; return also what was opened."""

    def score(pathologies: tuple[str, ...], rows: int = 3) -> Any:
        own = trial().dataset
        trained = trial(dataset=own.model_copy(update={"preprocessing": "paper"}), seed=5)
        other = trial(dataset=own.model_copy(update={"name": "elsewhere", "preprocessing": "standard"}), seed=6)
        written = {"trial": trained.model_dump(mode="json"), "pooling": "average"}
        opened: list[TrialConfig] = []
        material = SimpleNamespace(pathologies=pathologies, rows=lambda _: np.arange(rows))

        def open_it(config: TrialConfig, *_: object) -> Any:
            opened.append(config)
            return material, None, ("edema", "mass", "nodule", "effusion")

        monkeypatch.setattr(checkpoint, "read_trial", lambda _: written)
        monkeypatch.setattr(assembly, "take_place", lambda *_, **__: None)
        monkeypatch.setattr(prediction, "_opened", open_it)
        monkeypatch.setattr(prediction, "score", lambda *_, **__: np.tile(np.arange(4.0), (rows, 1)))
        _, scores, _, shared = prediction.score_partition(other, SimpleNamespace(micro_batch=None), Path(), "test")
        return trained, opened[0], scores, shared

    return score


def test_scores_on_other_data_are_those_of_the_pathologies_that_both_know(scored: Callable[..., Any]) -> None:
    _, _, scores, shared = scored(("effusion", "hernia", "mass"))
    assert shared == ("mass", "effusion")
    assert scores.tolist() == [[1.0, 3.0]] * 3  # mass is the network's second output, effusion its fourth


def test_other_data_are_prepared_and_scored_as_the_network_was_trained(scored: Callable[..., Any]) -> None:
    trained, opened, _, _ = scored(("mass",))
    assert (opened.dataset.name, opened.dataset.preprocessing) == ("elsewhere", "paper")
    assert opened.recipe == trained.recipe.model_copy(update={"pooling": "average"})
    assert (opened.seed, opened.resolution, opened.backbone) == (5, trained.resolution, trained.backbone)


@pytest.mark.parametrize(
    ("pathologies", "rows", "message"),
    [
        (("hernia",), 3, "the test partition of elsewhere shares no pathology with edema, mass, nodule, effusion"),
        (("mass",), 0, "the test partition of elsewhere has no readable image"),
    ],
)
def test_nothing_to_score_is_told(scored: Callable[..., Any], pathologies, rows: int, message: str) -> None:
    with pytest.raises(TrialError, match=message) as refused:
        scored(pathologies, rows)
    assert refused.value.kind == "data"
