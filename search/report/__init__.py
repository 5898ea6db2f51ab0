"""The report of a study: from its ledger and stored scores alone, written to its folder, readable without a server."""

import hashlib
import json
from pathlib import Path
from typing import Any

from datasets.whole_file import replacing
from search import ledger, sampling, stored_scores
from search.errors import StudyError
from search.grid import Grid
from search.report import files, summary, tables
from search.study_config import StudyConfig
from search.study_folder import StudyFolder
from search.study_state import StudyState

show = tables.show

MARKER = "report.json"
"""Written last and removed first: where it is, the other files are whole and of the same report."""
FORMAT = 6
"""Of that file; raise it with every change of its keys."""


def write(study: StudyConfig, wanted: Grid, state: StudyState, folder: StudyFolder) -> None:
    """Write the page, the tables and the figures, each file whole or not at all."""
    from search.report import figures, page  # matplotlib takes a second that nobody who only reads waits for

    folder.report.mkdir(parents=True, exist_ok=True)
    found = summary.summarize(study, wanted, state, folder)
    pictures = figures.draw(found)
    written: dict[str, bytes] = {}
    for picture in pictures:
        written |= {f"{picture.name}.svg": picture.svg, f"{picture.name}.png": picture.png}
    texts = {
        "report.html": page.render(found, pictures),
        "report.md": files.markdown(found, [(picture.title, f"{picture.name}.png") for picture in pictures]),
        "results.tex": files.latex(found) if found["cells"] else None,
        "results.csv": files.results_csv(found),
        "results_paper.csv": files.paper_csv(found),
        "differences.csv": files.differences_csv(found),
        "averages.csv": files.averages_csv(found),
        "subgroups.csv": files.subgroups_csv(found),
        "curves.csv": files.curves_csv(found),
    }
    written |= {name: text.encode() for name, text in texts.items() if text is not None}
    found["provenance"]["made_from"] = _made_from(study, state, folder)
    found |= {"format": FORMAT, "files": [*written, MARKER]}
    outdated = set(_files(folder)) - set(found["files"])
    written[MARKER] = json.dumps(found).encode()
    for name in (MARKER, *outdated):  # outdated: a figure of cells that are no longer asked for
        (folder.report / name).unlink(missing_ok=True)
    for name, content in written.items():
        with replacing(folder.report / name) as aside:
            aside.write_bytes(content)


def renew(study: StudyConfig, folder: StudyFolder) -> None:
    """Write the report of what is done so far, from the ledger and the stored scores.

    Raises:
        StudyError: the study has read no data yet.
    """
    state = StudyState.of(ledger.read(folder.ledger).events)
    if not state.datasets:
        raise StudyError(f"{folder.path}: nothing to report yet; start `python -m search run`. Another --storage?")
    write(study, sampling.expand(study, state), state, folder)


def is_whole(folder: StudyFolder) -> bool:
    """Whether there is a whole report, written by this version."""
    return (_marker(folder) or {}).get("format") == FORMAT


def is_current(study: StudyConfig, state: StudyState, folder: StudyFolder) -> bool:
    """Whether the report there is was made from what is known now, for what is asked for now."""
    found = _marker(folder) or {}
    return found.get("format") == FORMAT and found["provenance"].get("made_from") == _made_from(study, state, folder)


def _made_from(study: StudyConfig, state: StudyState, folder: StudyFolder) -> str:
    """Return a hash of everything that a report tells; what it could not compare, it can once a file is back."""
    known = {
        "study": study.model_dump(mode="json"),
        "trials": {trial: [progress.state, progress.ended_ms] for trial, progress in state.trials.items()},
        "winners": {cell: [event["trial"], event["time_ms"]] for cell, event in state.evaluated.items()},
        "data": {key: state.data_identity(key) for key in state.datasets},
        "unusable": state.unusable,
        "baselines": {key: event.get("data") for key, event in state.baselines.items()},
        "unread": sorted(cell for cell, event in state.evaluated.items() if not stored_scores.are_whole(folder, event)),
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def read(folder: StudyFolder) -> dict[str, Any]:
    """Return the last report.

    Raises:
        StudyError: the study has none yet, it is damaged, or another version wrote it.
    """
    path = folder.report / MARKER
    if not path.is_file():
        raise StudyError(
            f"{folder.path}: no report yet; it is written when `python -m search run` has measured the winners. "
            "Another --storage?"
        )
    found = _marker(folder)
    if found is None:
        raise StudyError(f"{path}: damaged, a whole JSON object was expected; write the report again with --renew")
    if found.get("format") != FORMAT:
        raise StudyError(f"{path}: another version of radsweep wrote this report; write it again with --renew")
    return found


def _files(folder: StudyFolder) -> list[str]:
    """Return the names that the last report wrote."""
    names = (_marker(folder) or {}).get("files", [])
    return [name for name in names if name == Path(name).name]


def _marker(folder: StudyFolder) -> dict[str, Any] | None:
    """Return what the last report's marker holds; None: there is no marker, or it is damaged."""
    try:
        found = json.loads((folder.report / MARKER).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None
