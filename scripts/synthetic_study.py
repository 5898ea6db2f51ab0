"""A study of any size that never ran: its ledger and case scores, through the real writers, the same every time.

What a benchmark or a picture of a large report needs, without the GPU-years of a real one. Nothing in it is a result.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from search import grid, ledger
from search.grid import Grid, Trial
from search.identity import entry_event, identified, key_of
from search.study_config import StudyConfig
from search.study_folder import StudyFolder
from search.study_state import StudyState
from trainers.evaluation.case_scores import CaseScores, collect
from trainers.evaluation.redraws import Bootstrap
from trainers.evaluation.subgroups import by_subgroup
from trainers.evaluation.summary import summarize
from trainers.evaluation.winner import rows
from trainers.trial import TrialResult, TrialState

BEGAN_MS = 1_790_000_000_000
VALIDATION_SHARE = 0.1
SHARED_NOISE = 0.85
"""How much networks agree on a case: paired differences are far narrower than the single intervals."""
GAINS: dict[str, dict[Any, float]] = {
    "initialization": {"random": -0.4, "imagenet": 0.0, "dinov2": 0.03, "dinov3": 0.05},
    "backbone": {"vit_base": 0.0, "convnext_base": 0.04},
    "resolution": {224: 0.0, 512: 0.09, 1024: 0.10},
}
"""What a value adds to the separation of positives and negatives, in standard deviations."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large it is.

    Attributes:
        cases: test cases of every data set.
        patients: of these.
        redraws: of the figures in the ledger; what the report redraws follows the study file.
    """

    cases: int
    patients: int
    redraws: int = 100


def build(study: StudyConfig, storage: Path, targets: Mapping[str, Sequence[str]], size: Size) -> StudyFolder:
    """Write ledger and winners' scores of a study as if it had run.

    Args:
        study: whose grid is filled; every cell finishes its best trial, the others are pruned, a few fail.
        storage: folder of all studies.
        targets: pathologies by data set.
        size: of every data set.

    Returns:
        The study's folder; it has no report yet.
    """
    folder = StudyFolder(storage.resolve(), study.name)
    wanted = grid.expand(study)
    opening = [_study_event(study), *_data_events(wanted, targets, size)]
    state = StudyState.of(opening)
    trials = identified(wanted, state)
    with ledger.Ledger(folder.ledger) as book:
        book.append(*opening)
        cells: dict[str, list[str]] = {}
        for identity, trial in trials.items():
            cells.setdefault(trial.cell.name, []).append(identity)
        for number, members in enumerate(cells.values()):
            winner = _winner(members, trials)
            for place, identity in enumerate(members):
                failed = place == len(members) - 1 and identity != winner and number % 17 == 3
                names = targets[trials[identity].config.dataset.name]
                book.append(*_trial_events(identity, trials[identity], names, winner == identity, failed))
            book.append(_evaluated(folder, winner, trials[winner], targets, size))
        book.append({"kind": "closed", "status": "FINISHED", "time_ms": BEGAN_MS + 1})
    return folder


def _study_event(study: StudyConfig) -> ledger.Event:
    return {"kind": "study", "study": study.model_dump(mode="json"), "version": "synthetic", "time_ms": BEGAN_MS}


def _data_events(wanted: Grid, targets: Mapping[str, Sequence[str]], size: Size) -> Iterator[ledger.Event]:
    for dataset in wanted.datasets:
        names = list(targets[dataset.name])
        yield {
            "kind": "data",
            "key": key_of(dataset),
            "dataset": dataset.name,
            "fingerprint": hashlib.sha256(dataset.model_dump_json().encode()).hexdigest(),
            "images": {"train": 7 * size.cases, "val": round(VALIDATION_SHARE * size.cases), "test": size.cases},
            "quarantined": {f"row {row}": "truncated pixel data" for row in range(len(names) % 4)},
            "validation": "drawn from train by patient",
            "declaration": {"primary_metric": "val/auroc/macro", "direction": "maximize", "targets": names},
        }


def _winner(members: Sequence[str], trials: Mapping[str, Trial]) -> str:
    return max(members, key=lambda identity: _skill(trials[identity]))


def _skill(trial: Trial) -> float:
    """Separation of positives and negatives, in standard deviations: what the axes add, less a poor learning rate."""
    gain = sum(GAINS.get(axis, {}).get(value, 0.0) for axis, value in trial.cell.axes)
    rate = trial.config.recipe.learning_rate
    best = 3e-5 if "vit" in trial.config.backbone else 6e-5
    return 0.9 + gain - 0.06 * math.log10(rate / best) ** 2 + 0.01 * _generator(trial.cell.name, trial.seed).normal()


def _generator(*words: Any) -> np.random.Generator:
    digest = hashlib.sha256("/".join(map(str, words)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def _trial_events(
    identity: str, trial: Trial, names: Sequence[str], wins: bool, failed: bool
) -> Iterator[ledger.Event]:
    epochs = trial.config.recipe.epochs
    told = epochs if wins else max(1, epochs // 4)
    yield entry_event(identity, trial)
    yield {"kind": "started", "trial": identity, "time_ms": BEGAN_MS}
    values = [_epoch_metrics(trial, names, epoch) for epoch in range(1, told + 1)]
    for epoch, metrics in enumerate(values, 1):
        moment = BEGAN_MS + 60_000 * epoch
        yield {"kind": "epoch", "trial": identity, "epoch": epoch, "timestamp_ms": moment, "metrics": metrics}
    if not wins and not failed:
        reason = "at rung 7 it stands below what the best of its cell may still lose"
        yield {"kind": "decision", "trial": identity, "epoch": told, "action": "prune", "reason": reason}
    curve = [metrics["val/auroc/macro"] for metrics in values]
    best = int(np.argmax(curve))
    result = TrialResult(
        state=TrialState.COMPLETE,
        epochs=told,
        best_epoch=best + 1,
        best_value=curve[best],
        checkpoint=f"best-{best + 1:04d}",
        checkpoint_sha256="0" * 64,
        record=_record(trial, told),
    )
    ended = "COMPLETE" if wins else "FAILED" if failed else "PRUNED"
    reason = "" if wins else "non_finite: loss is nan in epoch 8, step 12" if failed else "pruned at epoch 7"
    yield {
        "kind": "ended",
        "trial": identity,
        "state": ended,
        "reason": reason,
        "time_ms": BEGAN_MS + 60_000 * (told + 1),
        "result": result.model_dump(mode="json") if wins else None,
    }


def _epoch_metrics(trial: Trial, names: Sequence[str], epoch: int) -> dict[str, float]:
    generator = _generator(trial.cell.name, trial.point, epoch)
    reached = 1 - 0.5 * math.exp(-epoch / (0.12 * trial.config.recipe.epochs))
    skill = reached * _skill(trial)
    values = {name: _auroc(skill * _ease(name)) + 0.002 * generator.normal() for name in names}
    metrics = {f"val/auroc/{name}": float(min(1.0, value)) for name, value in values.items()}
    return {"train/loss": 0.6 - 0.3 * reached, **metrics, "val/auroc/macro": float(np.mean(list(metrics.values())))}


def _auroc(separation: float) -> float:
    return 0.5 * (1 + math.erf(separation / 2))


@cache
def _ease(name: str) -> float:
    return float(_generator("ease", name).uniform(0.8, 1.8))


def _record(trial: Trial, epochs: int) -> dict[str, Any]:
    flops = 2e9 * (17.9 if "vit" in trial.config.backbone else 15.4) * (trial.config.resolution / 224) ** 2
    seconds = 3 * flops * epochs * 25_000 / 40e12
    return {
        "forward_flops_per_image": round(flops),
        "train_seconds": seconds,
        "evaluation_seconds": seconds / 10,
        "images_per_second": 25_000 * epochs / seconds,
        "gpu_seconds": 1.1 * seconds,
        "device": "cuda",
    }


def _evaluated(
    folder: StudyFolder, identity: str, trial: Trial, targets: Mapping[str, Sequence[str]], size: Size
) -> ledger.Event:
    scores = case_scores(trial, targets[trial.config.dataset.name], size)
    path = folder.winner(identity) / "scores.parquet"
    scores.save(path)
    test = scores.where((scores.table["partition"] == "test").to_numpy(bool))
    bootstrap = Bootstrap(size.redraws)
    return {
        "kind": "evaluated",
        "trial": identity,
        "cell": trial.cell.name,
        "time_ms": BEGAN_MS,
        "metrics": {},
        "rows": rows(summarize(test, bootstrap=bootstrap)),
        "external": [],
        "subgroups": [
            {"column": part.column, "group": part.value, "cases": part.cases, **row}
            for part in by_subgroup(test, columns=("sex", "age_band"), bootstrap=Bootstrap(size.redraws // 5))
            if part.evaluation is not None
            for row in rows(part.evaluation)
        ],
        "thresholds": {},
        "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest()},
    }


def case_scores(trial: Trial, names: Sequence[str], size: Size) -> CaseScores:
    """Draw validation and test cases of a trial; labels and most of the noise are those of its data set."""
    count = size.cases + round(VALIDATION_SHARE * size.cases)
    dataset = _generator(trial.config.dataset.name)
    patients = np.sort(dataset.integers(0, size.patients, count))
    prevalence = dataset.uniform(0.02, 0.3, len(names))
    labels = (dataset.random((count, len(names))) < prevalence).astype(np.float64)
    shared = dataset.normal(size=labels.shape)
    sexes, ages = dataset.choice(["F", "M"], size.patients), dataset.choice(["18-39", "40-59", "60-79"], size.patients)
    own = _generator(trial.cell.name, trial.point).normal(size=labels.shape)
    noise = math.sqrt(SHARED_NOISE) * shared + math.sqrt(1 - SHARED_NOISE) * own
    separation = np.array([_skill(trial) * _ease(name) for name in names])
    values = 1 / (1 + np.exp(-(noise + labels * separation - 2)))
    identity = pd.DataFrame(
        {
            "case": [f"{trial.config.dataset.name}-{case}" for case in range(count)],
            "patient": [f"{trial.config.dataset.name}-{patient}" for patient in patients],
            "partition": np.where(np.arange(count) < size.cases, "test", "val"),
            "view": None,
            "sex": sexes[patients],
            "age_band": ages[patients],
            "origin": None,
        }
    )
    return collect(identity, values, labels, pathologies=names)
