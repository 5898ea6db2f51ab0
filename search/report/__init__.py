"""The report of a study: computed from the ledger alone, written to the study folder, readable without a server."""

import json
from pathlib import Path
from typing import Any

from search.errors import StudyError
from search.grid import Grid
from search.report import figures, html, summary, tables
from search.study_config import StudyConfig
from search.study_folder import StudyFolder
from search.study_state import StudyState

show = tables.show


def write(study: StudyConfig, wanted: Grid, state: StudyState, folder: StudyFolder) -> None:
    """Write report.json, report.html, report.md, results.csv and the figures, each whole or not at all."""
    folder.report.mkdir(parents=True, exist_ok=True)
    found = summary.summarize(study, wanted, state)
    pictures = figures.draw(found)
    for name, content in {
        "report.html": html.render(found, pictures),
        "report.md": tables.markdown(found),
        "results.csv": tables.tidy_csv(found),
        "report.json": json.dumps(found, indent=2, sort_keys=True),
    }.items():
        _replace(folder.report / name, content.encode())
    for name, picture in pictures.items():
        _replace(folder.report / f"{name}.png", picture)


def read(folder: StudyFolder) -> dict[str, Any]:
    """Return the last report.

    Raises:
        StudyError: the study has none yet.
    """
    path = folder.report / "report.json"
    if not path.is_file():
        raise StudyError(
            f"{folder.path}: no report yet; it is written when `python -m search run` has measured the winners. "
            "Another --storage?"
        )
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _replace(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_bytes(content)
    aside.replace(path)
