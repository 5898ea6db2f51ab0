"""What all figures share: style, panels, legends, and how they become files."""

import hashlib
import io
import itertools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from search import grid
from search.report.layout import MARKERS, Looks

INK = "#222222"
FAINT = "#666666"
PANELS_A_ROW = 3
LETTER, HANDLE, LEGEND_ROW = 0.068, 0.5, 0.2
"""Inches: of a letter of a legend, of what stands before an entry, and of a row."""
STYLE = {
    "text.parse_math": False,  # a path may hold dollar signs
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "radsweep",  # the same report is the same bytes
    "svg.fonttype": "none",  # text stays text: a third of the bytes, and it can be searched and copied
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "path.simplify": True,
}


LONGEST_NAME = 120
"""Bytes; with the endings, and what is added while they are written, files may have 255."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure as files.

    Attributes:
        name: of the files, without their ending.
        section: of the page it stands in.
        title: short.
        alt: what it shows, for those who do not see it.
        width: in CSS pixels, at which its text is as large as the page's small print.
        svg: for screen and print.
        png: for slides and for programs that draw no SVG.
    """

    name: str
    section: str
    title: str
    alt: str
    width: int
    svg: bytes
    png: bytes


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the report's style, and leave matplotlib as it was."""
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # Where the font lacks a letter the PNG has a box; the SVG has text, drawn in whatever font its reader has.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def picture(figure: Figure, *, name: str, section: str, title: str, alt: str) -> Picture:
    """Turn a figure into files; equal figures give equal bytes.

    Args:
        figure: drawn.
        name: of the files, as it may come from a study's names and paths; `file_name` makes it one.
        section: of the page it stands in.
        title: short.
        alt: what it shows.
    """
    svg, png = io.BytesIO(), io.BytesIO()
    if engine := figure.get_layout_engine():  # lay out once, not for each draft of each file
        engine.execute(figure)
        figure.set_layout_engine("none")
    figure.savefig(svg, format="svg", metadata={"Date": None})
    figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
    width = round(figure.get_figwidth() * 96)
    return Picture(file_name(name), section, title, alt, width, svg.getvalue(), png.getvalue())


def file_name(name: str) -> str:
    """Return a name that can stand in a folder and in a link; one that is changed for it ends in a hash of its own."""
    clean = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
    clean = clean.encode()[:LONGEST_NAME].decode(errors="ignore")
    return clean if clean == name else f"{clean}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def panels(names: Sequence[str], *, height: float = 2.7, legend: float = 0.4) -> tuple[Figure, list[Axes]]:
    """Return a figure with a titled panel per name, `PANELS_A_ROW` a row, and room for a legend above.

    Args:
        names: panel titles; the title of a single panel is left out.
        height: of a row, in inches.
        legend: room for it, in inches.
    """
    columns = min(PANELS_A_ROW, len(names))
    rows = -(-len(names) // columns)
    width = 9.6 if columns == PANELS_A_ROW else 4.0 * columns + 1.2
    tall = (height + (0.8 if columns == 1 else 0)) * rows + legend
    below_legend = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - legend / tall))
    figure = Figure(figsize=(width, tall), layout=below_legend)
    grid_of_axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid_of_axes[len(names) :]:
        axes.set_visible(False)
    drawn = list(grid_of_axes[: len(names)])
    for axes, name in zip(drawn, names, strict=True):
        axes.set_title(name if len(names) > 1 else "", loc="left", fontweight="bold")
    return figure, drawn


def beyond(letters: int, names: Sequence[str]) -> float:
    """Return how many inches the longest of some names, such as a path, takes beyond so many letters."""
    return LETTER * max([0, *(len(name) - letters for name in names)])


def legend(figure: Figure, handles: Sequence[Line2D], *, columns: int = 10) -> None:
    """Put a legend above the panels, in as many rows as it takes; the figure grows by what it has no room for."""
    if not handles:
        return
    widest = HANDLE + LETTER * max(len(str(handle.get_label())) for handle in handles)
    figure.set_figwidth(max(figure.get_figwidth(), widest))
    columns = max(1, min(columns, len(handles), int(figure.get_figwidth() / widest)))
    layout = figure.get_layout_engine()
    if isinstance(layout, ConstrainedLayoutEngine):
        share = layout.get()["rect"][3]
        tall = figure.get_figheight()
        grown = max(tall, tall * share + LEGEND_ROW * (-(-len(handles) // columns) + 1))
        figure.set_figheight(grown)
        layout.set(rect=(0, 0, 1, share * tall / grown))
    figure.legend(handles=handles, loc="upper left", ncols=columns, fontsize=8.5, handletextpad=0.4, columnspacing=1.1)


def key_of(looks: Looks, *, lines: bool = True) -> list[Line2D]:
    """Return the legend's entries: a colour each, then a shape each."""
    handles = []
    if looks.colour:
        for value in looks.axes[looks.colour]:
            colour = looks.colour_of({"axes": {looks.colour: value}})
            handles.append(Line2D([], [], color=colour, linewidth=3, label=grid.readable(value)))
    for axes in _shapes(looks):
        cell = {"axes": axes}
        style: dict[str, Any] = {"marker": looks.marker_of(cell), "linestyle": looks.line_of(cell) if lines else ""}
        label = " ".join(grid.readable(value) for value in axes.values())
        handles.append(Line2D([], [], color=INK, markersize=5, label=label, **style))
    return handles


def place_key(looks: Looks) -> list[Line2D]:
    """Return the legend's entries where the axis of numbers is told by the marker's size."""
    return [
        Line2D([], [], color=FAINT, linestyle="", marker=MARKERS[0], markersize=size_of(rank), label=f"{label}")
        for rank, label in enumerate(looks.places())
        if looks.place
    ]


def size_of(rank: int) -> float:
    """Return the marker size that stands for the rank of a value."""
    return 4.0 + 2.0 * rank


def _shapes(looks: Looks) -> Iterator[dict[str, Any]]:
    if looks.shapes:
        for values in itertools.product(*(looks.axes[axis] for axis in looks.shapes)):
            yield dict(zip(looks.shapes, values, strict=True))


def errors(row: dict[str, Any]) -> list[list[float]]:
    """Return the lengths of a row's interval on either side, as errorbar wants them; 0 where there is none."""
    low, high = (row["value"] if row[end] is None else row[end] for end in ("low", "high"))
    return [[max(0.0, row["value"] - low)], [max(0.0, high - row["value"])]]
