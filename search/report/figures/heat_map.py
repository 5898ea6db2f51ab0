"""Every cell on every target: the number is the metric, the colour how it stands to the other cells."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from search.report.figures.canvas import Picture, beyond, picture
from search.report.layout import cells_of, datasets, primary, rows_of, short_name, spoken, targets_of

PALETTE = "PuOr_r"
"""Diverging, told apart by colour-blind readers and by lightness in grey."""
NAME = 14
"""Letters of a cell's name that there is always room for."""


def draw(found: dict[str, Any]) -> Iterator[Picture]:
    """Draw one map per data set: their targets differ."""
    for dataset in datasets(found):
        cells = [cell for cell in cells_of(found, dataset) if cell["test"]]
        if len(cells) > 1:
            yield _map(found, dataset, cells)


def _map(found: dict[str, Any], dataset: str, cells: list[dict[str, Any]]) -> Picture:
    targets = targets_of(found, dataset)
    values = np.array([_values(found, cell, targets) for cell in cells], dtype=np.float64)
    defined = ~np.isnan(values)
    counted = defined.sum(axis=0)
    means = np.divide(np.where(defined, values, 0).sum(axis=0), counted, out=np.zeros(len(targets)), where=counted > 0)
    above = values - means
    largest = float(np.nanmax(np.abs(above), initial=1e-6, where=defined))
    names = [short_name(found, cell, without=("dataset",)) for cell in cells]
    wide = 2.6 + 0.52 * len(targets) + beyond(NAME, names)
    figure = Figure(figsize=(wide, 1.9 + 0.27 * len(cells)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(above, cmap=PALETTE, norm=TwoSlopeNorm(0, -largest, largest), aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        text = "–" if np.isnan(value) else f"{value:.3f}".removeprefix("0")
        ink = "black" if np.isnan(value) else _ink(image.to_rgba(above[row, column]))
        axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=ink)
    axes.set_xticks(
        range(len(targets)), [t.replace("_", " ") for t in targets], rotation=40, ha="right", rotation_mode="anchor"
    )
    axes.set_yticks(range(len(cells)), names)
    axes.axvline(len(targets) - 1.5, color="white", linewidth=3)
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    metric = spoken(primary(found))
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.015, aspect=18)
    bar.set_label(f"{metric} −\nmean of its column", fontsize=8)
    bar.outline.set_visible(False)
    return picture(
        figure,
        name=f"heat-map-{dataset}",
        section="targets",
        title=f"{dataset}: test {metric} of each cell on each target",
        alt=f"Heat map of {len(cells)} cells by {len(targets)} targets on {dataset}. The number is the test {metric}; "
        "orange stands above the mean of the column's cells, purple below. The values are in the table below.",
    )


def _ink(background: np.ndarray) -> str:
    """Return black or white, whichever stands out more from a colour (RGBA, 0 to 1; luminance as in WCAG 2.2)."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in background[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "black"


def _values(found: dict[str, Any], cell: dict[str, Any], targets: list[str]) -> list[float]:
    rows = rows_of(found, cell)
    values = [rows[target]["value"] if target in rows else None for target in targets]
    return [np.nan if value is None else value for value in values]
