"""What a study will cost, from the networks' arithmetic: no GPU, no data.

Multiply-accumulates of one forward pass were measured with torch's FlopCounterMode over timm's networks
(EfficientNet-Lite0: published by its authors). Training costs three forward passes: forward, and backward for
activations and for weights.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from datasets.dataset_config import DatasetConfig
from search.grid import Grid
from trainers.trial import TrialConfig

GIGA_MACS: dict[str, dict[int, float]] = {
    "vit_base": {224: 17.9, 512: 107.5, 1024: 660.7},
    "vit_small": {224: 4.7, 512: 31.9, 1024: 243.3},
    "convnext_base": {224: 15.4, 512: 80.2, 1024: 320.9},
    "convnext_tiny": {224: 4.5, 512: 23.3, 1024: 93.1},
    "tf_efficientnet_lite0": {224: 0.4},
}
PUBLISHED_IMAGES: dict[str, int] = {
    "chexpert": 223_648,  # train.csv and valid.csv
    "mimic_cxr": 377_110,  # MIMIC-CXR-JPG 2.1.0
    "nih_chest_xray14": 112_120,
    "padchest": 160_861,
    "rsna_pneumonia": 26_684,
    "uka_cxr": 193_361,  # private; as the cohort is given by its owners' papers
    "vindr_cxr": 18_000,
    "vindr_pcxr": 9_125,
}
UNKNOWN_GIGA_MACS = 5.0
FORWARD_PASSES_PER_STEP = 3
EFFECTIVE_TERAFLOPS = (40.0, 250.0)
"""What a training reaches: timm's published ViT-B/16 rate on an RTX 3090 (391 images/s), and a compiled one on an
H100."""


@dataclass(frozen=True, slots=True)
class Range:
    """A low and a high estimate."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """Cost of the full grid; pruning lowers it."""

    epochs: int
    images: int
    """Images of all data sets together, as published."""
    gpu_hours: Range
    cache_bytes: int
    basis: str

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def giga_macs(backbone: str, resolution: int) -> float:
    """Return 10⁹ multiply-accumulates of one forward pass; between measured sizes along a power law."""
    known = GIGA_MACS.get(backbone, {224: UNKNOWN_GIGA_MACS})
    if resolution in known:
        return known[resolution]
    nearest = min(known, key=lambda size: abs(math.log(size / resolution)))
    others = [size for size in known if size != nearest]
    power = 2.0
    if others:
        second = min(others, key=lambda size: abs(math.log(size / resolution)))
        power = math.log(known[second] / known[nearest]) / math.log(second / nearest)
    return float(known[nearest] * (resolution / nearest) ** power)


def relative_cost(config: TrialConfig) -> float:
    """Return the cost of an epoch in arbitrary units, comparable between trials."""
    return giga_macs(config.backbone, config.resolution) * (published_images(config.dataset) or 1)


def published_images(dataset: DatasetConfig) -> int | None:
    """Return how many images the complete collection has, or None where nobody has published it."""
    return PUBLISHED_IMAGES.get(dataset.name, PUBLISHED_IMAGES.get(dataset.source))


def estimate(grid: Grid) -> Estimate:
    """Estimate the cost of training every trial of a grid to its last epoch."""
    images = {d.name: count for d in grid.datasets if (count := published_images(d)) is not None}
    unknown = sorted({d.name for d in grid.datasets} - set(images))
    tera_operations = sum(
        2e-3
        * FORWARD_PASSES_PER_STEP
        * giga_macs(trial.config.backbone, trial.config.resolution)
        * images.get(trial.config.dataset.name, 0)
        * trial.config.recipe.epochs
        for trial in grid.trials
    )
    slow, fast = (round(tera_operations / rate / 3600, 1) for rate in EFFECTIVE_TERAFLOPS)
    basis = (
        f"every trial to its last epoch, at {EFFECTIVE_TERAFLOPS[1]:g} and {EFFECTIVE_TERAFLOPS[0]:g} effective "
        "TFLOP/s per GPU, published image counts; pruning lowers it"
    )
    return Estimate(
        epochs=sum(trial.config.recipe.epochs for trial in grid.trials),
        images=sum(images.values()),
        gpu_hours=Range(fast, slow),
        cache_bytes=_cache_bytes(grid, images),
        basis=basis + (f"; without {', '.join(unknown)}, whose size is not known beforehand" if unknown else ""),
    )


def _cache_bytes(grid: Grid, images: dict[str, int]) -> int:
    arrays = {
        (trial.config.dataset.name, trial.config.dataset.preprocessing, trial.config.resolution)
        for trial in grid.trials
    }
    return sum(images.get(name, 0) * resolution**2 for name, _, resolution in arrays)
