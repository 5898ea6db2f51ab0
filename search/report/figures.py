"""The report's figures, drawn by matplotlib without a display."""

import io
from typing import Any

from matplotlib.figure import Figure

from search.report import tables

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, distinguishable for colour-blind readers."""
TRIALS_DRAWN = 60


def draw(found: dict[str, Any]) -> dict[str, bytes]:
    """Return PNG files by name; a figure that would be empty is left out."""
    pictures = {"curves": _curves(found)}
    if any(cell["test"] for cell in found["cells"]):
        pictures["targets"] = _targets(found)
    return {name: _png(figure) for name, figure in pictures.items()}


def _curves(found: dict[str, Any]) -> Figure:
    """Learning curves, pruned trials broken and marked where they stopped."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    cells = list(dict.fromkeys(trial["cell"] for trial in found["trials"]))
    for trial in found["trials"][:TRIALS_DRAWN]:
        epochs = [int(epoch) for epoch in trial["curve"]]
        values = list(trial["curve"].values())
        if not epochs:
            continue
        pruned = trial["state"] == "PRUNED"
        colour = COLOURS[cells.index(trial["cell"]) % len(COLOURS)]
        axes.plot(epochs, values, color=colour, linestyle=":" if pruned else "-", marker=".", alpha=0.9)
        if pruned:
            axes.plot(epochs[-1:], values[-1:], color=colour, marker="x", markersize=8)
    for index, cell in enumerate(cells[: len(COLOURS)]):
        axes.plot([], [], color=COLOURS[index], label=cell)
    axes.set(xlabel="epoch", ylabel=found["primary_metric"], title="Learning curves (dotted, × : pruned)")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _targets(found: dict[str, Any]) -> Figure:
    """Test metric per target and cell, with intervals."""
    targets = [*found["targets"], tables.MACRO]
    cells = found["cells"]
    figure = Figure(figsize=(8, 1.2 + 0.16 * len(targets) * (len(cells) + 1)), layout="constrained")
    axes = figure.add_subplot()
    step = 0.8 / max(1, len(cells))
    for index, cell in enumerate(cells):
        rows = tables.rows_of(found, cell)
        defined = [(place, rows[t]) for place, t in enumerate(targets) if t in rows and rows[t]["value"] is not None]
        places = [place + (index - (len(cells) - 1) / 2) * step for place, _ in defined]
        values = [row["value"] for _, row in defined]
        spans = [
            [row["value"] - (row["low"] if row["low"] is not None else row["value"]) for _, row in defined],
            [(row["high"] if row["high"] is not None else row["value"]) - row["value"] for _, row in defined],
        ]
        colour = COLOURS[index % len(COLOURS)]
        label = tables.short_name(found, cell)
        axes.errorbar(values, places, xerr=spans, fmt="o", markersize=4, color=colour, label=label)
    axes.set_yticks(range(len(targets)), targets)
    axes.invert_yaxis()
    axes.set(xlabel=f"test {tables.primary(found)}", title="Winners on the test partition")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
