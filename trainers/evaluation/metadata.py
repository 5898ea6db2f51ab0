"""What can be had without looking at the image: a logistic regression on view, sex and age.

A network that is not clearly better than this has learned who is ill from how the film was taken.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from datasets.labels import harden
from datasets.manifest import Manifest, Partition
from trainers import tasks
from trainers.evaluation.auroc import auroc

TASK = "multilabel"
"""Whose cases and labels the baseline has, as the networks that it stands beside."""


@dataclass(frozen=True, slots=True)
class MetadataBaseline:
    """AUROC of the metadata alone.

    Attributes:
        auroc: by pathology, None where a class is absent.
        macro: mean over the pathologies that have a value; None if none has.
        columns: what it was given.
        scores: float64 (cases, pathologies), NaN where it could not be fitted.
        labels: float64 (cases, pathologies): 1, 0, NaN not given.
    """

    auroc: dict[str, float | None]
    macro: float | None
    columns: tuple[str, ...]
    scores: np.ndarray
    labels: np.ndarray


def metadata_baseline(
    manifest: Manifest, *, partition: Partition = "test", with_origin: bool = False
) -> MetadataBaseline:
    """Fit on the images of train, score the cases of another partition as a network's are (`Task.by_case`).

    Images that cannot be read are scored, too, and may add a case that the networks do not have: no cache is opened
    here that would tell them.

    Args:
        manifest: with view, sex and age; unknown values are a category (age: the mean and a flag).
        partition: whose cases to score.
        with_origin: also give it the sub-source, to see how much a source alone tells.
    """
    train, scored = manifest.rows("train"), manifest.rows(partition)
    categories = ["view", "sex", *(["origin"] if with_origin else [])]
    features = _features(manifest.instances, categories, train)
    scores = np.full((len(scored), len(manifest.pathologies)), np.nan)
    for index in range(len(manifest.pathologies)):
        labels = manifest.labels[train, index]
        known = np.isin(labels, (0, 1))
        if len(np.unique(labels[known])) == 2:
            fitted = LogisticRegression(max_iter=1000).fit(features[train[known]], labels[known])
            scores[:, index] = fitted.predict_proba(features[scored])[:, 1]
    cases = manifest.instances["case"].iloc[scored].to_numpy()
    scores, labels, _ = tasks.load(TASK).by_case(scores, harden(manifest.labels[scored]), cases, manifest.pathologies)
    found = {
        name: None if np.isnan(scores[:, index]).any() else auroc(labels[:, index], scores[:, index])
        for index, name in enumerate(manifest.pathologies)
    }
    defined = [value for value in found.values() if value is not None]
    return MetadataBaseline(found, float(np.mean(defined)) if defined else None, (*categories, "age"), scores, labels)


def baseline_rows(manifest: Manifest) -> list[dict[str, Any]]:
    """Return the baseline's test figures in the form of a winner's: metric, target, value, counts, no interval."""
    baseline = metadata_baseline(manifest)
    rows = [
        {
            "metric": "auroc",
            "target": name,
            "value": baseline.auroc[name],
            "low": None,
            "high": None,
            "positives": int((baseline.labels[:, index] == 1).sum()),
            "negatives": int((baseline.labels[:, index] == 0).sum()),
        }
        for index, name in enumerate(manifest.pathologies)
    ]
    nothing = {"low": None, "high": None, "positives": None, "negatives": None}
    return [*rows, {"metric": "auroc", "target": "macro", "value": baseline.macro, **nothing}]


def _features(instances: pd.DataFrame, categories: list[str], train: np.ndarray) -> np.ndarray:
    """Return one-hot categories and standardized age for all rows, fitted on train."""
    texts = instances[categories].astype(object).where(instances[categories].notna(), "unknown").astype(str)
    encoder = OneHotEncoder(sparse_output=False, handle_unknown="ignore").fit(texts.iloc[train])
    age = instances["age"].to_numpy(np.float64)
    unknown = np.isnan(age)
    mean = np.nanmean(age[train]) if (~unknown[train]).any() else 0.0
    filled = np.where(unknown, mean, age)[:, None]
    scaled = StandardScaler().fit(filled[train]).transform(filled)
    return np.hstack([encoder.transform(texts), scaled, unknown[:, None].astype(np.float64)])
