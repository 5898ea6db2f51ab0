"""The same batches for the same (seed, epoch, index), whoever loads them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.cache import ImageCache
from datasets.errors import DatasetError
from datasets.loaders import Batch, Batches, cut
from datasets.manifest import Manifest, sizes_of
from datasets.source_table import instance_rows
from datasets.transforms import AUGMENTATIONS, resolve, uniform

ROWS = 57


@pytest.fixture
def data() -> tuple[Manifest, ImageCache]:
    rng = np.random.default_rng(0)
    names = np.array([f"{number}" for number in range(ROWS)])
    partition = np.where(np.arange(ROWS) % 5 == 0, "test", np.where(np.arange(ROWS) % 5 == 1, "val", "train"))
    instances = instance_rows(ROWS, path=names, case=names, patient=names, partition=partition)
    labels = rng.choice([0, 1, np.nan], (ROWS, 3)).astype(np.float32)
    manifest = Manifest("x", Path(), instances, labels, ("a", "b", "c"), "", "", "")
    readable = np.ones(ROWS, bool)
    readable[[2, 7]] = False
    pixels = rng.integers(0, 256, (ROWS, 32, 32), dtype=np.uint8)
    pixels.setflags(write=False)
    return manifest, ImageCache(pixels, readable, Path())


def _batches(data: tuple[Manifest, ImageCache], **settings) -> Batches:
    return Batches(*data, **{"partition": "train", "batch_size": 8, "seed": 3, "augmentation": "strong", **settings})


def _equal(first: list[Batch], second: list[Batch]) -> bool:
    tensors = ((x, y) for a, b in zip(first, second, strict=True) for x, y in zip(a, b, strict=True))
    return all(torch.equal(torch.nan_to_num(x), torch.nan_to_num(y)) for x, y in tensors)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("first", [0, 2])
def test_workers_and_resuming_do_not_change_a_bit(data, workers: int, first: int):
    batches = _batches(data)
    whole = list(batches.epoch(2))
    assert _equal(whole[first:], list(batches.epoch(2, first_batch=first, workers=workers)))


def test_epochs_and_seeds_differ_and_repeat(data):
    batches = _batches(data)
    assert _equal(list(batches.epoch(1)), list(_batches(data).epoch(1)))
    assert not _equal(list(batches.epoch(1)), list(batches.epoch(2)))
    assert not _equal(list(batches.epoch(1)), list(_batches(data, seed=4).epoch(1)))


def test_every_readable_row_comes_once_with_its_labels(data):
    manifest, cache = data
    for partition in ("train", "val", "test"):
        batches = _batches(data, partition=partition, augmentation="none")
        rows = torch.cat([batch.rows for batch in batches.epoch(1)])
        expected = manifest.rows(partition)
        assert sorted(rows.tolist()) == expected[cache.readable[expected]].tolist()
        labels = torch.cat([batch.labels for batch in batches.epoch(1)]).numpy()
        np.testing.assert_array_equal(labels, manifest.labels[rows.numpy()])
        images = torch.cat([batch.images for batch in batches.epoch(1)]).numpy()
        np.testing.assert_array_equal(images[:, 0], cache.pixels[rows.numpy()])
        assert len(batches) == -(-len(rows) // 8)


def test_only_train_is_shuffled(data):
    assert (np.diff(_batches(data, partition="val").order(1)) > 0).all()
    assert (np.diff(_batches(data).order(1)) < 0).any()


def test_an_image_is_changed_alike_in_whatever_batch_it_comes(data):
    small = {int(r): i for b in _batches(data, batch_size=3).epoch(1) for r, i in zip(b.rows, b.images, strict=True)}
    large = {int(r): i for b in _batches(data, batch_size=20).epoch(1) for r, i in zip(b.rows, b.images, strict=True)}
    assert all((small[row].int() - large[row].int()).abs().max() <= 1 for row in small)


def test_no_global_randomness_is_used_or_left_behind(data):
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    list(_batches(data).epoch(1))
    assert torch.equal(state, torch.get_rng_state())
    np.testing.assert_array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002


@settings(max_examples=200)
@given(rows=st.integers(0, 400), size=st.integers(2, 40))
def test_no_batch_of_several_holds_a_single_row(rows: int, size: int):
    sizes = [len(range(rows)[batch]) for batch in cut(rows, size)]
    assert np.concatenate([[], *(np.arange(rows)[batch] for batch in cut(rows, size))]).tolist() == list(range(rows))
    assert set(sizes[:-1]) <= {size}
    assert rows < 2 or 2 <= sizes[-1] <= size + 1


@pytest.mark.parametrize("size", [0, -3])
def test_an_impossible_batch_size_is_refused(data, size: int):
    with pytest.raises(ValueError, match=f"batch_size is {size}, at least 1"):
        _batches(data, batch_size=size)


def test_unknown_augmentations_list_those_that_exist():
    with pytest.raises(DatasetError, match=r"unknown augmentation 'papr'.*none, flip, paper, strong"):
        resolve("papr")


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(0, 2**20), st.integers(1, 50))
def test_draws_are_uniform_and_a_function_of_their_row(seed: int, epoch: int, count: int):
    rows = np.arange(200)
    draws = uniform(seed, epoch, rows, count=count)
    assert draws.min() >= 0
    assert draws.max() < 1
    np.testing.assert_array_equal(draws[50:60], uniform(seed, epoch, rows[50:60], count=count))
    assert len(np.unique(draws)) == draws.size


def test_draws_have_the_moments_of_a_uniform():
    draws = uniform(0, 1, np.arange(200_000), count=2)
    assert draws.mean(axis=0) == pytest.approx(0.5, abs=0.003)
    assert draws.var(axis=0) == pytest.approx(1 / 12, abs=0.001)
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.01


def test_rotation_and_flip_are_torchvisions():
    """A batch at once gives what torchvision's v2 functions give image by image, but for rounding at pixel edges."""
    from datasets.torchvision_operators import declare_missing

    declare_missing()
    from torchvision.transforms.v2 import functional

    smooth = torch.from_numpy(np.random.default_rng(0).random((6, 1, 8, 8), dtype=np.float32))
    images = (torch.nn.functional.interpolate(smooth, 64, mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)
    rows = np.arange(6)
    draws = uniform(5, 1, rows, count=7)
    changed = torch.from_numpy(AUGMENTATIONS["paper"](images[:, 0].numpy(), rows=rows, seed=5, epoch=1))[:, None]
    for image, new, draw in zip(images, changed, draws, strict=True):
        expected = functional.horizontal_flip(image) if draw[0] < 0.5 else image
        angle = float(7 * (2 * draw[1] - 1))
        candidates = [functional.rotate(expected, sign * angle) for sign in (1, -1)]
        close = [((new.int() - other.int()).abs() <= 2).float().mean().item() for other in candidates]
        assert max(close) > 0.97


def test_strong_changes_every_image_and_stays_in_range(data):
    _, cache = data
    images = cache.pixels[:20]
    changed = AUGMENTATIONS["strong"](images, rows=np.arange(20), seed=1, epoch=1)
    assert changed.dtype == np.uint8
    assert all((a != b).any() for a, b in zip(images, changed, strict=True))


def test_sizes_are_read_without_opening_files(tmp_path: Path):
    import pandas as pd

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"12345")
    paths = pd.Series(["a/x", "a/y", "z"])
    assert sizes_of(tmp_path, paths).tolist() == [5, -1, -1]
