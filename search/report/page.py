"""The report as one self-contained HTML file: no script, no network, readable on a phone and in print."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from search.report import tables, words
from search.report.figures.canvas import Picture
from search.report.layout import cells_of, datasets, varies

TEMPLATE = Path(__file__).with_name("page.html.j2")
SECTIONS = ("results", "targets", "differences", "hyperparameters", "cost", "curves", "subgroups")
"""Where a figure may stand."""
ROWS_SHOWN = 12
"""Longer tables are folded: figures tell the same at a glance."""
COLUMNS_SHOWN = 9


def render(found: dict[str, Any], pictures: Sequence[Picture]) -> str:
    """Return the page.

    Args:
        found: the report's values.
        pictures: figures, embedded as SVG.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"table": _table, "uri": _uri}
    template = environment.from_string(TEMPLATE.read_text())
    return template.render(
        found=found,
        sentences=words.sentences(found),
        findings=words.findings(found),
        method=words.method(found),
        about_groups=words.about_groups(found),
        pictures={section: [picture for picture in pictures if picture.section == section] for section in SECTIONS},
        overview=tables.overview(found),
        targets=_of_each(found, _by_cell),
        groups=_of_each(found, tables.by_subgroup),
        external=tables.external(found),
        differences=tables.macro_differences(found),
        decisions=tables.decisions(found),
        failures=tables.failures(found),
        quarantined=tables.quarantined(found),
        refused=tables.refused(found),
        provenance=_provenance(found),
        study_file=yaml.safe_dump(found["provenance"]["study"], sort_keys=False, width=110, allow_unicode=True),
    )


def _of_each(found: dict[str, Any], table: Any) -> list[tuple[str, pd.DataFrame]]:
    """Return (data set, table) of those that have rows."""
    made = [(dataset, table(found, dataset)) for dataset in datasets(found)]
    return [(dataset if varies(found, "dataset") else "", rows) for dataset, rows in made if len(rows)]


def _by_cell(found: dict[str, Any], dataset: str) -> pd.DataFrame:
    """Put the longer side of the table of targets down the page."""
    table = tables.per_target(found, dataset)
    if len(cells_of(found, dataset)) > tables.FEW_CELLS:
        table = table.T.rename_axis("cell")
    return table.rename(columns=lambda name: str(name).replace("_", " ")).reset_index()


def _table(table: pd.DataFrame, what: str) -> Markup:
    """Return a table as HTML, folded where it is long."""
    # pandas escapes what stands in the cells.
    body = Markup(table.to_html(index=False, border=0, escape=True))  # noqa: S704
    framed = Markup('<div class="wide" tabindex="0" role="region" aria-label="{}">{}</div>').format(what, body)
    if len(table) <= ROWS_SHOWN and len(table.columns) <= COLUMNS_SHOWN:
        return framed
    return Markup("<details><summary>{} ({} rows)</summary>{}</details>").format(what, len(table), framed)


def _uri(picture: Picture) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(picture.svg).decode()}"


def _provenance(found: dict[str, Any]) -> dict[str, str]:
    told = found["provenance"]
    facts = {"code that trained (commit)": told["version"], **told["libraries"]}
    facts["code that wrote this report"] = told["written_by"]
    facts |= {f"data: {data['name']}": data["fingerprint"] for data in found["data"]}
    return facts | {f"data, external: {data['name']}": data["fingerprint"] for data in found["external_data"]}
