"""1,000 paired redraws × 14 labels: sort once and weight by counts, against a scikit-learn loop on the same redraws."""

import time

import numpy as np
from sklearn.metrics import roc_auc_score

from scripts.benchmarks.row import Row
from trainers.evaluation import ranking, redraws

LABELS = 14
REDRAWS = 1000
FILMS_PER_PATIENT = 4


def run(*, quick: bool) -> list[Row]:
    """Measure; scikit-learn is timed on a part of the redraws and scaled, because the whole takes minutes."""
    rows = _at(10_000, timed=10 if quick else 100) + _by_patients(10_000, timed=5 if quick else 20)
    return rows if quick else rows + _at(100_000, timed=20)


def _at(cases: int, *, timed: int) -> list[Row]:
    labels, scores, generator = _cases(cases)
    indices = np.stack([generator.integers(0, cases, cases) for _ in range(REDRAWS)])
    started = time.perf_counter()
    counts = redraws.counts_of(indices, cases)
    found = _ours(labels, scores, np.arange(cases), counts)
    ours = time.perf_counter() - started
    peer, expected = _scikit_learn(labels, scores, indices[:timed])
    return _rows(f"{REDRAWS} redraws × {LABELS} labels × {cases} cases", ours, peer, found[:timed] - expected)


def _by_patients(cases: int, *, timed: int) -> list[Row]:
    labels, scores, generator = _cases(cases)
    owners = np.arange(cases) // FILMS_PER_PATIENT
    patients = cases // FILMS_PER_PATIENT
    drawn = np.stack([generator.integers(0, patients, patients) for _ in range(REDRAWS)])
    started = time.perf_counter()
    counts = redraws.counts_of(drawn, patients)
    found = _ours(labels, scores, owners, counts)
    ours = time.perf_counter() - started
    films = np.arange(cases).reshape(patients, FILMS_PER_PATIENT)
    peer, expected = _scikit_learn(labels, scores, [films[some].reshape(-1) for some in drawn[:timed]])
    return _rows(f"the same by patients, {patients} of them", ours, peer, found[:timed] - expected)


def _cases(cases: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Return labels of 2 to 50 % prevalence, scores rounded to three digits so that there are ties, and a generator."""
    generator = np.random.default_rng(0)
    labels = (generator.random((cases, LABELS)) < np.linspace(0.02, 0.5, LABELS)).astype(np.float64)
    return labels, np.round(generator.normal(size=(cases, LABELS)) + labels, 3), generator


def _ours(labels: np.ndarray, scores: np.ndarray, units: np.ndarray, counts: np.ndarray) -> np.ndarray:
    ranked = [
        ranking.rank(labels[:, index], scores[:, index], units=units, count=len(counts)) for index in range(LABELS)
    ]
    return ranking.redrawn(ranked, counts, metric="auroc")


def _scikit_learn(
    labels: np.ndarray, scores: np.ndarray, indices: "np.ndarray | list[np.ndarray]"
) -> tuple[float, np.ndarray]:
    started = time.perf_counter()
    values = [[roc_auc_score(labels[some, i], scores[some, i]) for i in range(LABELS)] for some in indices]
    return (time.perf_counter() - started) * REDRAWS / len(indices), np.array(values)


def _rows(name: str, ours: float, peer: float, differences: np.ndarray) -> list[Row]:
    largest = float(np.abs(differences).max())
    return [
        Row(f"bootstrap: {name}, seconds", ours, peer, peer / ours, "≥ 50×", peer / ours >= 50),
        Row(f"bootstrap: {name}, largest difference", largest, 0.0, largest, "≤ 1e-12", largest <= 1e-12),
    ]
