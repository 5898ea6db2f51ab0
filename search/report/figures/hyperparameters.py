"""How sensitive each cell is to what was searched, above all the learning rate."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from matplotlib.lines import Line2D

from search.report.figures.canvas import FAINT, Picture, key_of, legend, panels, picture, place_key, size_of
from search.report.layout import Looks, cells_of, datasets, is_numeric, primary, spoken

DECADE = 10.0


def draw(found: dict[str, Any]) -> Iterator[Picture]:
    """Draw one figure per searched number that has several values."""
    values: dict[str, set[Any]] = defaultdict(set)
    for trial in found["trials"]:
        for name, value in trial["searched"].items():
            if not isinstance(value, dict | list):
                values[name].add(value)
    for name, known in values.items():
        if len(known) > 1 and is_numeric(list(known)) and found["cells"]:
            yield _sensitivity(found, name, sorted(known))


def _sensitivity(found: dict[str, Any], name: str, values: Sequence[float]) -> Picture:
    looks, names = Looks.of(found), datasets(found)
    figure, drawn = panels(names)
    for axes, dataset in zip(drawn, names, strict=True):
        for cell in cells_of(found, dataset):
            _draw_cell(axes, found, cell, name, looks)
        if values[0] > 0 and values[-1] / values[0] >= DECADE:
            axes.set_xscale("log")
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()
        axes.set(xlabel=name.replace("_", " "), ylabel=f"validation {spoken(primary(found))}")
    pruned = Line2D([], [], color=FAINT, marker="x", linestyle="", label="pruned: best until then")
    legend(figure, [*key_of(looks, lines=False), *place_key(looks), pruned])
    return picture(
        figure,
        name=f"sensitivity-{name}",
        section="hyperparameters",
        title=f"Sensitivity to {name.replace('_', ' ')}",
        alt=f"Best validation {spoken(primary(found))} of every cell at each {name.replace('_', ' ')} "
        f"({', '.join(f'{value:g}' for value in values)}); a cross is a trial that was pruned, at its best until then.",
    )


def _draw_cell(axes: Any, found: dict[str, Any], cell: dict[str, Any], name: str, looks: Looks) -> None:
    """One line per cell: at each value the best over what else was searched, the mean over seeds."""
    choose = max if found["direction"] == "maximize" else min
    points: dict[float, dict[str, list[tuple[float, bool]]]] = defaultdict(lambda: defaultdict(list))
    for trial in found["trials"]:
        if trial["cell"] == cell["cell"] and trial["curve"]:
            best = choose(trial["curve"].values())
            points[trial["searched"][name]][repr(trial["searched"])].append((best, trial["state"] == "COMPLETE"))
    line, whole = [], []
    for value, by_point in sorted(points.items()):
        candidates = [(fmean(v for v, _ in seeds), all(done for _, done in seeds)) for seeds in by_point.values()]
        best, done = choose(candidates, key=lambda one: one[0])
        line.append((value, best))
        whole.append(done)
    colour = looks.colour_of(cell)
    axes.plot(*zip(*line, strict=True), color=colour, linewidth=0.9, alpha=0.6) if line else None
    for (value, best), done in zip(line, whole, strict=True):
        size = size_of(looks.place_of(cell))
        axes.plot(value, best, looks.marker_of(cell) if done else "x", color=colour, markersize=size, alpha=0.9)
