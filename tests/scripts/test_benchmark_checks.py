"""A benchmark whose sides give different results has no row: each is given a side that does nothing, or not enough."""

import numpy as np
import pytest
import torch

from scripts.benchmarks import cache_formats, images, loaders, training_step, trials_on_phantoms
from scripts.benchmarks._agreement import check_grey_levels, stretched
from scripts.benchmarks._image_material import radiograph, write_jpeg2000
from trainers import optim
from trainers.trial import EpochMetrics


@pytest.fixture(autouse=True)
def one_thread():
    """The benchmarks compute on one thread; so do these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def film(side: int = 256) -> np.ndarray:
    """Return grey levels 0–255, float64 (side, side)."""
    return stretched(radiograph(0, height=side, width=side))


def test_rounding_and_another_scale_are_within_the_allowed_grey_levels():
    check_grey_levels("rounded", np.rint(film()), film())
    check_grey_levels("scaled", np.rint(film()), stretched(film() * 8 - 1024))


@pytest.mark.parametrize(
    ("ours", "refused"),
    [
        (np.zeros((256, 256)), "grey levels of 255 apart"),
        (np.full((256, 256), np.nan), "nan grey levels"),
        (film() + 1.5, "1.50 grey levels"),
        (np.roll(film(), 2, axis=0), "grey levels of 255 apart"),
        (film(side=128), r"shape \(128, 128\)"),
        (None, r"shape \(\)"),
    ],
    ids=["black", "not numbers", "brighter", "lower", "smaller", "nothing"],
)
def test_another_image_is_refused(ours, refused):
    with pytest.raises(RuntimeError, match=refused):
        check_grey_levels("film", ours, film())


@pytest.mark.slow
def test_a_step_that_does_nothing_is_noticed(monkeypatch):
    monkeypatch.setattr(training_step, "_our_step", lambda _network: lambda *_: None)
    with pytest.raises(RuntimeError, match=r"convnext_atto, .* ours is not the peer's"):
        training_step._compare("convnext_atto", steps=1)


@pytest.mark.slow
def test_a_step_with_another_rate_is_noticed_and_ours_is_the_bare_one_to_the_bit(monkeypatch):
    training_step._compare("convnext_atto", steps=1)
    monkeypatch.setattr(optim, "rate_factor", lambda *_, **__: 0.999)
    with pytest.raises(RuntimeError, match=r"convnext_atto, .* ours is not the peer's"):
        training_step._compare("convnext_atto", steps=1)


def test_a_reader_that_gives_other_rows_is_noticed():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 8, 8), dtype=np.uint8)
    with pytest.raises(RuntimeError, match="batch from sorted rows"):
        cache_formats._rate("sorted rows", lambda rows: pixels[np.sort(rows)], pixels)


@pytest.mark.slow
def test_a_decoder_that_does_nothing_is_noticed(monkeypatch, tmp_path):
    write_jpeg2000(tmp_path / "film.dcm", radiograph(0))
    images._decoding(tmp_path / "film.dcm", 1)
    monkeypatch.setattr(images, "_ours", lambda _: np.zeros((images.SIDE, images.SIDE), np.uint8))
    with pytest.raises(RuntimeError, match="decoding"):
        images._decoding(tmp_path / "film.dcm", 1)


@pytest.mark.parametrize(
    ("ours", "refused"),
    [
        ({"a": film(), "b": film().T}, r"b: .* grey levels of 255 apart"),
        ({"a": film()}, r"b: ours has the shape \(0,\)"),
        ({"a": film(), "b": film(), "c": film()}, "files of an epoch"),
    ],
    ids=["another image", "one too few", "one too many"],
)
def test_a_loader_that_shows_something_else_is_noticed(ours, refused):
    batch = {"name": ["a", "b"], "img": torch.from_numpy(np.stack([film(), film()])[:, None])}
    with pytest.raises(RuntimeError, match=refused):
        loaders._check_epoch("loader", ours, [batch], lambda shown: shown["name"])


def test_a_probe_trial_that_measures_something_else_or_nothing_is_noticed():
    told = [EpochMetrics(epoch=epoch, timestamp_ms=0, metrics={"val/loss": 0.5}) for epoch in (1, 2, 3)]
    trials_on_phantoms._check_probes(told, [told, told])
    with pytest.raises(RuntimeError, match="epochs of the probe trials"):
        trials_on_phantoms._check_probes(told, [told, []])
    other = [*told[:2], told[2].model_copy(update={"metrics": {"val/loss": 0.5000001}})]
    with pytest.raises(RuntimeError, match="probe trial, epoch 3"):
        trials_on_phantoms._check_probes(told, [other, told])
