"""Cost against regret of pruners, a point each: whoever is lower and further left is better."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter, StrMethodFormatter, SymmetricalLogLocator

from datasets.whole_file import replacing
from search.errors import StudyError
from search.replay.scores import Score
from search.report.figures.canvas import FAINT, Picture, legend, panels, picture, styled
from search.report.layout import COLOURS, MARKERS

FORMATS = ("png", "svg")
STRAIGHT = 0.001
"""Regrets up to this, 0 and less among them, are drawn on a straight scale, larger ones on a logarithmic one."""
ROOM = 0.0002
"""Below a regret of 0, so that its mark is whole."""
TITLE = 28
"""Letters a line."""
TOP_K = "one_shot_top_k"
PRUNER_SIZE, COMPARATOR_SIZE = 8.0, 5.5


def check(path: Path) -> None:
    """Refuse a file in another format, before the replay takes its time.

    Raises:
        StudyError: its ending is none of `FORMATS`.
    """
    if path.suffix.lstrip(".") not in FORMATS:
        raise StudyError(f"--figure {path}: expected a name that ends in .{' or .'.join(FORMATS)}")


def write(drawn: Picture, path: Path) -> None:
    """Write the picture in the format that the file's ending asks for."""
    content: bytes = getattr(drawn, path.suffix.lstrip("."))
    with replacing(path) as aside:
        aside.write_bytes(content)


def draw(tables: Mapping[str, Sequence[Score]], *, asked: Sequence[str]) -> Picture:
    """Draw a panel per table; the full grid costs all and regrets nothing, and is left out.

    Args:
        tables: scores by the table's name.
        asked: pruners that the others are to be held against: their marks are larger and filled.
    """
    names = _names(tables, asked)
    with styled():
        figure, drawn = panels([fill(name, TITLE) for name in tables])
        for axes, scores in zip(drawn, tables.values(), strict=True):
            for score in scores:
                if (name := _name(score)) in names:
                    _point(axes, score, names.index(name), filled=score.pruner in asked)
            _scales(axes)
        legend(figure, list(_key(names, asked)))
        return picture(
            figure,
            name="replay",
            section="replay",
            title="Cost against regret",
            alt="Share of the full grid's cost against the mean regret of each pruner, with intervals. "
            + " ".join(f"{table}: {_told(scores)}." for table, scores in tables.items()),
        )


def _name(score: Score) -> str:
    """Return what a score is called in the legend: one-shot choices after several shares are one kind."""
    return TOP_K if score.pruner.startswith(TOP_K) else score.pruner


def _names(tables: Mapping[str, Sequence[Score]], asked: Sequence[str]) -> list[str]:
    found = dict.fromkeys(_name(score) for scores in tables.values() for score in scores)
    return [*asked, *(name for name in found if name not in asked and name != "full_grid")]


def _point(axes: Axes, score: Score, place: int, *, filled: bool) -> None:
    found = score.as_json()
    mean, colour = found["regret_mean"], COLOURS[place % len(COLOURS)]
    around = [[max(0.0, mean - found["regret_mean_low"])], [max(0.0, found["regret_mean_high"] - mean)]]
    axes.errorbar(found["cost"], mean, yerr=around, color=colour, elinewidth=0.8, alpha=0.6)
    axes.plot(found["cost"], mean, **_mark(place, filled=filled))


def _mark(place: int, *, filled: bool) -> dict[str, Any]:
    colour = COLOURS[place % len(COLOURS)]
    return {
        "linestyle": "",
        "marker": MARKERS[place % len(MARKERS)],
        "color": colour,
        "markerfacecolor": colour if filled else "white",
        "markersize": PRUNER_SIZE if filled else COMPARATOR_SIZE,
    }


def _scales(axes: Axes) -> None:
    axes.axhline(0, color=FAINT, linewidth=0.8)
    axes.set_yscale("symlog", linthresh=STRAIGHT)
    axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=STRAIGHT, subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_ylim(bottom=min(-ROOM, axes.dataLim.y0))
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set(xlabel="share of the full grid's cost", ylabel="mean regret")


def _key(names: Sequence[str], asked: Sequence[str]) -> Iterator[Line2D]:
    for place, name in enumerate(names):
        yield Line2D([], [], label=name.replace("_", " "), **_mark(place, filled=name in asked))


def _told(scores: Sequence[Score]) -> str:
    found = [score.as_json() for score in scores if score.pruner != "full_grid"]
    return ", ".join(f"{one['pruner']} {one['cost']:.0%} and {one['regret_mean']:.4f}" for one in found)
