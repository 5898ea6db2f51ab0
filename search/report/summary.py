"""What a report says, as plain values: every table and figure is drawn from this."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from datasets.dataset_config import QUESTION, DatasetConfig
from search import provenance, sampling, selection
from search.grid import Grid, Trial, external_datasets, readable
from search.identity import identified, key_of
from search.live_regret import live_regret
from search.report import differences
from search.study_config import StudyConfig
from search.study_folder import StudyFolder
from search.study_sections import EVALUATED_WITH, Evaluation
from search.study_state import StudyState, TrialProgress


def summarize(study: StudyConfig, wanted: Grid, state: StudyState, folder: StudyFolder) -> dict[str, Any]:
    """Collect cells, winners, test metrics, differences, decisions and provenance of what is asked for now."""
    measured = _measured_with(study, state)
    found = _collected(study.model_copy(update={"evaluation": measured}), wanted, state)
    found["differences"] = differences.measure(found, folder, measured, state.evaluations)
    found["provenance"]["study"] = study.model_dump(mode="json")
    return found


def _measured_with(study: StudyConfig, state: StudyState) -> Evaluation:
    """Return the settings that the winners were last measured with: an edited study's hold from its next run on."""
    last = max(state.evaluated.values(), key=lambda event: event["time_ms"], default={})
    settings = {key: value for key, value in last.get("asked", {}).items() if key in EVALUATED_WITH}
    return Evaluation(**{**study.evaluation.model_dump(), **settings})


def _collected(study: StudyConfig, wanted: Grid, state: StudyState) -> dict[str, Any]:
    trials = {identity: trial for identity, trial in identified(wanted, state).items() if identity in state.trials}
    chosen = selection.winners(state, {identity: trial.cell.name for identity, trial in trials.items()})
    progress = [state.trials[identity] for identity in trials]
    states = Counter(trial.outcome for trial in progress)
    coming = sampling.to_come(study, state)
    states["UNFINISHED"] += len(wanted.trials) + len(coming) - len(trials)
    declaration = state.declaration
    datasets = {key: dataset for dataset in wanted.datasets if (key := key_of(dataset)) in state.datasets}
    return {
        "study": study.name,
        "primary_metric": declaration.primary_metric,
        "direction": declaration.direction,
        "targets": list(declaration.targets),
        "confidence": study.evaluation.confidence,
        "unit": study.evaluation.unit,
        "redraws": study.evaluation.redraws,
        "axes": dict(study.axes),
        "counts": {
            "cells": len(wanted.cells),
            "trials": len(wanted.trials) + len(coming),
            **dict(sorted((+states).items())),
        },
        "epochs": {
            "trained": sum(len(trial.epochs) for trial in progress),
            "full_grid": sum(trial.config.recipe.epochs for trial in (*wanted.trials, *coming)),
        },
        "pruning": live_regret(state, {identity: trial.cell.name for identity, trial in trials.items()}),
        "refused": [{"cell": dict(r.cell.axes), "reason": r.reason} for r in wanted.refused],
        "cells": [_cell(winner, trials[winner.trial], state) for winner in chosen],
        "unusable": state.unusable_among(wanted.datasets),
        "cells_without_winner": sorted({c.name for c in wanted.cells} - {winner.cell for winner in chosen}),
        "trials": [_trial(trial, state.trials[name], declaration.primary_metric) for name, trial in trials.items()],
        "data": [_data(state.datasets[key], name) for key, name in _names(datasets, tuple(DatasetConfig.model_fields))],
        "external_data": _external_data(study, state),
        "baselines": _baselines(state, _names(datasets, QUESTION)),
        "provenance": {
            "version": ", ".join(state.versions),
            "libraries": {name: ", ".join(versions) for name, versions in state.libraries.items()},
            "written_by": provenance.code_version(),
            "use": _use(trials, state),
        },
    }


def _cell(winner: selection.Winner, trial: Trial, state: StudyState) -> dict[str, Any]:
    """Collect what is known of a winner.

    Its place in the study is as the file says now, its evaluation the one of this trial: a new axis renames cells, and
    what was measured before still holds.
    """
    from trainers.evaluation.subgroups import comparable

    progress = state.trials[winner.trial]
    event = state.evaluations.get(winner.trial, {})
    return {
        "cell": winner.cell,
        "axes": dict(trial.cell.axes),
        "trial": winner.trial,
        "searched": dict(trial.searched),
        "seed": trial.seed,
        "epoch": progress.result.best_epoch if progress.result else None,
        "validation": winner.value,
        "test": event.get("rows", []),
        "external": event.get("external", []),
        "subgroups": comparable(event.get("subgroups", [])),
        "record": progress.result.record if progress.result else {},
    }


def _use(trials: Mapping[str, Trial], state: StudyState) -> dict[str, dict[str, float]]:
    """Return the hours that each cell's trials held their slots, pruned and repeated work included."""
    used: dict[str, dict[str, float]] = {}
    for name, trial in trials.items():
        cell, use = used.setdefault(trial.cell.name, {"hours": 0.0, "gpu_hours": 0.0}), state.trials[name].use
        cell["hours"] += use.seconds / 3600
        cell["gpu_hours"] += use.gpu_seconds / 3600
    return used


def _trial(trial: Trial, progress: TrialProgress, metric: str) -> dict[str, Any]:
    return {
        "trial": progress.trial,
        "cell": trial.cell.name,
        "axes": dict(trial.cell.axes),
        "searched": dict(trial.searched),
        "seed": trial.seed,
        "state": progress.outcome,
        "reason": progress.reason,
        "epochs": len(progress.epochs),
        "curve": {str(epoch): value for epoch, value in progress.curve.items()},
        "decisions": [{k: e[k] for k in ("epoch", "action", "reason")} for e in progress.decisions],
        "best": progress.result.best_value if progress.result else None,
    }


def _names(datasets: Mapping[str, DatasetConfig], fields: Sequence[str]) -> list[tuple[str, str]]:
    """Return keys and names: of a data set that is read in several ways, with those of the fields that differ."""
    named = []
    for key, dataset in datasets.items():
        others = [other for other in datasets.values() if other.name == dataset.name]
        differing = [field for field in fields if any(getattr(o, field) != getattr(dataset, field) for o in others)]
        settings = ", ".join(f"{field}={readable(getattr(dataset, field))}" for field in differing)
        named.append((key, f"{dataset.name} ({settings})" if settings else dataset.name))
    return named


def _data(event: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: event[key] for key in ("dataset", "fingerprint", "images", "validation")} | {
        "name": name,
        "quarantined": len(event["quarantined"]),
        "reasons": dict(Counter(event["quarantined"].values())),
    }


def _external_data(study: StudyConfig, state: StudyState) -> list[dict[str, Any]]:
    """Return of what data winners were also measured on, but for what is trained on, too."""
    keys = {name: key_of(dataset) for name, dataset in external_datasets(study).items()}
    known = {name: state.externals[key] for name, key in keys.items() if key in state.externals}
    return [
        {
            "name": name,
            "fingerprint": event["fingerprint"],
            "reasons": dict(Counter(event.get("quarantined", {}).values())),  # earlier versions kept none
        }
        for name, event in known.items()
    ]


def _baselines(state: StudyState, named: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """The metadata-only baseline of each data configuration; those that ask the same have the same name."""
    return [
        {"dataset": state.datasets[key]["dataset"], "name": name, "rows": state.baselines[key]["rows"]}
        for key, name in named
        if key in state.baselines
    ]
