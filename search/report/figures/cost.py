"""What a winner's training cost against what it reached, with the cells that nothing cheaper equals."""

from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from search.report.figures.canvas import INK, Picture, errors, key_of, legend, panels, picture, place_key, size_of
from search.report.layout import MACRO, Looks, cells_of, datasets, primary, rows_of, spoken

Point = tuple[float, float, dict[str, Any]]
"""Hours, value, cell."""


def draw(found: dict[str, Any]) -> Iterator[Picture]:
    """Draw a panel per data set, if the trials' records say what they cost."""
    points = {dataset: _points(found, dataset) for dataset in datasets(found)}
    known = {dataset: members for dataset, members in points.items() if members}
    if sum(map(len, known.values())) > 1:
        yield _cost(found, known)


def front(points: Sequence[Point], *, maximize: bool) -> list[Point]:
    """Return the points that no cheaper or equally cheap one equals or beats, cheapest first."""
    sign = 1 if maximize else -1
    kept: list[Point] = []
    for point in sorted(points, key=lambda one: (one[0], -sign * one[1])):
        if not kept or sign * point[1] > sign * kept[-1][1]:
            kept.append(point)
    return kept


def hours(record: dict[str, Any]) -> float | None:
    """Return GPU-hours of a training, hours of the machine where it had no GPU, None where it is not recorded."""
    seconds = record.get("gpu_seconds")
    if seconds is None and record.get("train_seconds") is not None:
        seconds = record["train_seconds"] + record.get("evaluation_seconds", 0.0)
    return seconds / 3600 if seconds else None


def _points(found: dict[str, Any], dataset: str) -> list[Point]:
    found_points = []
    for cell in cells_of(found, dataset):
        row, cost = rows_of(found, cell).get(MACRO), hours(cell["record"])
        if row and row["value"] is not None and cost is not None:
            found_points.append((cost, row["value"], cell))
    return found_points


def _cost(found: dict[str, Any], points: dict[str, list[Point]]) -> Picture:
    looks, metric = Looks.of(found), spoken(primary(found))
    figure, drawn = panels(list(points))
    on_gpu = all("gpu_seconds" in cell["record"] for members in points.values() for _, _, cell in members)
    unit = "GPU-hours" if on_gpu else "hours"
    best = {dataset: front(members, maximize=found["direction"] == "maximize") for dataset, members in points.items()}
    for axes, (dataset, members) in zip(drawn, points.items(), strict=True):
        axes.step(
            [p[0] for p in best[dataset]],
            [p[1] for p in best[dataset]],
            where="post",
            color=INK,
            linewidth=1,
            linestyle=":",
        )
        for cost, value, cell in members:
            colour, size = looks.colour_of(cell), size_of(looks.place_of(cell))
            row = rows_of(found, cell)[MACRO]
            axes.errorbar(cost, value, yerr=errors(row), color=colour, elinewidth=0.6, alpha=0.5)
            face = colour if any(cell is one[2] for one in best[dataset]) else "white"
            axes.plot(cost, value, looks.marker_of(cell), color=colour, markerfacecolor=face, markersize=size)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel=f"{unit} of the winner's training", ylabel=f"test {metric}")
    on_front = Line2D([], [], color=INK, linestyle=":", marker="o", label="Pareto front (filled)")
    legend(figure, [*key_of(looks, lines=False), *place_key(looks), on_front])
    names = "; ".join(f"{dataset}: " + ", ".join(cell["cell"] for _, _, cell in best[dataset]) for dataset in points)
    return picture(
        figure,
        name="cost",
        section="cost",
        title=f"Cost against test {metric}",
        alt=f"{unit} of each winner's training against its macro test {metric}, with intervals. On the Pareto front: "
        f"{names}.",
    )
