"""The winners within groups of the test cases: sexes, age bands, views, sub-sources."""

from collections.abc import Iterator
from typing import Any

from matplotlib.lines import Line2D

from search.report.figures.canvas import INK, Picture, errors, key_of, legend, panels, picture
from search.report.layout import MACRO, Looks, cells_of, datasets, primary, rows_of, spoken

ROW = 0.32


def draw(found: dict[str, Any]) -> Iterator[Picture]:
    """Draw a panel per data set whose test cases were divided."""
    groups = {dataset: _groups(found, dataset) for dataset in datasets(found)}
    divided = {dataset: members for dataset, members in groups.items() if members}
    if divided:
        yield _figure(found, divided)


def _groups(found: dict[str, Any], dataset: str) -> list[tuple[str, str, int]]:
    """Return division, group and number of cases, in order."""
    rows = [row for cell in cells_of(found, dataset) for row in cell["subgroups"]]
    return list(dict.fromkeys((row["column"], row["group"], row["cases"]) for row in rows))


def _figure(found: dict[str, Any], divided: dict[str, list[tuple[str, str, int]]]) -> Picture:
    looks, metric = Looks.of(found), spoken(primary(found))
    most = max(map(len, divided.values())) + 1
    figure, drawn = panels(list(divided), height=0.9 + ROW * most)
    for axes, (dataset, groups) in zip(drawn, divided.items(), strict=True):
        cells = cells_of(found, dataset)
        choose = max if found["direction"] == "maximize" else min
        best = choose(cells, key=lambda cell: cell["validation"])
        for cell in cells:
            rows = {("", "all cases"): rows_of(found, cell).get(MACRO)} | _rows(found, cell)
            for place, (division, group, _) in enumerate([("", "all cases", 0), *groups]):
                row = rows.get((division, group))
                if not row or row["value"] is None:
                    continue
                axes.plot(row["value"], place, looks.marker_of(cell), color=looks.colour_of(cell), ms=4, alpha=0.5)
                if cell is best:
                    axes.errorbar(row["value"], place, xerr=errors(row), fmt="d", color=INK, ms=5, elinewidth=1.4)
        labels = ["all cases", *(f"{division.replace('_', ' ')} {group} ({n})" for division, group, n in groups)]
        axes.set_yticks(range(len(labels)), labels, fontsize=8)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlabel(f"test {metric}")
    chosen = Line2D([], [], color=INK, marker="d", label="best on validation, with interval")
    legend(figure, [*key_of(looks, lines=False), chosen])
    return picture(
        figure,
        name="subgroups",
        section="subgroups",
        title="Groups of the test cases",
        alt=f"Macro test {metric} of every cell within groups of the test cases (number of cases in brackets), for "
        f"{', '.join(divided)}; the values are in subgroups.csv.",
    )


def _rows(found: dict[str, Any], cell: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (row["column"], row["group"]): row
        for row in cell["subgroups"]
        if row["target"] == MACRO and row["metric"] == primary(found)
    }
