"""The report's tables: for the terminal, Markdown and CSV."""

import io
from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

MACRO = "macro"
"""The target name under which a task gives the mean over its targets."""


def primary(found: dict[str, Any]) -> str:
    """Return the bare name of the primary metric: `auroc` of `val/auroc/macro`."""
    return str(found["primary_metric"]).split("/")[1]


def rows_of(found: dict[str, Any], cell: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a cell's test rows of the primary metric, by target."""
    return {row["target"]: row for row in cell["test"] if row["metric"] == primary(found)}


def interval(row: dict[str, Any] | None) -> str:
    """Write a value with its interval, or why there is none."""
    if row is None:
        return "not measured"
    if row["value"] is None:
        return f"undefined ({row['positives']}+ {row['negatives']}-)"
    if row["low"] is None:
        return f"{row['value']:.3f}"
    return f"{row['value']:.3f} ({_short(row['low'])}-{_short(row['high'])})"


def _short(value: float) -> str:
    """Write a bound without the zero that every share has."""
    return f"{value:.3f}".removeprefix("0")


def overview(found: dict[str, Any]) -> pd.DataFrame:
    """One row per cell: axes, winner, validation and test."""
    metric = primary(found)
    rows = []
    for cell in found["cells"]:
        searched = ", ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in cell["searched"].items())
        rows.append(
            {
                **{axis: value for axis, value in cell["axes"].items() if _varies(found, axis)},
                "winner": searched,
                "epoch": cell["epoch"],
                f"validation {metric}": f"{cell['validation']:.3f}",
                f"test {metric} ({found['confidence']:.0%} interval)": interval(rows_of(found, cell).get(MACRO)),
            }
        )
    return pd.DataFrame(rows)


def per_target(found: dict[str, Any]) -> pd.DataFrame:
    """One row per target, one column per cell, and the metadata-only baseline where it was asked for."""
    targets = [*found["targets"], MACRO]
    columns = {
        short_name(found, cell): [interval(rows_of(found, cell).get(t)) for t in targets] for cell in found["cells"]
    }
    for baseline in found["baselines"]:
        known = {row["target"]: row for row in baseline["rows"]}
        columns[f"view, sex, age only ({baseline['dataset']})"] = [interval(known.get(t)) for t in targets]
    return pd.DataFrame(columns, index=pd.Index(targets, name="test"))


def by_subgroup(found: dict[str, Any], columns: Sequence[str] | None = None) -> pd.DataFrame:
    """One row per group of the test cases, one column per cell, macro only; empty where nothing was divided.

    Args:
        found: the report.
        columns: which divisions; all that were measured by default.
    """
    rows: dict[tuple[str, str, int], dict[str, str]] = {}
    for cell in found["cells"]:
        for row in cell["subgroups"]:
            wanted = columns is None or row["column"] in columns
            if wanted and row["target"] == MACRO and row["metric"] == primary(found):
                group = rows.setdefault((row["column"], row["group"], row["cases"]), {})
                group[short_name(found, cell)] = interval(row)
    return pd.DataFrame([{"division": d, "group": g, "cases": n, **cells} for (d, g, n), cells in rows.items()])


def external(found: dict[str, Any]) -> pd.DataFrame:
    """One row per cell and external data set: macro over the pathologies that both know; empty where none was asked."""
    rows = [
        {
            "cell": short_name(found, cell),
            "tested on": row["dataset"],
            "cases": row["cases"],
            f"external {primary(found)}": interval(row),
            f"internal {primary(found)}": interval(rows_of(found, cell).get(MACRO)),
        }
        for cell in found["cells"]
        for row in cell["external"]
        if row["target"] == MACRO and row["metric"] == primary(found)
    ]
    return pd.DataFrame(rows)


def tidy_csv(found: dict[str, Any]) -> str:
    """One row per cell and target, with every axis, in the fashion of the authors' result files."""
    rows = [
        {
            **cell["axes"],
            "evaluation_type": f"external: {row['dataset']}" if "dataset" in row else "internal",
            "label": "macro_avg" if row["target"] == MACRO else row["target"],
            "metric": row["metric"],
            "mean": row["value"],
            "ci_low": row["low"],
            "ci_high": row["high"],
            "positives": row["positives"],
            "negatives": row["negatives"],
            "trial": cell["trial"],
        }
        for cell in found["cells"]
        for row in [*cell["test"], *cell["external"]]
    ]
    buffer = io.StringIO()
    pd.DataFrame(rows).to_csv(buffer, index=False)
    return buffer.getvalue()


def markdown(found: dict[str, Any]) -> str:
    """The report as Markdown."""
    parts = [f"# {found['study']}", "", *sentences(found), "", _markdown_table(overview(found)), ""]
    parts += ["## Per target", "", _markdown_table(per_target(found).reset_index()), ""]
    if len(external(found)):
        parts += ["## On other data sets", "", _markdown_table(external(found)), ""]
    groups = by_subgroup(found)
    if len(groups):
        parts += ["## Groups of the test cases", "", _markdown_table(groups), ""]
    return "\n".join(parts)


def sentences(found: dict[str, Any]) -> list[str]:
    """Say in words what was run and what came of it."""
    counts, epochs = found["counts"], found["epochs"]
    told = [
        f"{counts['cells']} cells, {counts['trials']} trials: {counts.get('COMPLETE', 0)} complete, "
        f"{counts.get('PRUNED', 0)} pruned, {counts.get('FAILED', 0)} failed. "
        f"{epochs['trained']} of {epochs['full_grid']} epochs were trained.",
    ]
    for data in found["data"]:
        images = data["images"]
        told.append(
            f"{data['dataset']}: {images['train']} training, {images['val']} validation and {images['test']} "
            f"test images ({data['validation']}); {data['quarantined']} quarantined."
        )
    told.append(
        f"Winners were chosen on validation; the test partition was read once per winner. Intervals: "
        f"{found['redraws']} bootstrap redraws of {found['unit']}s."
    )
    told += [f"Cell without a finished trial: {cell}." for cell in found["cells_without_winner"]]
    return told


def show(found: dict[str, Any], console: Console) -> None:
    """Print the report."""
    console.print(f"\n[bold]{found['study']}[/bold]")
    for sentence in sentences(found):
        console.print(sentence, soft_wrap=True, highlight=False)
    console.print()
    console.print(_rich(overview(found)))
    if len(found["cells"]) <= 8:
        console.print(_rich(per_target(found).reset_index()))
    if len(external(found)):
        console.print(_rich(external(found)))
    within = by_subgroup(found, ["origin"])
    if len(within) and found["baselines"]:  # whoever asks what metadata tell also wants to know this
        console.print(_rich(within))


def short_name(found: dict[str, Any], cell: dict[str, Any]) -> str:
    """Name a cell by the axes that vary in this study."""
    values = [str(value) for axis, value in cell["axes"].items() if _varies(found, axis)]
    return " ".join(values) or str(cell["cell"])


def _varies(found: dict[str, Any], axis: str) -> bool:
    return len(found["axes"].get(axis, [])) != 1


def _markdown_table(table: pd.DataFrame) -> str:
    header = "| " + " | ".join(map(str, table.columns)) + " |"
    rule = "|" + "---|" * len(table.columns)
    body = ["| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join([header, rule, *body])


def _rich(table: pd.DataFrame) -> Table:
    drawn = Table(show_lines=False)
    for column in table.columns:
        drawn.add_column(str(column), overflow="fold")
    for row in table.itertuples(index=False):
        drawn.add_row(*map(str, row))
    return drawn
