"""Names of pathologies across collections, uncertain labels and label noise."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from datasets.dataset_config import UncertainPolicy
from datasets.errors import DatasetError
from datasets.source_table import UNCERTAIN

NO_FINDING = "no_finding"
"""Not a finding but that there is none: it holds where all others are absent."""
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "aortic_elongation": (),
    "aortic_enlargement": (),
    "atelectasis": (),
    "cardiomegaly": (),
    "clavicle_fracture": (),
    "consolidation": (),
    "copd": ("copd_signs",),
    "diaphragmatic_hernia": ("diagphramatic_hernia",),  # as VinDr-PCXR spells it
    "bronchopneumonia": ("brocho_pneumonia", "broncho_pneumonia"),
    "edema": ("oedema", "pulmonary_edema"),
    "emphysema": (),
    "enlarged_cardiomediastinum": (),
    "enlarged_pulmonary_artery": ("enlarged_pa",),
    "fracture": (),
    "hernia": ("hiatal_hernia",),
    "infiltration": ("infiltrate", "infiltrates", "pneumonic_infiltrates"),
    "interstitial_lung_disease": ("ild",),
    "lung_lesion": (),
    "lung_opacity": ("airspace_opacity",),
    "mass": (),
    NO_FINDING: ("normal", "healthy", "no_findings"),
    "nodule": (),
    "nodule_mass": ("nodule_or_mass",),
    "other_disease": ("other_diseases",),  # VinDr-CXR: plural in train, singular in test
    "pleural_effusion": ("effusion",),
    "pleural_thickening": (),
    "pneumonia": (),
    "pneumothorax": (),
    "pulmonary_fibrosis": ("fibrosis",),
    "support_devices": (),
}
"""Canonical name to the other spellings of it, both as `snake_case`."""

_CANONICAL = {synonym: name for name, synonyms in SYNONYMS.items() for synonym in synonyms}
SOFT = 0.5
"""Target of an uncertain label under the policy `soft`: the reader leaned neither way."""


def canonical(name: str) -> str:
    """Return the name every collection shares, e.g. 'Effusion' → 'pleural_effusion'; unknown names as snake_case.

    Letters of every script stay: 'Fleck groß' is 'fleck_groß'.
    """
    snake = re.sub(r"[\W_]+", "_", unicodedata.normalize("NFKC", name).lower()).strip("_")
    return _CANONICAL.get(snake, snake)


def resolve_uncertain(
    labels: np.ndarray, pathologies: Sequence[str], policy: UncertainPolicy | Mapping[str, UncertainPolicy]
) -> np.ndarray:
    """Return labels without `UNCERTAIN`: 0, 1, NaN or `SOFT`, as the policy of each pathology says.

    Args:
        labels: float32 (rows, pathologies).
        pathologies: names of the columns.
        policy: one for all, or per pathology; a pathology that is not named is ignored (NaN).

    Raises:
        DatasetError: the policy names a pathology that is not there.
    """
    if isinstance(policy, str):
        policy = dict.fromkeys(pathologies, policy)
    unknown = sorted(set(policy) - set(pathologies))
    if unknown:
        raise DatasetError(
            f"no pathology {', '.join(map(repr, unknown))}", "key `uncertain`", f"one of {', '.join(pathologies)}"
        )
    value = {"zeros": 0.0, "ones": 1.0, "ignore": np.nan, "soft": SOFT}
    targets = np.array([value[policy.get(name, "ignore")] for name in pathologies], dtype=np.float32)
    return np.where(labels == UNCERTAIN, targets, labels).astype(np.float32)


def fill_blanks(labels: np.ndarray, pathologies: Sequence[str], policy: str) -> np.ndarray:
    """Return labels whose blank cells (NaN) are 0, or with the policy 'ignore' stay blank.

    That of `no_finding` is 0 either way: the CheXpert labeler writes 1 or nothing there, and nothing where the report
    mentions a finding.

    Args:
        labels: float32 (rows, pathologies).
        pathologies: names of the columns.
        policy: zeros or ignore.
    """
    filled = np.array([policy == "zeros" or name == NO_FINDING for name in pathologies])
    return np.where(np.isnan(labels) & filled, np.float32(0), labels)


def harden(labels: np.ndarray) -> np.ndarray:
    """Return labels fit for evaluation: a soft label above one half is 1, below is 0, one half is not given (NaN)."""
    soft = (labels > 0) & (labels < 1)
    hard = np.where(labels > 0.5, np.float32(1), np.where(labels < 0.5, np.float32(0), np.float32(np.nan)))
    return np.where(soft, hard, labels).astype(np.float32)


def flip(
    labels: np.ndarray, pathologies: Sequence[str], *, rows: np.ndarray, share: float, mode: str, seed: int
) -> np.ndarray:
    """Return labels with a seeded share of them flipped in `rows`; a label that is not given stays so.

    As the authors of paper 1 corrupt VinDr-CXR (tayebiarasteh/vit-med `make_vindr_noisy_csv`, seed 42):
    `asymmetric` flips a positive with probability p and a negative with p/4, `symmetric` both with p;
    `no_finding` is not flipped but said anew: 1 where no abnormal label is left.

    Args:
        labels: float32 (rows, pathologies).
        pathologies: names of the columns.
        rows: the rows of the train partition; all others are returned as they came.
        share: p, between 0 and 1.
        mode: 'asymmetric' or 'symmetric'.
        seed: of the flips; they do not depend on the order of other draws.
    """
    if share == 0 or len(rows) == 0:
        return labels
    noisy = labels.copy()
    part = labels[rows]
    abnormal = np.array([name != NO_FINDING for name in pathologies])
    draws = np.random.default_rng(seed).random(part.shape)
    chance = np.where(part > 0.5, share, share / 4 if mode == "asymmetric" else share)
    flipped = np.where((draws < chance) & abnormal & ~np.isnan(part), 1 - part, part)
    if not abnormal.all():
        anything = np.nanmax(np.where(np.isnan(flipped[:, abnormal]), 0, flipped[:, abnormal]), axis=1, initial=0) > 0.5
        column = int(np.flatnonzero(~abnormal)[0])
        flipped[:, column] = np.where(np.isnan(part[:, column]), np.nan, np.where(anything, 0, 1))
    noisy[rows] = flipped
    return noisy.astype(np.float32)


def indicator(lists: Iterable[Iterable[str]], pathologies: Sequence[str]) -> np.ndarray:
    """Return float32 (rows, pathologies): 1 where the row's list of canonical names holds the pathology, else 0."""
    column = {name: index for index, name in enumerate(pathologies)}
    found = [[column[name] for name in names if name in column] for names in lists]
    labels = np.zeros((len(found), len(pathologies)), dtype=np.float32)
    labels[np.repeat(np.arange(len(found)), [len(f) for f in found]), [c for f in found for c in f]] = 1
    return labels
