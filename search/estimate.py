"""What a study will cost: from trials that ran before or a probe where there are any, else from arithmetic alone.

Multiply-accumulates of one forward pass were measured with torch's FlopCounterMode over timm's networks
(EfficientNet-Lite0: published by its authors). Training costs three forward passes: forward, and backward for
activations and for weights.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from search import image_counts
from search.feature_stores import store_of
from search.grid import Grid
from search.identity import key_of
from search.image_counts import Images
from search.images_needed import Needed
from search.recorded_speed import Speeds, kind_of
from trainers import adaptations, backbones
from trainers.trial import TrialConfig

GIGA_MACS: dict[str, dict[int, float]] = {
    "vit_7b": {224: 1362.7, 512: 7255.7, 1024: 33045.2},
    "vit_large": {224: 62.8, 512: 363.6, 1024: 2068.3},
    "vit_base": {224: 17.9, 512: 107.5, 1024: 660.7},
    "vit_small": {224: 4.7, 512: 31.9, 1024: 243.3},
    "vit_tiny": {224: 1.3, 512: 10.4, 1024: 99.7},
    "convnext_large": {224: 34.4, 512: 179.5, 1024: 718.1},
    "convnext_base": {224: 15.4, 512: 80.2, 1024: 320.9},
    "convnext_small": {224: 8.7, 512: 45.4, 1024: 181.5},
    "convnext_tiny": {224: 4.5, 512: 23.3, 1024: 93.1},
    "tf_efficientnet_lite0": {224: 0.4},
}
MILLION_PARAMETERS: dict[str, float] = {
    "vit_7b": 6716.0,
    "vit_large": 303.1,
    "vit_base": 85.7,
    "vit_small": 21.6,
    "vit_tiny": 5.5,
    "convnext_large": 196.2,
    "convnext_base": 87.6,
    "convnext_small": 49.5,
    "convnext_tiny": 27.8,
    "tf_efficientnet_lite0": 3.4,
}
"""Of the encoder, as published."""
UNKNOWN_MILLION_PARAMETERS = 25.0
UNKNOWN_GIGA_MACS = 5.0
UNKNOWN_FEATURES = 768
FORWARD_PASSES_PER_STEP = 3
PRUNED_COST = 0.64
"""Share of the epochs that `cell_race` leaves of cells of five, see the replay table in the README."""
SPREAD_OF_MEASURED = 1.3
"""A measured speed holds within this factor: other data, other neighbours on the node."""
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
    """Cost of a study; the low end has a pruner's help, the high end trains every trial to its last epoch."""

    epochs: int
    images: int | None
    """Images of all data sets of known size together; None, like hours and cache, where no size is known."""
    gpu_hours: Range | None
    wall_clock_hours: Range | None
    """On so many GPUs as were asked for, by default one."""
    cache_bytes: Range | None
    checkpoint_bytes: Range
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


def relative_cost(config: TrialConfig, images: float) -> float:
    """Return the cost of an epoch over so many images in arbitrary units, comparable between trials.

    A trial on stored features costs its encoder's one forward pass at most; that is spread over its epochs.
    """
    step = giga_macs(config.backbone, config.resolution) * images
    if adaptations.load(config.adaptation).on_features:
        return step / FORWARD_PASSES_PER_STEP / config.recipe.epochs
    return step


def estimate(
    grid: Grid,
    *,
    gpus: int = 1,
    speeds: Speeds | None = None,
    prunes: bool = True,
    images: image_counts.Known | None = None,
    reads: Sequence[Needed] = (),
) -> Estimate:
    """Estimate the cost of a grid.

    Args:
        grid: cells and trials.
        gpus: of the cluster; a trial is taken to use one.
        speeds: known from a probe or earlier runs.
        prunes: whether the study has a pruner.
        images: sizes of data sets that are known beside the published ones.
        reads: what is decoded, data sets that winners are only measured on included; by default what is trained on.
    """
    datasets = (*grid.datasets, *(need.dataset for need in reads))
    found = {key_of(d): size for d in datasets if (size := image_counts.of(d, images or {})) is not None}
    whole = {d.name: found[key].whole for d in grid.datasets if (key := key_of(d)) in found}
    share = PRUNED_COST if prunes else 1.0
    hours = _hours(grid, found, speeds)
    low, high = share * sum(h.low for h in hours), sum(h.high for h in hours)
    # A trial runs on one GPU at a time: no cluster is faster than the longest one.
    longest = Range(max((h.low for h in hours), default=0), max((h.high for h in hours), default=0))
    wall_clock = _rounded(max(low / gpus, longest.low), max(high / gpus, longest.high))
    return Estimate(
        epochs=sum(trial.config.recipe.epochs for trial in grid.trials),
        images=sum(whole.values()) if whole else None,
        gpu_hours=_rounded(low, high) if whole else None,
        wall_clock_hours=wall_clock if whole else None,
        cache_bytes=_cache_bytes(grid, reads, found) if whole else None,
        checkpoint_bytes=_checkpoint_bytes(grid, gpus),
        basis=_basis(grid, reads, found, speeds, prunes=prunes),
    )


def _basis(
    grid: Grid, reads: Sequence[Needed], found: Mapping[str, Images], speeds: Speeds | None, *, prunes: bool
) -> str:
    """Say what an estimate rests on, and what it leaves out."""
    slow, fast = EFFECTIVE_TERAFLOPS
    told = f"speeds from {speeds.source}" if speeds else f"{fast:g} and {slow:g} effective TFLOP/s per GPU"
    if found:
        told += f", {' and '.join(sorted({size.known for size in found.values()}))} image counts"
    if prunes:
        told += f"; low: pruning leaves {PRUNED_COST:.0%} of the epochs"
    datasets = (*grid.datasets, *(need.dataset for need in reads))
    if unknown := sorted({d.name for d in datasets if key_of(d) not in found}):
        told += f"; without {', '.join(unknown)}, whose size is not known beforehand"
    measured = {kind[0] for kind in speeds.images_per_second} if speeds else set()
    if guessed := sorted({trial.config.backbone for trial in grid.trials} - GIGA_MACS.keys() - measured):
        told += (
            f"; {', '.join(guessed)} taken for {UNKNOWN_GIGA_MACS:g} GMAC at 224 px and "
            f"{UNKNOWN_MILLION_PARAMETERS:g} million parameters, which `--probe` measures"
        )
    return told


def _hours(grid: Grid, found: Mapping[str, Images], speeds: Speeds | None) -> list[Range]:
    """Return the hours of each trial whose data are of known size."""
    sized = ((config, found.get(key_of(config.dataset))) for config in _trained(grid))
    seconds = [_seconds(config, images, speeds) for config, images in sized if images is not None]
    return [Range(s.low / 3600, s.high / 3600) for s in seconds]


def _trained(grid: Grid) -> Iterator[TrialConfig]:
    """Yield the trials that cost arithmetic: of those on stored features only the first of each store."""
    computed: set[str | None] = set()
    for trial in grid.trials:
        store = store_of(trial.config)
        if store is None or store not in computed:
            yield trial.config
            computed.add(store)


def _seconds(config: TrialConfig, images: Images, speeds: Speeds | None) -> Range:
    """Return the seconds of a trial's whole training, or of its encoder's one pass, on one GPU."""
    on_features = adaptations.load(config.adaptation).on_features
    whole = images.whole if on_features else images.trained * config.recipe.epochs
    passes = 1 if on_features else FORWARD_PASSES_PER_STEP
    known = _known_speed(config, speeds) if speeds else None
    if known is not None:
        return Range(whole / known / SPREAD_OF_MEASURED, whole / known * SPREAD_OF_MEASURED)
    tera_operations = 2e-3 * passes * giga_macs(config.backbone, config.resolution) * whole
    slow, fast = EFFECTIVE_TERAFLOPS
    return Range(tera_operations / fast, tera_operations / slow)


def _known_speed(config: TrialConfig, speeds: Speeds) -> float | None:
    """Return images per second as measured, or scaled by arithmetic from the nearest kind that was."""
    known = speeds.images_per_second
    if (kind := kind_of(config)) in known:
        return known[kind]
    alike = {other: speed for other, speed in known.items() if other[2] == config.adaptation}
    if not alike:
        return None
    cost = giga_macs(config.backbone, config.resolution)
    nearest = min(alike, key=lambda other: abs(math.log(giga_macs(other[0], other[1]) / cost)))
    return alike[nearest] * giga_macs(nearest[0], nearest[1]) / cost


def _rounded(low: float, high: float) -> Range:
    return Range(float(f"{low:.3g}"), float(f"{high:.3g}"))


def _cache_bytes(grid: Grid, reads: Sequence[Needed], found: Mapping[str, Images]) -> Range:
    """Return a byte per pixel, and the features; high: where file systems and the index add to it."""
    trained = [(trial.config.dataset, trial.config.resolution) for trial in (*grid.examples, *grid.trials)]
    asked = (*trained, *((need.dataset, resolution) for need in reads for resolution in need.resolutions))
    # Other labels of the same images are decoded once.
    images = {
        (dataset.name, dataset.preprocessing, resolution): found[key].whole
        for dataset, resolution in asked
        if (key := key_of(dataset)) in found
    }
    pixels = sum(count * resolution**2 for (_, _, resolution), count in images.items())
    whole = pixels + _feature_bytes(grid, found)
    return Range(whole, int(whole * 1.02))


def _feature_bytes(grid: Grid, found: Mapping[str, Images]) -> int:
    """Return four bytes per feature and image, of each store that trials share."""
    stores = {store_of(trial.config): trial.config for trial in grid.trials}
    sizes = [
        found[key].whole * (backbones.find(config.backbone).features or UNKNOWN_FEATURES)
        for store, config in stores.items()
        if store is not None and (key := key_of(config.dataset)) in found
    ]
    return 4 * sum(sizes)


def _checkpoint_bytes(grid: Grid, gpus: int) -> Range:
    """Return what stays of weights in float32, and what running trials need to go on (weights and two moments).

    Low: only one finished trial per cell; high: every trial finishes.
    """
    sizes = [4e6 * million_parameters(trial.config) for trial in grid.trials]
    per_cell = {trial.cell.name: size for trial, size in zip(grid.trials, sizes, strict=True)}
    running = 3 * gpus * max(sizes, default=0.0)
    return Range(int(sum(per_cell.values()) + running), int(sum(sizes) + running))


def million_parameters(config: TrialConfig) -> float:
    """Return the millions of parameters that a checkpoint of a trial holds; a head on features has next to none."""
    if adaptations.load(config.adaptation).on_features:
        return 0.5
    return MILLION_PARAMETERS.get(config.backbone, UNKNOWN_MILLION_PARAMETERS)
