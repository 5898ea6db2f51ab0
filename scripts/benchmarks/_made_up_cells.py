"""Learning curves of cells that were never trained, for replay: a search of learning rates as one would expect it.

A cell's optimum in log learning rate moves with backbone and initialization; AUROC falls off with the square of the
distance to it, and steeply where training diverges. Curves rise exponentially, the lower the learning rate the more
slowly; above the optimum they overfit a little in their second half. Every epoch is read with normal noise, as from a
validation partition of some thousand films.
"""

import itertools

import numpy as np
import pandas as pd

LEARNING_RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
EPOCHS = 20
BACKBONES = {"vit": -4.3, "convnext": -3.7}
"""Where the optimum lies, log10 of the learning rate."""
INITIALIZATIONS = {"imagenet": (0.0, 0.0), "dinov2": (0.15, 0.005), "dinov3": (-0.1, 0.015)}
"""How each moves the optimum, log10, and the AUROC."""
RESOLUTIONS = {224: 0.0, 512: 0.012}
"""How each moves the AUROC."""


def table(*, cells: int, noise: float, seed: int) -> pd.DataFrame:
    """Draw cells of five learning rates.

    Args:
        cells: how many, at most 84.
        noise: standard deviation of an epoch's AUROC.
        seed: of all draws.

    Returns:
        Columns group, trial, epoch, value.
    """
    rng = np.random.default_rng(seed)
    datasets = dict(zip("ABCDEFG", rng.uniform(0.72, 0.88, 7), strict=True))
    grid = list(itertools.product(datasets, INITIALIZATIONS, BACKBONES, RESOLUTIONS))
    tables = []
    for index in rng.permutation(len(grid))[:cells]:
        dataset, initialization, backbone, resolution = grid[index]
        shift, gain = INITIALIZATIONS[initialization]
        optimum = BACKBONES[backbone] + shift + rng.normal(0, 0.25)
        top = datasets[dataset] + gain + RESOLUTIONS[resolution] + rng.normal(0, 0.005)
        curvature = rng.uniform(0.008, 0.03)
        name = f"{dataset} {initialization} {backbone} {resolution}"
        for rate in LEARNING_RATES:
            values = _curve(np.log10(rate), optimum, top, curvature, rng) + rng.normal(0, noise, EPOCHS)
            tables.append(
                pd.DataFrame({"group": name, "trial": f"lr={rate:g}", "epoch": range(1, EPOCHS + 1), "value": values})
            )
    return pd.concat(tables)


def _curve(rate: float, optimum: float, top: float, curvature: float, rng: np.random.Generator) -> np.ndarray:
    """Return the AUROC of every epoch; the learning rate is its log10."""
    above = max(0.0, rate - optimum)
    end = top - curvature * (rate - optimum) ** 2 - 0.03 * max(0.0, above - 0.8)
    epochs = np.arange(1, EPOCHS + 1)
    rise = 2.0 ** (1 + 0.9 * (-3.0 - rate)) * rng.uniform(0.8, 1.25)  # epochs to rise by a factor e
    values = 0.5 + (end - 0.5) * (1 - np.exp(-epochs / rise)) / (1 - np.exp(-EPOCHS / rise))
    overfitted: np.ndarray = values - 0.004 * above * np.maximum(0, epochs - EPOCHS / 2) / EPOCHS
    return overfitted
