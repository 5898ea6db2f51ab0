"""The report as one self-contained HTML file: no script, no network, readable on a phone and in print."""

import base64
from html import escape
from typing import Any

from search.report import tables

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem; }
h1 { margin-bottom: 0; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; } th, td { padding: .3rem .6rem; text-align: left; }
th { border-bottom: 2px solid; } tr:nth-child(even) td { background: rgb(128 128 128 / .12); }
img { max-width: 100%; height: auto; background: white; } code { font-size: .85em; }
@media print { .wide { overflow: visible; } body { font-size: 11px; } }
"""


def render(found: dict[str, Any], pictures: dict[str, bytes]) -> str:
    """Return the page.

    Args:
        found: what `summary.summarize` collected.
        pictures: PNG files by name.
    """
    parts = [f"<h1>{escape(found['study'])}</h1>"]
    parts += [f"<p>{escape(sentence)}</p>" for sentence in tables.sentences(found)]
    parts += [_section("Winners", _table(tables.overview(found)))]
    parts += [_section("Per target", _picture(pictures, "targets") + _table(tables.per_target(found).reset_index()))]
    if len(tables.external(found)):
        parts.append(_section("On other data sets", _table(tables.external(found))))
    groups = tables.by_subgroup(found)
    if len(groups):
        parts.append(_section("Groups of the test cases", _table(groups)))
    parts.append(_section("Learning curves", _picture(pictures, "curves")))
    parts.append(_section("Decisions", _decisions(found)))
    parts.append(_section("Provenance", _provenance(found)))
    title = f"{escape(found['study'])} - radsweep report"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>{content}"


def _table(table: Any) -> str:
    return f'<div class="wide">{table.to_html(index=False, border=0, escape=True)}</div>'


def _picture(pictures: dict[str, bytes], name: str) -> str:
    if name not in pictures:
        return ""
    encoded = base64.b64encode(pictures[name]).decode()
    return f'<p><img alt="{escape(name)}" src="data:image/png;base64,{encoded}"></p>'


def _decisions(found: dict[str, Any]) -> str:
    rows = "".join(
        f"<li><b>{escape(trial['cell'])}</b> {escape(_point(trial))}: {escape(d['action'])}, {escape(d['reason'])}</li>"
        for trial in found["trials"]
        for d in trial["decisions"]
    )
    return f"<ul>{rows}</ul>" if rows else "<p>None was needed.</p>"


def _point(trial: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in trial["searched"].items())


def _provenance(found: dict[str, Any]) -> str:
    facts = {"code": found["provenance"]["version"], **found["provenance"]["libraries"]}
    facts |= {f"data {data['dataset']}": data["fingerprint"] for data in found["data"]}
    return "<ul>" + "".join(f"<li>{escape(k)}: <code>{escape(str(v))}</code></li>" for k, v in facts.items()) + "</ul>"
