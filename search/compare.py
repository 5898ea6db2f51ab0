"""Two measured networks side by side: paired differences of stored test scores, nothing is run again."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlflow_server.database_path import embedded_if_there
from search import ledger, stored_scores
from search.errors import StudyError
from search.study_folder import StudyFolder
from search.study_state import StudyState
from search.wording import percent

MODEL = "models:/"
RUN = "runs:/"
SHORTEST_PREFIX = 6
SHOWN = 12
"""How many of the comparable cells an error lists."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A network whose test scores are stored.

    Attributes:
        name: study and cell, the run, or the model version.
        trial: its identity; None for a run that is no trial's.
        content: the table of case scores, parquet.
        metric: primary metric of its study; None unknown.
        evaluation: that study's section `evaluation`.
    """

    name: str
    trial: str | None
    content: bytes
    metric: str | None = None
    evaluation: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of two networks.

    Attributes:
        metric: None: the primary metric of the first one's study.
        pathologies: empty: all; the p-values are corrected over these.
        redraws: None: as the first one's study says.
    """

    metric: str | None = None
    pathologies: tuple[str, ...] = ()
    redraws: int | None = None


def compare(first: str, second: str, *, storage: Path, uri: str | None, question: Question) -> dict[str, Any]:
    """Compare two trials, cells, runs or model versions.

    Args:
        first: identity of a trial (or its beginning, or `STUDY/TRIAL`), a cell (`STUDY/CELL`, or `CELL` alone where
            that is unmistakable), an MLflow run (`runs:/ID`), or a model version (`models:/NAME@ALIAS` or
            `models:/NAME/3`).
        second: the same.
        storage: folder of all studies.
        uri: MLflow tracking URI of the registry; None: the embedded store.
        question: what to compare.

    Returns:
        first, second, metric, unit, redraws, confidence, correction, cases, and `rows`: pathology (macro last),
        first, second, difference, low, high, p_value, adjusted.

    Raises:
        StudyError: nothing or several things bear a name, or the two were not measured on the same cases.
        PromotionError: MLflow has no such run or version, or no scores of it.
        TrackingError: the storage has no MLflow store.
    """
    pair = tuple(_find(reference, storage, uri) for reference in (first, second))
    return _compared(pair[0], pair[1], question)


def _compared(first: Measured, second: Measured, question: Question) -> dict[str, Any]:
    from trainers.evaluation import comparison
    from trainers.evaluation.redraws import Bootstrap
    from trainers.evaluation.summary import RANKING

    settings = first.evaluation
    bootstrap = Bootstrap(
        redraws=question.redraws or settings.get("redraws", 1000),
        unit=settings.get("unit", "patient"),
        level=settings.get("confidence", 0.95),
        seed=settings.get("seed", 0),
    )
    metric = question.metric or first.metric or next(iter(RANKING))
    scores = [_test_scores(side, question.pathologies) for side in (first, second)]
    try:
        found = comparison.compare(*scores, metric=metric, bootstrap=bootstrap)
    except ValueError as problem:
        raise StudyError(f"{first.name} and {second.name} cannot be compared: {problem}") from None
    values = [_values(side.aligned(scores[0]), metric, RANKING[metric]) for side in scores]
    rows = [
        {"pathology": row["pathology"], "first": own, "second": other, **_plain(row)}
        for row, own, other in zip(found.table().to_dict(orient="records"), *values, strict=True)
    ]
    return {
        "first": {"name": first.name, "trial": first.trial},
        "second": {"name": second.name, "trial": second.trial},
        "metric": metric,
        "unit": bootstrap.unit,
        "redraws": bootstrap.redraws,
        "confidence": bootstrap.level,
        "correction": found.correction,
        "cases": len(scores[0].table),
        "rows": rows,
    }


def show(found: dict[str, Any], console: Console) -> None:
    """Print a comparison for people."""
    for side in ("first", "second"):
        trial = f" (trial {found[side]['trial']})" if found[side]["trial"] else ""
        console.print(Text(f"{side:6} {found[side]['name']}{trial}"), soft_wrap=True)
    table = Table(title=f"first − second, {found['metric']} on {found['cases']} test cases", box=None)
    level = percent(found["confidence"])
    for column in ("pathology", "first", "second", "difference", f"{level} interval", "p", "p adj."):
        justify: Literal["left", "right"] = "left" if column == "pathology" else "right"
        table.add_column(column, justify=justify, no_wrap=column != "pathology", overflow="fold")
    for row in found["rows"]:
        interval = f"{_number(row['low'], '+.4f')} to {_number(row['high'], '+.4f')}"
        table.add_row(
            Text(row["pathology"]),
            _number(row["first"], ".4f"),
            _number(row["second"], ".4f"),
            _number(row["difference"], "+.4f"),
            interval,
            _number(row["p_value"], ".4f"),
            _number(row["adjusted"], ".4f"),
        )
    console.print(table)
    console.print(
        f"{found['redraws']} paired redraws of {found['unit']}s; two-sided p, twice the share of redraws beyond no "
        f"difference, adjusted over the pathologies by {found['correction'].replace('_', '-')} (macro is a test of its "
        "own). A report, which corrects over all its pairs, takes p from the redraws' standard deviation",
        soft_wrap=True,
    )


def _number(value: float | None, form: str) -> str:
    return "undefined" if value is None else format(value, form)


def _plain(row: dict[Any, Any]) -> dict[str, float | None]:
    numbers = {name: row[name] for name in ("difference", "low", "high", "p_value", "adjusted")}
    return {name: None if value is None or value != value else float(value) for name, value in numbers.items()}  # noqa: PLR0124 - NaN


def _test_scores(side: Measured, pathologies: Sequence[str]) -> Any:
    from trainers.evaluation import case_scores

    try:
        scores = case_scores.load(io.BytesIO(side.content))
    except (ValueError, OSError) as problem:  # OSError: what is compressed in the file is damaged
        raise StudyError(
            f"{side.name}: its scores.parquet cannot be read, restore the file from a backup: {problem}"
        ) from problem
    if unknown := [name for name in pathologies if name not in scores.pathologies]:
        known = ", ".join(scores.pathologies)
        raise StudyError(f"--pathology {', '.join(unknown)}: {side.name} has none of that name; it has {known}")
    chosen = case_scores.CaseScores(scores.table, tuple(dict.fromkeys(pathologies)) or scores.pathologies)
    return chosen.where((scores.table["partition"] == "test").to_numpy(bool))


def _values(scores: Any, metric: str, measure: Any) -> list[float | None]:
    """Return the metric of each pathology, and their mean over those that have both classes."""
    values = [measure(scores.labels[:, i], scores.scores[:, i]) for i in range(len(scores.pathologies))]
    defined = [value for value in values if value is not None]
    return [*values, sum(defined) / len(defined) if defined else None]


def _find(reference: str, storage: Path, uri: str | None) -> Measured:
    if reference.startswith(MODEL):
        return _version(reference, storage, uri or embedded_if_there(storage))
    if reference.startswith(RUN):
        return _run(reference, storage, uri or embedded_if_there(storage))
    known = list(_measured(storage))
    found = [entry for entry in known if reference in (*entry[:3], f"{entry[3].study}/{entry[0]}")]
    if not found and len(reference) >= SHORTEST_PREFIX:
        found = [entry for entry in known if entry[0].startswith(reference)]
    found = list({(entry[3].study, entry[0]): entry for entry in found}.values())  # a new axis gives cells new names
    if len(found) == 1:
        trial, name, _, folder, state = found[0]
        return Measured(name, trial, stored_scores.read(folder, state.evaluations[trial]), **_settings(state))
    names = sorted({f"{entry[1]} ({entry[0]})" for entry in found or known})
    listed = "; ".join(names[:SHOWN]) + ("; …" if len(names) > SHOWN else "")
    if found:
        raise StudyError(f"{reference!r} could be any of: {listed}; give STUDY/CELL or STUDY/TRIAL")
    raise StudyError(
        f"{reference!r} is neither a measured trial nor a cell in {storage} (each cell's winner is measured, the other "
        f"trials are not), nor runs:/ID nor models:/NAME@ALIAS; of a trial at least {SHORTEST_PREFIX} letters "
        f"are needed. Measured: {listed or 'nothing yet'}"
    )


def _measured(storage: Path) -> Iterator[tuple[str, str, str, StudyFolder, StudyState]]:
    """List trial, study/cell, cell, folder and state of every measured trial below the storage.

    One that stands for its cell no more, since another has won it, is found by its identity alone.
    """
    for path in sorted(storage.glob("*/ledger.jsonl")):
        folder = StudyFolder(storage, path.parent.name)
        state = StudyState.of(ledger.read(path).events)
        for cell, event in state.evaluated.items():
            yield event["trial"], f"{folder.study}/{cell}", cell, folder, state
        standing = {event["trial"] for event in state.evaluated.values()}
        for trial in state.evaluations.keys() - standing:
            yield trial, f"{folder.study}/{state.evaluations[trial]['cell']} before", trial, folder, state


def _settings(state: StudyState) -> dict[str, Any]:
    """Return how a study measures: the primary metric, once it has read data, and its section `evaluation`."""
    metric = state.declaration.metric if state.datasets else None
    return {"metric": metric, "evaluation": dict(state.study.get("evaluation", {}))}


def _settings_of(tags: Mapping[str, str], storage: Path) -> dict[str, Any]:
    """Return how the study of a run or version measures, where the storage has it."""
    named = tags.get("radsweep.study")
    paths = [path for path in storage.glob("*/ledger.jsonl") if path.parent.name == named]  # a tag is no path
    return _settings(StudyState.of(ledger.read(paths[0]).events)) if paths else {}


def _run(reference: str, storage: Path, uri: str) -> Measured:
    from mlflow_server.registry import SCORES, Registry

    identity = reference.removeprefix(RUN)
    if not identity.isalnum():
        raise StudyError(f"{reference!r} is no run: runs:/ID, with the ID that MLflow shows")
    registry = Registry(uri)
    content, tags = registry.artifact(identity, SCORES), registry.tags_of_run(identity)
    return Measured(f"run {identity}", tags.get("radsweep.identity"), content, **_settings_of(tags, storage))


def _version(reference: str, storage: Path, uri: str) -> Measured:
    from mlflow_server.registry import Registry

    registry = Registry(uri)
    version = registry.find(reference)
    name = f"{version.name} version {version.version}"
    trial = version.tags.get("radsweep.trial")
    return Measured(name, trial, registry.scores(version), **_settings_of(version.tags, storage))
