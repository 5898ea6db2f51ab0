"""Forest plots: what one value of an axis gains over another, in every cell and on every target."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from search.report import differences
from search.report.figures.canvas import FAINT, INK, Picture, beyond, picture
from search.report.layout import COLOURS, MACRO, primary, spoken
from search.report.words import ALPHA

ROW = 0.2
"""Inches that a row takes."""
NAME, LABEL = 32, 100
"""Letters of a row's name, and of the words below, that there is always room for."""
HIGHER, LOWER, UNSURE = COLOURS[0], COLOURS[1], FAINT
Row = Mapping[str, Any]


def draw(found: dict[str, Any]) -> Iterator[Picture]:
    """Draw two per contrast: macro by pair of cells, and the mean over pairs by target."""
    for contrast in differences.contrasts(found):
        pairs = [
            row
            for row in differences.of_contrast(found["differences"]["pairs"], contrast)
            if row["target"] == MACRO and row["difference"] is not None
        ]
        averages = [
            row
            for row in differences.of_contrast(found["differences"]["averages"], contrast)
            if row["difference"] is not None
        ]
        if pairs:
            yield _by_pair(found, contrast, pairs, [row for row in averages if row["target"] == MACRO])
        targets = [row for row in averages if row["target"] != MACRO]
        if targets:
            yield _by_target(found, contrast, sorted(targets, key=lambda row: -row["difference"]))


def _by_pair(
    found: dict[str, Any], contrast: tuple[str, str, str], pairs: Sequence[Row], average: Sequence[Row]
) -> Picture:
    axis, value, against = contrast
    labels = [f"{row['dataset']}  {row['context']}".strip() for row in pairs]
    if len(pairs) > 1:
        labels += [f"mean of {row['pairs']} pairs" for row in average]
        pairs = [*pairs, *average]
    metric = spoken(primary(found))
    figure = _forest(labels, pairs, f"{value} − {against}: difference of macro test {metric}", len(average))
    return picture(
        figure,
        name=f"difference-{axis}-{value}-{against}",
        section="differences",
        title=f"{axis}: {value} − {against}, by cell",
        alt=f"Forest plot of the macro test {metric} of {value} minus {against} for {len(labels)} rows, with paired "
        "intervals and adjusted p-values; the same values are in the table of differences.",
    )


def _by_target(found: dict[str, Any], contrast: tuple[str, str, str], rows: Sequence[Row]) -> Picture:
    axis, value, against = contrast
    labels = [f"{row['target'].replace('_', ' ')} ({row['pairs']})" for row in rows]
    metric = spoken(primary(found))
    figure = _forest(labels, rows, f"{value} − {against}: mean difference of test {metric} over pairs of cells", 0)
    return picture(
        figure,
        name=f"difference-{axis}-{value}-{against}-by-target",
        section="differences",
        title=f"{axis}: {value} − {against}, by target (number of pairs averaged)",
        alt=f"Forest plot of the mean test {metric} of {value} minus {against} on {len(labels)} targets, with paired "
        "intervals and adjusted p-values; the same values are in averages.csv.",
    )


def _forest(labels: Sequence[str], rows: Sequence[Row], xlabel: str, averages: int) -> Figure:
    said = textwrap.wrap(xlabel, LABEL, break_long_words=False, break_on_hyphens=False)
    tall = 1.15 + ROW * (len(rows) + len(said) - 1)
    figure = Figure(figsize=(10.4 + beyond(NAME, labels), tall), layout="constrained")
    axes, numbers = figure.subplots(1, 2, sharey=True, width_ratios=(5, 3))
    axes.axvline(0, color=INK, linewidth=0.9)
    for place, row in enumerate(rows):
        colour = _colour(row)
        is_average = place >= len(rows) - averages and len(rows) > averages
        if row["low"] is not None:
            axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2.2 if is_average else 1.3)
        face = colour if colour != UNSURE else "white"
        axes.plot(
            row["difference"], place, "D" if is_average else "o", color=colour, markerfacecolor=face, markersize=5
        )
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("\n".join(said))
    _write_numbers(numbers, rows)
    return figure


def _write_numbers(axes: Axes, rows: Sequence[Row]) -> None:
    """Write each row's values in columns beside the plot."""
    axes.axis("off")
    columns = {
        "difference (interval)": (0.0, [_interval(row) for row in rows]),
        "p (BH)": (0.74, [_p(row["benjamini_hochberg"]) for row in rows]),
        "p (Holm)": (0.9, [_p(row["holm"]) for row in rows]),
    }
    for title, (x, texts) in columns.items():
        axes.text(x, 1.0, title, transform=axes.transAxes, fontsize=8, fontweight="bold", va="bottom")
        for place, text in enumerate(texts):
            axes.text(x, place, text, transform=axes.get_yaxis_transform(), fontsize=8, va="center")


def _interval(row: Row) -> str:
    if row["low"] is None:
        return f"{row['difference']:+.4f}"
    return f"{row['difference']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})"


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def _colour(row: Row) -> str:
    if row["holm"] is None or row["holm"] >= ALPHA:
        return UNSURE
    return HIGHER if row["difference"] > 0 else LOWER
