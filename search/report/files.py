"""The report's tables as files: Markdown, LaTeX and CSV."""

import io
from collections.abc import Iterable
from typing import Any

import pandas as pd

from search.report import tables, words
from search.report.layout import MACRO, axes_of, datasets, primary, question, rows_of, short_name, spoken, varies
from search.study_state import name_in_cell, point_of
from search.wording import percent

PAPER_NAMES: dict[str, dict[Any, str]] = {
    "dataset": {
        "vindr_pcxr": "pedi",
        "vindr_cxr": "vindr",
        "nih_chest_xray14": "cxr14",
        "mimic_cxr": "mimic",
        "uka_cxr": "UKA",
    },
    "initialization": {"imagenet": "imgnet"},
    "backbone": {"vit_base": "vitb", "convnext_base": "convnext"},
}
"""How the figure scripts of arXiv 2510.07191 spell values (tayebiarasteh/vit-med, data/figure2.py)."""
FORMULA = ("=", "+", "-", "@")
PAPER_METRICS = {"auroc": "AUROC", "average_precision": "mAP"}
PAPER_AXES = {"resolution": "image_size", "label_noise": "noise_ratio"}


def results_csv(found: dict[str, Any]) -> str | None:
    """One row per cell, metric and target, with every axis and the counts."""
    return _csv(
        {
            **axes_of(cell),
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
    )


def paper_csv(found: dict[str, Any]) -> str | None:
    """One row per cell and label in the columns, spellings and percent of the paper's figure scripts.

    Its means are those of the redraws, ours the values on the cases as they are; the two differ by less than the
    last digit that is shown. None where the task has none of the paper's metrics.
    """
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for cell in found["cells"]:
        axes = {PAPER_AXES.get(axis, axis): PAPER_NAMES.get(axis, {}).get(v, v) for axis, v in axes_of(cell).items()}
        if (noise := axes.get("noise_ratio")) is not None:
            axes["noise_ratio"] = round(100 * noise, 6)
        for row in [*cell["test"], *cell["external"]]:
            if row["metric"] not in PAPER_METRICS:
                continue
            tested = str(row.get("dataset", ""))
            told = rows.setdefault((cell["cell"], tested, row["target"]), dict(axes))
            if tested:
                told["dataset"] = PAPER_NAMES["dataset"].get(tested, tested)
            trained = f"trained on {axes['dataset']}" if tested else "internal"
            told |= {"evaluation_type": trained, "label": "macro_avg" if row["target"] == MACRO else row["target"]}
            name = PAPER_METRICS[row["metric"]]
            for end, key in (("mean", "value"), ("ci_low", "low"), ("ci_high", "high")):
                told[f"{name}_{end}"] = None if row[key] is None else 100 * row[key]
    return _csv(rows.values())


def differences_csv(found: dict[str, Any]) -> str | None:
    """One row per pair of cells and target."""
    return _csv(found["differences"]["pairs"])


def averages_csv(found: dict[str, Any]) -> str | None:
    """One row per contrast and target."""
    return _csv(found["differences"]["averages"])


def subgroups_csv(found: dict[str, Any]) -> str | None:
    """One row per cell, group of test cases, metric and target; macro also with how many targets it averages."""
    return _csv(
        {**axes_of(cell), **row, "trial": cell["trial"]} for cell in found["cells"] for row in cell["subgroups"]
    )


def curves_csv(found: dict[str, Any]) -> str | None:
    """One row per trial and epoch: what `search replay` reads, and how far the trial came."""
    return _csv(
        {
            "group": trial["cell"],
            "trial": name_in_cell(trial["searched"], trial["seed"]),
            "point": point_of(dict(sorted(trial["searched"].items()))) or trial["cell"],
            "epoch": int(epoch),
            "value": value,
            "state": trial["state"],
        }
        for trial in found["trials"]
        for epoch, value in trial["curve"].items()
    )


def _csv(rows: Iterable[dict[str, Any]]) -> str | None:
    """Return a table, or None where there is nothing to list: nobody can read one without a header."""
    rows = list(rows)
    table = pd.DataFrame(rows)
    if table.empty:
        return None
    for column in table.select_dtypes("float"):
        known = [row[str(column)] for row in rows if row.get(str(column)) is not None]
        if known and all(isinstance(value, int) for value in known):  # pandas makes floats of counts with a gap
            table[column] = table[column].astype("Int64")
    for column in table.select_dtypes(exclude="number"):
        table[column] = table[column].map(_as_text)
    buffer = io.StringIO()
    table.to_csv(buffer, index=False)
    return buffer.getvalue()


def _as_text(cell: Any) -> Any:
    """Mark text that a spreadsheet would carry out: groups are named by what stands in a data set's own columns."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def latex(found: dict[str, Any]) -> str:
    """Return the macro results as a booktabs table: a row per configuration, a column per data set.

    The best of what was asked the same question is bold.
    """
    rows = [
        {
            "configuration": short_name(found, cell, without=("dataset",)) or "all",
            "dataset": cell["axes"]["dataset"],
            "question": question(found, cell),
            "entry": tables.interval(row),
            "value": row["value"] if row else None,
        }
        for cell in found["cells"]
        for row in [rows_of(found, cell).get(MACRO)]
    ]
    order = list(dict.fromkeys(row["configuration"] for row in rows))
    table = pd.DataFrame(rows).astype({"value": float})
    ranked = table.groupby("question")["value"].transform("max" if found["direction"] == "maximize" else "min")
    wide = table.assign(best=table["value"].eq(ranked)).set_index(["configuration", "dataset"])
    entry = wide["entry"].unstack().reindex(index=order, columns=datasets(found)).fillna("--")
    best = wide["best"].unstack().reindex(index=order, columns=datasets(found)).eq(True).to_numpy()
    entry.index.name = entry.columns.name = None
    styled = entry.style.format(escape="latex").format_index(escape="latex").format_index(escape="latex", axis=1)
    styled = styled.apply(lambda _: pd.DataFrame(best, entry.index, entry.columns).replace(BOLD), axis=None)
    caption = (
        f"Test {spoken(primary(found))} (macro) of each configuration's winner with "
        f"{percent(found['confidence']).replace('%', PERCENT)} intervals from {found['redraws']} redraws of "
        f"{found['unit']}s."
    )
    return str(styled.to_latex(hrules=True, caption=caption, label="tab:results", position="htbp"))


PERCENT = r"\,\%"
BOLD = {True: "textbf:--rwrap;", False: ""}
MARKDOWN = str.maketrans({"&": "&amp;", "<": "&lt;", "|": r"\|", "[": r"\[", "]": r"\]"})


def markdown(found: dict[str, Any], pictures: list[tuple[str, str]]) -> str:
    """The report as Markdown.

    Args:
        found: the report.
        pictures: title and file name of each figure beside it.
    """
    parts = [f"# {found['study']}", "", *map(_markdown, words.sentences(found)), ""]
    parts += [f"- {_markdown(sentence)}" for sentence in words.findings(found)] + [""]
    sections = {"Winners": tables.overview(found)}
    for dataset in datasets(found):
        of = f" ({dataset})" if varies(found, "dataset") else ""
        sections[f"Per target{of}"] = tables.per_target(found, dataset).reset_index()
        sections[f"Groups of the test cases{of}"] = tables.by_subgroup(found, dataset)
    sections |= {
        "Differences": tables.macro_differences(found),
        "On other data sets": tables.external(found),
        "Failed trials": tables.failures(found),
        "Images that could not be read": tables.quarantined(found),
    }
    for title, table in sections.items():
        if len(table):
            parts += [f"## {_markdown(title)}", "", _markdown_table(table), ""]
    parts += [_markdown(sentence) + "\n" for sentence in (words.about_groups(found), words.method(found)) if sentence]
    for title, name in pictures:
        parts += [f"![{_markdown(title)}]({name})", ""]
    return "\n".join(parts)


def _markdown(text: str) -> str:
    """Return text as it is to be read: names may hold HTML, and what separates cells or stands around links."""
    return text.translate(MARKDOWN)


def _markdown_table(table: pd.DataFrame) -> str:
    rule = "|" + "---|" * len(table.columns)
    return "\n".join([_markdown_row(table.columns), rule, *map(_markdown_row, table.itertuples(index=False))])


def _markdown_row(values: Iterable[Any]) -> str:
    return "| " + " | ".join(_markdown(str(value)) for value in values) + " |"
