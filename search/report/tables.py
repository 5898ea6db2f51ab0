"""The report's tables, and how they are printed."""

from collections.abc import Iterator, Sequence
from statistics import fmean, stdev
from typing import Any

import pandas as pd
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from search.report import words
from search.report.layout import (
    MACRO,
    axes_of,
    cells_of,
    datasets,
    external_rows_of,
    groups_of,
    has_several_seeds,
    over_seeds,
    primary,
    rows_of,
    share,
    short_name,
    span,
    targets_of,
    varies,
)
from search.wording import percent

FEW_CELLS = 8
"""Up to here a table with a column for each cell can be read."""
MACRO_OVER = "macro over"
BORDER = 3
"""Letters of a line that a column costs besides its own."""


def interval(row: dict[str, Any] | None) -> str:
    """Write a value with its interval, or why there is none."""
    if row is None:
        return "not measured"
    if row["value"] is None:  # macro has no counts of its own
        return "undefined" if row["positives"] is None else f"undefined ({row['positives']}+ {row['negatives']}-)"
    if row["low"] is None:
        return f"{row['value']:.3f}"
    return f"{row['value']:.3f} ({_short(row['low'])}-{_short(row['high'])})"


def _short(value: float) -> str:
    """Write a bound without the zero that every share has."""
    return f"{value:.3f}".removeprefix("0")


def mean_and_deviation(values: Sequence[float]) -> str:
    """Write a mean, the standard deviation (n - 1) and n; a single value has no deviation."""
    if len(values) < 2:
        return "one seed"
    return f"{fmean(values):.3f} ± {stdev(values):.3f} ({len(values)})"


def point(searched: dict[str, Any]) -> str:
    """Write searched values."""
    return ", ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in searched.items())


def overview(found: dict[str, Any]) -> pd.DataFrame:
    """One row per cell: axes, winner, validation and test; where there are several seeds also how far these differ."""
    metric = primary(found)
    rows = []
    several = has_several_seeds(found)
    for cell in found["cells"]:
        seed = {"seed": cell["seed"]} if several else {}
        spread = {"mean ± sd over seeds": mean_and_deviation(over_seeds(found, cell))} if several else {}
        rows.append(
            {
                **{axis: value for axis, value in axes_of(cell).items() if varies(found, axis)},
                "winner": point(cell["searched"] | seed),
                "epoch": cell["epoch"],
                f"validation {metric}": f"{cell['validation']:.3f}",
                **spread,
                f"test {metric} ({percent(found['confidence'])} interval)": interval(rows_of(found, cell).get(MACRO)),
            }
        )
    return pd.DataFrame(rows)


def per_target(found: dict[str, Any], dataset: str) -> pd.DataFrame:
    """One row per target of a data set, one column per cell, and the metadata-only baseline if it was asked for."""
    targets, cells = targets_of(found, dataset), cells_of(found, dataset)
    columns = {_column(found, cell): [interval(rows_of(found, cell).get(t)) for t in targets] for cell in cells}
    for baseline in found["baselines"]:
        if baseline["dataset"] == dataset:
            known = {row["target"]: row for row in baseline["rows"]}
            columns[f"view, sex, age only ({baseline['name']})"] = [interval(known.get(t)) for t in targets]
    return pd.DataFrame(columns, index=pd.Index(targets, name="test"))


def by_subgroup(found: dict[str, Any], dataset: str, divisions: Sequence[str] | None = None) -> pd.DataFrame:
    """One row per group of a data set's test cases, one column per cell, macro only; empty where none was divided.

    Args:
        found: the report.
        dataset: whose cells.
        divisions: such as sex; all that were measured by default.
    """
    names = [_column(found, cell) for cell in cells_of(found, dataset)]
    rows = []
    for (division, group), measured in groups_of(found, dataset).items():
        if divisions is None or division in divisions:
            known = [row for row in measured if row]
            about = {"division": division, "group": group, "cases": span(row["cases"] for row in known)}
            values = dict(zip(names, map(interval, measured), strict=True))
            rows.append({**about, MACRO_OVER: share(known), **values})
    return _with_shares(rows)


def _with_shares(rows: Sequence[dict[str, str]]) -> pd.DataFrame:
    """Return a table of macro means, without the column that tells of how many targets if it is always all."""
    return pd.DataFrame(rows).drop(columns=[] if any(row[MACRO_OVER] for row in rows) else MACRO_OVER, errors="ignore")


def _column(found: dict[str, Any], cell: dict[str, Any]) -> str:
    return short_name(found, cell, without=("dataset",)) or str(cell["cell"])


def external(found: dict[str, Any]) -> pd.DataFrame:
    """One row per cell and external data set, both macros over the pathologies that have both classes in both.

    Empty where none was asked for.
    """
    from trainers.evaluation.subgroups import averaged, defined, shared

    rows = []
    for cell in found["cells"]:
        inside = rows_of(found, cell)
        for dataset in dict.fromkeys(row["dataset"] for row in cell["external"]):
            outside = external_rows_of(found, cell, dataset)
            if MACRO not in inside or MACRO not in outside:
                continue
            over = shared([defined(inside), defined(outside)])
            here, there = averaged(inside, over), averaged(outside, over)
            rows.append(
                {
                    "cell": short_name(found, cell),
                    "tested on": dataset,
                    "cases": str(there["cases"]),
                    MACRO_OVER: share([here]),
                    f"external {primary(found)}": interval(there),
                    f"internal {primary(found)}": interval(here),
                }
            )
    return _with_shares(rows)


def macro_differences(found: dict[str, Any]) -> pd.DataFrame:
    """One row per pair of cells: the macro difference with its interval and p-values."""
    rows = [
        {
            "axis": row["axis"],
            "difference of": f"{row['value']} − {row['against']}",
            "data set": row["dataset"],
            "at": row["context"],
            primary(found): _signed(row["difference"]),
            "interval": f"{_signed(row['low'])} to {_signed(row['high'])}",
            "p": _p(row["p_value"]),
            "p (BH)": _p(row["benjamini_hochberg"]),
            "p (Holm)": _p(row["holm"]),
        }
        for row in found["differences"]["pairs"]
        if row["target"] == MACRO
    ]
    table = pd.DataFrame(rows)
    return table.drop(columns="at") if rows and not any(table["at"]) else table


def _signed(value: float | None) -> str:
    return "undefined" if value is None else f"{value:+.4f}"


def _p(value: float | None) -> str:
    if value is None:
        return "undefined"
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"


def decisions(found: dict[str, Any]) -> pd.DataFrame:
    """One row per decision about a trial: what was done after which epoch, and why."""
    return pd.DataFrame(
        {
            "cell": trial["cell"],
            "trial": point(trial["searched"]),
            "seed": trial["seed"],
            "epoch": decision["epoch"],
            "decision": decision["action"],
            "reason": decision["reason"],
        }
        for trial in found["trials"]
        for decision in trial["decisions"]
    )


def failures(found: dict[str, Any]) -> pd.DataFrame:
    """One row per failed trial."""
    return pd.DataFrame(
        {"cell": trial["cell"], "trial": point(trial["searched"]), "seed": trial["seed"], "reason": trial["reason"]}
        for trial in found["trials"]
        if trial["state"] == "FAILED"
    )


def quarantined(found: dict[str, Any]) -> pd.DataFrame:
    """One row per data set and reason: images that could not be read."""
    return pd.DataFrame(
        {"data set": data["name"], "reason": reason, "images": count}
        for data in [*found["data"], *found["external_data"]]
        for reason, count in data["reasons"].items()
    )


def refused(found: dict[str, Any]) -> pd.DataFrame:
    """One row per reason for which combinations cannot exist."""
    reasons = [one["reason"] for one in found["refused"]]
    return pd.DataFrame({"combinations": reasons.count(reason), "why": reason} for reason in dict.fromkeys(reasons))


def show(found: dict[str, Any], console: Console) -> None:
    """Print the report, its names letter by letter: rich would take what stands in brackets for a style."""
    console.print(Text(f"\n{found['study']}", style="bold"))
    for sentence in words.sentences(found):
        console.print(Text(sentence), soft_wrap=True)
    console.print()
    for table in _shown(found):
        console.print(_rich(table, console.width))
    for sentence in words.findings(found):
        console.print(Text(sentence), soft_wrap=True)


def _shown(found: dict[str, Any]) -> Iterator[pd.DataFrame]:
    yield overview(found)
    if len(found["cells"]) <= FEW_CELLS:
        yield from (per_target(found, dataset).reset_index() for dataset in datasets(found))
    if len(across := external(found)):
        yield across
    for dataset in datasets(found):
        within = by_subgroup(found, dataset, ["origin"])
        if len(within) and found["baselines"]:  # whoever asks what metadata tell also wants to know this
            yield within


def _rich(table: pd.DataFrame, width: int) -> Table:
    """Return a table for a terminal of so many columns."""
    drawn = Table(show_lines=False)
    texts = [[Text(str(text)) for text in (name, *table[name])] for name in table.columns]
    for (name, *_), own in zip(texts, _widths(texts, width - BORDER * len(texts) - 1), strict=True):
        drawn.add_column(name, overflow="fold", width=own)
    for row in zip(*(values for _, *values in texts), strict=True):
        drawn.add_row(*row)
    return drawn


def _widths(columns: Sequence[Sequence[Text]], room: int) -> list[int] | list[None]:
    """Share out the letters of a line so that no word is broken; None where the longest words have no room.

    rich would narrow the widest columns, whether they can be narrowed between words or not.
    """
    widths = [max(cell_len(word) for text in column for word in text.plain.split() or [""]) for column in columns]
    whole = [max(text.cell_len for text in column) for column in columns]
    if sum(widths) > room:
        return [None] * len(widths)
    while sum(widths) < min(room, sum(whole)):
        narrowest = min((own, index) for index, own in enumerate(widths) if own < whole[index])[1]
        widths[narrowest] += 1
    return widths
