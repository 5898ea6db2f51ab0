"""What the winners reached: by resolution, and for a small study by target."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from matplotlib.lines import Line2D

from search.report.figures.canvas import Picture, errors, key_of, legend, panels, picture
from search.report.layout import (
    COLOURS,
    MACRO,
    MARKERS,
    Looks,
    cells_of,
    datasets,
    primary,
    rows_of,
    short_name,
    spoken,
    targets_of,
)
from search.report.tables import FEW_CELLS
from search.wording import percent

SPREAD = 0.3
"""How much of the room between two places the series of one place take up."""


def draw(found: dict[str, Any]) -> Iterator[Picture]:
    """Draw them."""
    if any(cell["test"] for cell in found["cells"]):
        yield _by_place(found)
        if len(found["cells"]) <= FEW_CELLS:
            yield from (_by_target(found, dataset) for dataset in datasets(found))


def _by_place(found: dict[str, Any]) -> Picture:
    """One panel per data set, the axis of numbers along x, one line per series."""
    looks, names = Looks.of(found), datasets(found)
    figure, drawn = panels(names)
    for axes, dataset in zip(drawn, names, strict=True):
        series: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for cell in cells_of(found, dataset):
            row = rows_of(found, cell).get(MACRO)
            if row and row["value"] is not None:
                series[looks.series_of(cell)].append(cell)
        for index, cells in enumerate(series.values()):
            shift = (index - (len(series) - 1) / 2) * SPREAD / max(1, len(series) - 1)
            ordered = sorted(cells, key=looks.place_of)
            rows = [rows_of(found, cell)[MACRO] for cell in ordered]
            places = [looks.place_of(cell) + shift for cell in ordered]
            style: dict[str, Any] = {"color": looks.colour_of(cells[0])}
            axes.plot(places, [r["value"] for r in rows], linestyle=looks.line_of(cells[0]), linewidth=1.4, **style)
            for place, row in zip(places, rows, strict=True):
                axes.errorbar(place, row["value"], yerr=errors(row), elinewidth=1, **style)
                axes.plot(place, row["value"], marker=looks.marker_of(cells[0]), markersize=5, **style)
        axes.set_xticks(range(len(looks.places())), looks.places())
        axes.set_xlim(-0.5, len(looks.places()) - 0.5)
        axes.set(xlabel=looks.place or "", ylabel=f"test {spoken(primary(found))}")
    legend(figure, key_of(looks))
    by = f" by {looks.place}" if looks.place else ""
    return picture(
        figure,
        name="results",
        section="results",
        title=f"Test {spoken(primary(found))}{by}",
        alt=f"Macro test {spoken(primary(found))} of each cell's winner{by}, with "
        f"{percent(found['confidence'])} intervals; a panel for each of {', '.join(names)}. "
        "The values are in the table of winners.",
    )


def _by_target(found: dict[str, Any], dataset: str) -> Picture:
    """Test metric per target and cell, with intervals."""
    targets, cells = targets_of(found, dataset), cells_of(found, dataset)
    several = len(cells) > 1  # a cell alone has no name that tells it from others
    tall = 0.4 + 0.16 * len(targets) * (len(cells) + 1)
    figure, (axes,) = panels([dataset], height=tall, legend=0.4 if several else 0)
    step, key = 0.8 / max(1, len(cells)), []
    for index, cell in enumerate(cells):
        rows = rows_of(found, cell)
        label, colour = short_name(found, cell, without=("dataset",)), COLOURS[index % len(COLOURS)]
        marker = MARKERS[index // len(COLOURS)]
        key.append(Line2D([], [], color=colour, marker=marker, markersize=4, label=label))
        for place, target in enumerate(targets):
            if target in rows and rows[target]["value"] is not None:
                row, y = rows[target], place + (index - (len(cells) - 1) / 2) * step
                axes.errorbar(row["value"], y, xerr=errors(row), fmt=marker, markersize=4, color=colour)
    axes.set_yticks(range(len(targets)), [target.replace("_", " ") for target in targets])
    axes.invert_yaxis()
    axes.set_xlabel(f"test {spoken(primary(found))}")
    if several:
        legend(figure, key)
    return picture(
        figure,
        name=f"targets-{dataset}",
        section="targets",
        title=f"Winners on the test partition of {dataset}",
        alt=f"Test {spoken(primary(found))} of {len(cells)} cells on {', '.join(targets)}, with intervals; the values "
        "are in the table below.",
    )
