"""The winners within groups of the test cases: sexes, age bands, views, sub-sources."""

from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.lines import Line2D

from search.report.figures.canvas import INK, PANELS_A_ROW, Picture, beyond, errors, key_of, legend, panels, picture
from search.report.layout import MACRO, Looks, cells_of, datasets, groups_of, primary, rows_of, share, span, spoken

ROW = 0.32
NAME = 20
"""Letters that a panel has room for beside it."""
Groups = dict[tuple[str, str], list[dict[str, Any] | None]]
"""The macro row of each cell, by division and group."""


def draw(found: dict[str, Any]) -> Iterator[Picture]:
    """Draw a panel per data set whose test cases were divided."""
    groups = {dataset: groups_of(found, dataset) for dataset in datasets(found)}
    divided = {dataset: members for dataset, members in groups.items() if members}
    if divided:
        yield _figure(found, divided)


def _figure(found: dict[str, Any], divided: dict[str, Groups]) -> Picture:
    looks, metric = Looks.of(found), spoken(primary(found))
    most = max(map(len, divided.values())) + 1
    labels = {
        dataset: ["all cases", *(_label(*names, measured) for names, measured in groups.items())]
        for dataset, groups in divided.items()
    }
    figure, drawn = panels(list(divided), height=0.9 + ROW * most)
    wider = beyond(NAME, [name for names in labels.values() for name in names])
    figure.set_figwidth(figure.get_figwidth() + wider * min(PANELS_A_ROW, len(divided)))
    for axes, (dataset, groups) in zip(drawn, divided.items(), strict=True):
        cells = cells_of(found, dataset)
        choose = max if found["direction"] == "maximize" else min
        best = choose(cells, key=lambda cell: cell["validation"])
        for index, cell in enumerate(cells):
            rows = [rows_of(found, cell).get(MACRO), *(measured[index] for measured in groups.values())]
            for place, row in enumerate(rows):
                if not row or row["value"] is None:
                    continue
                axes.plot(row["value"], place, looks.marker_of(cell), color=looks.colour_of(cell), ms=4, alpha=0.5)
                if cell is best:
                    axes.errorbar(row["value"], place, xerr=errors(row), fmt="d", color=INK, ms=5, elinewidth=1.4)
        axes.set_yticks(range(len(labels[dataset])), labels[dataset], fontsize=8)
        axes.set_ylim(len(labels[dataset]) - 0.5, -0.5)
        axes.set_xlabel(f"test {metric}")
    chosen = Line2D([], [], color=INK, marker="d", label="best on validation, with interval")
    legend(figure, [*key_of(looks, lines=False), chosen])
    return picture(
        figure,
        name="subgroups",
        section="subgroups",
        title="Groups of the test cases",
        alt=f"Macro test {metric} of every cell within groups of the test cases (in brackets the number of cases, and "
        f"of how many targets it is the mean if not of all), for {', '.join(divided)}; the values are in "
        "subgroups.csv.",
    )


def _label(division: str, group: str, measured: Sequence[dict[str, Any] | None]) -> str:
    known = [row for row in measured if row]
    over = f"; {told}" if (told := share(known)) else ""
    return f"{division.replace('_', ' ')} {group} ({span(row['cases'] for row in known)}{over})"
