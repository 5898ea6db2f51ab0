"""What each axis does: paired differences of cells that agree in every other axis, from stored scores alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search import grid, stored_scores
from search.ledger import Event
from search.report.layout import MACRO, datasets, is_numeric, primary, short_name
from search.study_folder import StudyFolder

if TYPE_CHECKING:
    import numpy as np

    from trainers.evaluation.family import Redrawn

CORRECTIONS = ("benjamini_hochberg", "holm")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two cells that differ in one axis alone: `first` has `value`, `second` has `against`."""

    axis: str
    value: str
    against: str
    first: dict[str, Any]
    second: dict[str, Any]


def pairs(found: dict[str, Any]) -> list[Pair]:
    """List the pairs of measured cells.

    Numbers are compared with the next smaller one of the study, names with every earlier one in the order of the
    file. Cells of different data sets have no case in common.
    """
    return [
        pair
        for axis, values in found["axes"].items()
        if axis != "dataset"
        for value, against in _compared_values(values)
        for pair in _pairs(found, axis, value, against)
    ]


def measure(
    found: dict[str, Any], folder: StudyFolder, evaluation: Any, evaluations: Mapping[str, Event]
) -> dict[str, Any]:
    """Return every pair's differences, and each contrast's mean over its pairs.

    Args:
        found: the summary, with measured cells.
        folder: whose winners' scores are read.
        evaluation: the study's section: redraws, unit, confidence, seed.
        evaluations: by trial, what the ledger has of it.

    Returns:
        pairs: rows of axis, value, against, dataset, context, first, second (trials), target, difference, low, high,
            p_value and the adjusted p-values.
        averages: the same by contrast and target, with `pairs`, how many were averaged.
        not_compared: sentences.
        families: how many differences each correction was made over.
    """
    wanted = pairs(found)
    if not wanted:
        return {"pairs": [], "averages": [], "not_compared": [], "families": {}}
    from trainers.evaluation.summary import RANKING

    if primary(found) not in RANKING:
        told = f"{primary(found)} has no paired redraws; differences are known of {', '.join(RANKING)}"
        return {"pairs": [], "averages": [], "not_compared": [told], "families": {}}
    scores, changed = _stored(found, wanted, folder, evaluations)
    redrawn, problems = _redraw(scores, primary(found), evaluation)
    problems += changed
    rows: list[dict[str, Any]] = []
    sums: dict[tuple[str, str, str, str], list[tuple[float, np.ndarray]]] = {}
    for pair in wanted:
        first, second = (redrawn.get(cell["trial"]) for cell in (pair.first, pair.second))
        if first is None or second is None:
            continue
        if first.fingerprint != second.fingerprint:
            problems.append(f"{pair.first['cell']} and {pair.second['cell']} were not measured on the same cases")
            continue
        for target, observed, values in _differences(first, second):
            rows.append({**_named(found, pair), "target": target, **_estimate(observed, values, evaluation.confidence)})
            turned = apart(values, pair.first["axes"]["dataset"], datasets(found))
            sums.setdefault((pair.axis, pair.value, pair.against, target), []).append((observed, turned))
    averages = [_average(key, members, evaluation.confidence) for key, members in sums.items()]
    families = {"pairs": _correct(rows), "averages": _correct(averages)}
    return {"pairs": rows, "averages": averages, "not_compared": sorted(set(problems)), "families": families}


def contrasts(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return (axis, value, against) of every contrast that was measured, in order."""
    rows = found["differences"]["averages"]
    return list(dict.fromkeys((row["axis"], row["value"], row["against"]) for row in rows))


def of_contrast(rows: Sequence[Mapping[str, Any]], contrast: tuple[str, str, str]) -> list[Mapping[str, Any]]:
    """Return the rows of one contrast."""
    return [row for row in rows if (row["axis"], row["value"], row["against"]) == contrast]


def _compared_values(values: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    if is_numeric(values):
        yield from ((value, against) for against, value in pairwise(sorted(values)))
    else:
        yield from ((value, against) for against, value in combinations(values, 2))


def _pairs(found: dict[str, Any], axis: str, value: Any, against: Any) -> Iterator[Pair]:
    def others(cell: dict[str, Any]) -> str:
        return repr([(name, setting) for name, setting in cell["axes"].items() if name != axis])

    measured = [cell for cell in found["cells"] if cell["test"]]
    seconds = {others(cell): cell for cell in measured if cell["axes"][axis] == against}
    for first in measured:
        if first["axes"][axis] == value and others(first) in seconds:
            yield Pair(axis, grid.readable(value), grid.readable(against), first, seconds[others(first)])


def _stored(
    found: dict[str, Any], wanted: Sequence[Pair], folder: StudyFolder, evaluations: Mapping[str, Event]
) -> tuple[dict[str, Path], list[str]]:
    """Return, by trial, the scores that pairs are made of, and what is wrong with those that were changed since."""
    asked = {cell["trial"] for pair in wanted for cell in (pair.first, pair.second)}
    scores, problems = {}, []
    for trial in (cell["trial"] for cell in found["cells"] if cell["trial"] in asked):
        path = folder.winner(trial) / stored_scores.SCORES
        if path.is_file() and (problem := stored_scores.changed(evaluations[trial], path.name, path.read_bytes())):
            problems.append(problem)
        else:
            scores[trial] = path
    return scores, problems


def _redraw(scores: Mapping[str, Path], metric: str, evaluation: Any) -> tuple[dict[str, "Redrawn"], list[str]]:
    from trainers.evaluation import family
    from trainers.evaluation.redraws import Bootstrap

    bootstrap = Bootstrap(evaluation.redraws, evaluation.unit, level=evaluation.confidence, seed=evaluation.seed)
    redrawn = family.redraw_files(list(scores.values()), metric=metric, bootstrap=bootstrap)
    results = dict(zip(scores, redrawn, strict=True))
    problems = [result for result in redrawn if isinstance(result, str)]
    return {trial: result for trial, result in results.items() if not isinstance(result, str)}, problems


def _differences(first: "Redrawn", second: "Redrawn") -> Iterator[tuple[str, float, "np.ndarray"]]:
    for index, target in enumerate(first.targets):
        observed = float(first.observed[index] - second.observed[index])
        yield target, observed, first.values[:, index] - second.values[:, index]


def _named(found: dict[str, Any], pair: Pair) -> dict[str, Any]:
    return {
        "axis": pair.axis,
        "value": pair.value,
        "against": pair.against,
        "dataset": pair.first["axes"]["dataset"],
        "context": short_name(found, pair.first, without=(pair.axis, "dataset")),
        "first": pair.first["trial"],
        "second": pair.second["trial"],
    }


def apart(values: "np.ndarray", dataset: str, names: Sequence[str]) -> "np.ndarray":
    """Turn the redraws of a data set so that none meets the same redraw of another one.

    A redraw depends on its number alone: those of two data sets with as many patients would redraw the same places of
    both, and their mean would scatter as if these were the same patients.
    """
    import numpy as np

    return np.roll(values, names.index(dataset) * len(values) // len(names))


def _average(
    key: tuple[str, str, str, str], members: Sequence[tuple[float, "np.ndarray"]], level: float
) -> dict[str, Any]:
    """Average a contrast over the pairs in which it is defined; pairs of one data set share their redraws."""
    import numpy as np

    axis, value, against, target = key
    defined = [(observed, values) for observed, values in members if not np.isnan(observed)]
    observed = float(np.mean([one for one, _ in defined])) if defined else float("nan")
    values = np.mean([many for _, many in defined], axis=0) if defined else np.array([])
    row = {"axis": axis, "value": value, "against": against, "target": target, "pairs": len(defined)}
    return row | _estimate(observed, values, level)


def _estimate(observed: float, values: "np.ndarray", level: float) -> dict[str, Any]:
    from trainers.evaluation import family, intervals

    estimate = intervals.percentile(None if observed != observed else observed, values, level=level)  # noqa: PLR0124 - NaN
    row = {"difference": estimate.value, "low": estimate.low, "high": estimate.high}
    return row | {"p_value": family.p_value(observed, values)}


def _correct(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Adjust the p-values: the macro differences are one family, those of the single targets another."""
    from trainers.evaluation.multiplicity import adjust

    families = {
        "macro": [row for row in rows if row["target"] == MACRO],
        "targets": [row for row in rows if row["target"] != MACRO],
    }
    for family in families.values():
        for method in CORRECTIONS:
            adjusted = adjust([row["p_value"] for row in family], method)  # type: ignore[arg-type]
            for row, value in zip(family, adjusted, strict=True):
                row[method] = value
    return {name: sum(row["p_value"] is not None for row in family) for name, family in families.items()}
