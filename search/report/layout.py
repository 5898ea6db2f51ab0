"""How a report reads its axes: what varies, what is told apart by place, colour and shape."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from datasets.dataset_config import QUESTION
from search import grid
from search.wording import counted

MACRO = "macro"
"""The target name under which a task gives the mean over its targets."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, distinguishable for colour-blind readers."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LINES = ("-", "--", "-.", ":")


def primary(found: dict[str, Any]) -> str:
    """Return the bare name of the primary metric: `auroc` of `val/auroc/macro`."""
    return str(found["primary_metric"]).split("/")[1]


def spoken(metric: str) -> str:
    """Write a metric as people do: short names are acronyms."""
    return metric.upper() if len(metric) <= 5 and "_" not in metric else metric.replace("_", " ")


def varies(found: dict[str, Any], axis: str) -> bool:
    """Whether an axis has several values in this study."""
    return len(found["axes"].get(axis, [])) != 1


def is_numeric(values: Sequence[Any]) -> bool:
    """Whether all values of an axis are numbers, so that they have an order."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def axes_of(cell: dict[str, Any]) -> dict[str, Any]:
    """Return a cell's axis values as a table holds them: a recipe of several settings in words."""
    return {axis: grid.readable(value) if isinstance(value, dict) else value for axis, value in cell["axes"].items()}


def short_name(found: dict[str, Any], cell: dict[str, Any], *, without: Sequence[str] = ()) -> str:
    """Name a cell by the axes that vary in this study, less some."""
    values = [grid.readable(v) for axis, v in cell["axes"].items() if varies(found, axis) and axis not in without]
    return " ".join(values) or ("" if without else str(cell["cell"]))


def datasets(found: dict[str, Any]) -> list[str]:
    """Return the names of the data sets that have a winner, in the order of the file."""
    return list(dict.fromkeys(cell["axes"]["dataset"] for cell in found["cells"]))


def question(found: dict[str, Any], cell: dict[str, Any]) -> str:
    """Name what a cell was asked: its data set, and labels and patients where these are compared.

    Values rank within one question alone.
    """
    asked = [
        f"{axis}={grid.readable(cell['axes'][axis])}"
        for axis in QUESTION
        if axis in cell["axes"] and varies(found, axis)
    ]
    return str(cell["axes"]["dataset"]) + (f" ({', '.join(asked)})" if asked else "")


def cells_of(found: dict[str, Any], dataset: str) -> list[dict[str, Any]]:
    """Return the cells of one data set."""
    return [cell for cell in found["cells"] if cell["axes"]["dataset"] == dataset]


def rows_of(found: dict[str, Any], cell: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a cell's test rows of the primary metric, by target."""
    return {row["target"]: row for row in cell["test"] if row["metric"] == primary(found)}


def has_several_seeds(found: dict[str, Any]) -> bool:
    """Whether some trials differ in their seed."""
    return len({trial["seed"] for trial in found["trials"]}) > 1


def over_seeds(found: dict[str, Any], cell: dict[str, Any]) -> list[float]:
    """Return what a winner's hyperparameters came to on validation, a value for each seed that finished."""
    same = (cell["cell"], cell["searched"])
    finished = (trial for trial in found["trials"] if trial["state"] == "COMPLETE" and trial["best"] is not None)
    return [trial["best"] for trial in finished if (trial["cell"], trial["searched"]) == same]


def external_rows_of(found: dict[str, Any], cell: dict[str, Any], dataset: str) -> dict[str, dict[str, Any]]:
    """Return a cell's rows of the primary metric on another data set, by target."""
    return {r["target"]: r for r in cell["external"] if (r["dataset"], r["metric"]) == (dataset, primary(found))}


def targets_of(found: dict[str, Any], dataset: str) -> list[str]:
    """Return the targets that a data set's cells were measured on, macro last; the declared ones if none was yet."""
    told = [target for cell in cells_of(found, dataset) for target in rows_of(found, cell)]
    return [*(dict.fromkeys(t for t in told or found["targets"] if t != MACRO)), MACRO]


def groups_of(found: dict[str, Any], dataset: str) -> dict[tuple[str, str], list[dict[str, Any] | None]]:
    """Return by division and group the macro row of each of a data set's cells, None where it has none."""
    by_cell = [
        {
            (row["column"], row["group"]): row
            for row in cell["subgroups"]
            if row["target"] == MACRO and row["metric"] == primary(found)
        }
        for cell in cells_of(found, dataset)
    ]
    return {group: [rows.get(group) for rows in by_cell] for group in dict.fromkeys(g for r in by_cell for g in r)}


def span(values: Iterable[int]) -> str:
    """Write the counts of several cells: one if they agree, else the smallest and the largest."""
    known = sorted(set(values))
    return f"{known[0]}" if len(known) == 1 else f"{known[0]}-{known[-1]}"


def share(rows: Iterable[dict[str, Any]]) -> str:
    """Say of how many targets macro rows are the mean; empty where it is all of them."""
    rows = list(rows)
    if all(row["macro_over"] == row["targets"] for row in rows):
        return ""
    most = max(row["targets"] for row in rows)
    return f"{span(row['macro_over'] for row in rows)} of {counted(most, 'target')}"


@dataclass(frozen=True, slots=True)
class Looks:
    """How the cells of a study are told apart in a figure.

    Attributes:
        place: the axis along x, e.g. resolution; None where no axis of numbers varies.
        colour: the axis told by colour, e.g. initialization; None where nothing else varies.
        shapes: the axes told together by marker and line, e.g. backbone.
        axes: values by axis.
    """

    place: str | None
    colour: str | None
    shapes: tuple[str, ...]
    axes: dict[str, list[Any]]

    @classmethod
    def of(cls, found: dict[str, Any]) -> "Looks":
        """Choose from what varies."""
        varying = {axis: list(v) for axis, v in found["axes"].items() if len(v) > 1 and axis != "dataset"}
        place = next((axis for axis, values in varying.items() if is_numeric(values)), None)
        rest = [axis for axis in varying if axis != place]
        colour = "initialization" if "initialization" in rest else next(iter(rest), None)
        return cls(place, colour, tuple(axis for axis in rest if axis != colour), varying)

    def colour_of(self, cell: dict[str, Any]) -> str:
        """Return the cell's colour."""
        if self.colour is None:
            return COLOURS[0]
        return COLOURS[self.axes[self.colour].index(cell["axes"][self.colour]) % len(COLOURS)]

    def _shape(self, cell: dict[str, Any]) -> int:
        index = 0
        for axis in self.shapes:
            index = index * len(self.axes[axis]) + self.axes[axis].index(cell["axes"][axis])
        return index

    def marker_of(self, cell: dict[str, Any]) -> str:
        """Return the cell's marker."""
        return MARKERS[self._shape(cell) % len(MARKERS)]

    def line_of(self, cell: dict[str, Any]) -> str:
        """Return the cell's line style."""
        return LINES[self._shape(cell) % len(LINES)]

    def series_of(self, cell: dict[str, Any]) -> str:
        """Name all but the place: what one line of a figure stands for."""
        names = [axis for axis in (self.colour, *self.shapes) if axis]
        return " ".join(grid.readable(cell["axes"][axis]) for axis in names) or "all"

    def place_of(self, cell: dict[str, Any]) -> int:
        """Return where along x the cell stands: the rank of its value, so that doublings are equally far apart."""
        if self.place is None:
            return 0
        return sorted(self.axes[self.place]).index(cell["axes"][self.place])

    def places(self) -> list[str]:
        """Return the labels along x."""
        return [grid.readable(value) for value in sorted(self.axes[self.place])] if self.place else [""]
