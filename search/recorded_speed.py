"""How fast trials were: measured by a probe of a few steps, or taken from ledgers of studies that ran."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from search import ledger
from search.study_state import StudyState, TrialProgress
from trainers import adaptations
from trainers.trial import TrialConfig, TrialState

Kind = tuple[str, int, str]
"""Backbone, resolution, adaptation: what a trial's speed depends on most."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """Images that are trained in a second of a whole GPU (of a slot where there is none), and where that is known from.

    Of trials on stored features, by kind of trial, the images that their encoder reads.
    """

    images_per_second: Mapping[Kind, float]
    source: str


def kind_of(config: TrialConfig) -> Kind:
    """Return what a trial's speed depends on."""
    return config.backbone, config.resolution, config.adaptation


def from_ledgers(storage: Path) -> Speeds | None:
    """Read the speeds of all trials that trained in a storage folder; None if there are none."""
    found: dict[Kind, list[float]] = defaultdict(list)
    for path in sorted(storage.glob("*/ledger.jsonl")):
        state = StudyState.of(ledger.read(path).events)
        for progress in state.trials.values():
            config = progress.config
            kind = (config["backbone"], config["resolution"], config.get("adaptation", "finetune"))
            if adaptations.load(kind[2]).on_features:
                continue  # its seconds say how fast features are read, not how fast the encoder is
            speed = _speed(progress, state.datasets.get(progress.dataset_key, {}))
            if speed is not None:
                found[kind].append(speed)
    if not found:
        return None
    return Speeds({kind: median(speeds) for kind, speeds in found.items()}, f"trials recorded in {storage}")


def probe(configs: Iterable[TrialConfig], *, steps: int) -> Speeds:
    """Train each kind of trial for a few steps on random images, on this machine.

    Of the trials of a kind the one with the lowest learning rate: a loss that is no number would end the probe.
    """
    from trainers.speed import images_per_second

    gently_last = sorted(configs, key=lambda config: -config.recipe.learning_rate)
    kinds = {kind_of(config): config for config in gently_last}
    measured = {kind: images_per_second(config, steps=steps) for kind, config in kinds.items()}
    return Speeds(measured, f"{steps} steps of each kind of trial on this machine")


def _speed(progress: TrialProgress, data: Mapping[str, Any]) -> float | None:
    """Return the images of the training partition times epochs, by the seconds of GPUs that the trial held.

    Trials that share a GPU are slower each, and as fast together.
    """
    images, use = data.get("images", {}).get("train"), progress.use
    seconds = use.gpu_seconds or use.seconds
    if progress.state not in (TrialState.COMPLETE, TrialState.PRUNED) or not images or not seconds:
        return None
    return float(images * len(progress.epochs) / seconds) or None
