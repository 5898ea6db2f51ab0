"""How far a study's ledger has been told: a file beside it, with what shows that it speaks of this ledger."""

import json
from typing import Any

from datasets.whole_file import replacing
from search import ledger
from search.study_folder import StudyFolder

LAST_LETTERS = 12
"""Of the last record that was told: its checksum."""


def read(folder: StudyFolder, to: str) -> int:
    """Return up to which byte of a study's ledger somebody was told.

    It is 0, so that all is told from the beginning, where somebody else was told, or where the ledger is another one
    than was told from: an older copy that was put back, say.

    Args:
        folder: of the study.
        to: who is asked about, MLflow's address and experiment.
    """
    if not folder.delivery.exists():
        return 0
    found: dict[str, Any] = json.loads(folder.delivery.read_text())
    offset = int(found["offset"])
    last = _last_letters(folder, offset)
    # Files of earlier versions say neither whom nor what.
    if last is None or found.get("to", to) != to or found.get("last", last) != last:
        return 0
    return offset


def save(folder: StudyFolder, to: str, offset: int) -> None:
    """Write that somebody was told up to a byte, the end of a record."""
    with replacing(folder.delivery) as aside:
        aside.write_text(json.dumps({"offset": offset, "last": _last_letters(folder, offset), "to": to}))


def waiting(folder: StudyFolder, to: str) -> int:
    """Return how many events of a study somebody has not been told."""
    return len(ledger.read(folder.ledger, start=read(folder, to)).events)


def _last_letters(folder: StudyFolder, offset: int) -> str | None:
    """Return how the ledger reads up to a byte, None where it is not that long."""
    if not folder.ledger.exists() or folder.ledger.stat().st_size < offset:
        return None
    with folder.ledger.open("rb") as file:
        file.seek(max(0, offset - LAST_LETTERS))
        return file.read(min(offset, LAST_LETTERS)).decode(errors="replace")
