"""The report of the paper's 85 cells × 14 pathologies × 1,000 redraws × 25,000 cases, as the command a user types.

The study never ran (`scripts/synthetic_study.py`), but its ledger and scores are written by the real writers. The peer
is what the figures cost with scikit-learn: a loop over cells, pathologies and the same redraws, timed on a part.
"""

import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from sklearn.metrics import roc_auc_score

from scripts import synthetic_study
from scripts.benchmarks.row import Row
from search.study_config import StudyConfig, load_study
from trainers.evaluation import case_scores, family, redraws
from trainers.evaluation.case_scores import CaseScores
from trainers.evaluation.redraws import Bootstrap

ROOT = Path(__file__).resolve().parents[2]
STUDY = ROOT / "search" / "studies" / "dinov3_resolution.yaml"
PATHOLOGIES = [
    "cardiomegaly",
    "pleural_effusion",
    "pneumonia",
    "atelectasis",
    "no_finding",
    "consolidation",
    "pneumothorax",
    "pulmonary_fibrosis",
    "emphysema",
    "hernia",
    "pleural_thickening",
    "edema",
    "nodule",
    "mass",
]
SIZE = synthetic_study.Size(cases=25_000, patients=2_800)  # as the official test partition of NIH ChestX-ray14
QUICK = synthetic_study.Size(cases=2_500, patients=280)
SECONDS, GIGABYTES = 60.0, 2.0
TOLERANCE = 1e-12


def run(*, quick: bool) -> list[Row]:
    """Write the study, time the command, and compare a part of its redraws with scikit-learn's."""
    study, size = load_study(STUDY), QUICK if quick else SIZE
    targets = dict.fromkeys(study.axes["dataset"], PATHOLOGIES)
    with tempfile.TemporaryDirectory() as name:
        folder = synthetic_study.build(study, Path(name), targets, size)
        seconds, gigabytes = _timed(Path(name))
        found = json.loads((folder.report / "report.json").read_text())
        paths = [folder.winner(cell["trial"]) / "scores.parquet" for cell in found["cells"]]
        timed = 2 if quick else 5
        peer, largest = _scikit_learn(study, paths[:2], timed)
        _check(found, folder.winner)
    cells = len(found["cells"])
    count = study.evaluation.redraws
    peer *= cells * count
    name = f"report of {cells} cells × {len(PATHOLOGIES)} pathologies × {count} redraws × {size.cases} cases"
    return [
        Row(f"{name}, whole command, seconds", seconds, peer, peer / seconds, "≤ 60 s", seconds <= SECONDS),
        Row(
            "report: peak memory of all its processes, GB (beside: the bound)",
            gigabytes,
            GIGABYTES,
            gigabytes / GIGABYTES,
            "≤ 2 GB",
            gigabytes <= GIGABYTES,
        ),
        Row(
            "report: largest difference of a redraw",
            largest,
            0.0,
            largest,
            f"≤ {TOLERANCE}",
            largest <= TOLERANCE,
        ),
    ]


def _timed(storage: Path) -> tuple[float, float]:
    """Run the command; return its seconds, and the most memory that it and its children held together, in GB."""
    words = [sys.executable, "-m", "search", "report", str(STUDY), "--storage", str(storage), "--renew"]
    began = time.perf_counter()
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL) as command:
        watched, most = psutil.Process(command.pid), 0
        while command.poll() is None:
            most = max(most, _memory(watched))
            time.sleep(0.1)
    if command.returncode:
        raise RuntimeError(f"the report ended with {command.returncode}")
    return time.perf_counter() - began, most / 1e9


def _memory(process: psutil.Process) -> int:
    total = 0
    try:
        for member in (process, *process.children(recursive=True)):
            total += member.memory_info().rss
    except psutil.NoSuchProcess:  # it ended while we looked
        pass
    return total


def _scikit_learn(study: StudyConfig, paths: list[Path], timed: int) -> tuple[float, float]:
    """Return scikit-learn's seconds per cell and redraw, and the largest difference from ours on these."""
    evaluation = study.evaluation
    bootstrap = Bootstrap(evaluation.redraws, evaluation.unit, seed=evaluation.seed)
    seconds, largest = 0.0, 0.0
    for path in paths:
        scores = _test_cases(path)
        units = scores.units(bootstrap.unit)
        drawn = redraws.draw(int(units.max()) + 1, redraws=timed, seed=bootstrap.seed)
        ours = family.redraw(scores, metric="auroc", bootstrap=bootstrap)
        labels, values = scores.labels, scores.scores
        began = time.perf_counter()
        theirs = [
            [roc_auc_score(labels[kept, i], values[kept, i]) for i in range(len(PATHOLOGIES))]
            for kept in (np.repeat(np.arange(len(units)), drawn[units, redraw]) for redraw in range(timed))
        ]
        seconds += time.perf_counter() - began
        largest = max(largest, float(np.abs(ours.values[:timed, :-1] - np.array(theirs)).max()))
    return seconds / (len(paths) * timed), largest


def _check(found: dict[str, Any], winner: Any) -> None:
    """Check the report's first macro differences against scikit-learn's means on the cases as they are."""
    rows = (row for row in found["differences"]["pairs"] if row["target"] == "macro")
    for row in itertools.islice(rows, 3):
        means = []
        for trial in (row["first"], row["second"]):
            scores = _test_cases(winner(trial) / "scores.parquet")
            means.append(np.mean([roc_auc_score(*both) for both in zip(scores.labels.T, scores.scores.T, strict=True)]))
        if abs(row["difference"] - (means[0] - means[1])) > TOLERANCE:
            raise RuntimeError(f"the report says {row['difference']}, scikit-learn {means[0] - means[1]}")


def _test_cases(path: Path) -> CaseScores:
    scores = case_scores.load(path)
    return scores.where((scores.table["partition"] == "test").to_numpy(bool))
