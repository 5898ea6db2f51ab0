"""Learning curves, with the trials that were pruned, dropped for the budget or failed marked where they stopped."""

from collections.abc import Iterator
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from search.report.figures.canvas import INK, Picture, key_of, legend, panels, picture
from search.report.layout import Looks, datasets, primary, spoken

ENDS = {"PRUNED": "x", "DROPPED": "+", "FAILED": "*", "UNFINISHED": "|"}
"""Markers by how a trial stopped; a complete one has none."""


def draw(found: dict[str, Any]) -> Iterator[Picture]:
    """Draw a panel per data set."""
    if any(trial["curve"] for trial in found["trials"]):
        yield _curves(found)


def _curves(found: dict[str, Any]) -> Picture:
    looks = Looks.of(found)
    axes_of = {trial["cell"]: trial["axes"] for trial in found["trials"] if trial["curve"]}
    names = list(dict.fromkeys([*datasets(found), *(axes["dataset"] for axes in axes_of.values())]))
    figure, drawn = panels(names)
    by_name = dict(zip(names, drawn, strict=True))
    for trial in found["trials"]:
        if trial["curve"] and trial["axes"]["dataset"] in by_name:
            _draw(by_name[trial["axes"]["dataset"]], trial, looks)
    for axes in drawn:
        axes.set(xlabel="epoch", ylabel=f"validation {spoken(primary(found))}")
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    ends = [
        Line2D([], [], color=INK, marker=ENDS[state], linestyle=":", label=state.lower())
        for state in ENDS
        if any(trial["state"] == state for trial in found["trials"])
    ]
    legend(figure, [*key_of(looks, lines=False)[: len(looks.axes.get(looks.colour or "", []))], *ends])
    counts = ", ".join(f"{number} {state.lower()}" for state, number in _counts(found).items())
    return picture(
        figure,
        name="curves",
        section="curves",
        title="Learning curves",
        alt=f"Validation {spoken(primary(found))} by epoch of {len(found['trials'])} trials ({counts}). Dotted curves "
        "end where the trial was stopped; the reasons are in the table of decisions.",
    )


def _draw(axes: Axes, trial: dict[str, Any], looks: Looks) -> None:
    epochs, values = [int(epoch) for epoch in trial["curve"]], list(trial["curve"].values())
    whole, colour = trial["state"] == "COMPLETE", looks.colour_of(trial)
    axes.plot(epochs, values, color=colour, linestyle="-" if whole else ":", linewidth=1.1, alpha=0.85)
    if not whole or len(epochs) == 1:
        axes.plot(epochs[-1:], values[-1:], ENDS.get(trial["state"], "."), color=colour, markersize=6, alpha=0.85)


def _counts(found: dict[str, Any]) -> dict[str, int]:
    states = [trial["state"] for trial in found["trials"]]
    return {state: states.count(state) for state in dict.fromkeys(states)}
