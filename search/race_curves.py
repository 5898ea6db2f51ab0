"""What a race reads of a trial: which point it is, its curve up to a rung, and where it stands there."""

from dataclasses import dataclass
from statistics import linear_regression

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from search import pruners


@dataclass(frozen=True, slots=True)
class Standing:
    """What the race knows of one trial at a rung; larger is better.

    Attributes:
        value: at the rung.
        slope: rise per epoch that the last epochs show beyond one standard error; 0 where there is one epoch only.
        noise: standard deviation of the last epochs around their line.
    """

    value: float
    slope: float
    noise: float


def sign_of(direction: StudyDirection) -> float:
    """Return what makes a larger value the better one, and a value as it is told again of that."""
    return -1.0 if direction == StudyDirection.MINIMIZE else 1.0


def seen(trial: FrozenTrial, rung: int, direction: StudyDirection) -> dict[int, float]:
    """Return a curve up to a rung, by epoch; larger is better."""
    sign = sign_of(direction)
    return {step: sign * value for step, value in sorted(trial.intermediate_values.items()) if step <= rung}


def key_of(trial: FrozenTrial) -> str:
    """Name the hyperparameters of a trial, the same in every group; where none are told, its point."""
    return pruners.key_of(trial.params) or point_of(trial)


def point_of(trial: FrozenTrial) -> str:
    """Name what a trial shares with those that differ from it in their seed alone."""
    return str(trial.user_attrs.get(pruners.POINT, trial.number))


def standing(trial: FrozenTrial, rung: int, direction: StudyDirection) -> Standing:
    """Read value, slope per epoch and epoch-to-epoch noise of a curve up to a rung."""
    curve = seen(trial, rung, direction)
    steps, values = np.array(list(curve), dtype=float), np.array(list(curve.values()))
    if len(steps) < 2:
        return Standing(float(values[-1]), 0.0, 0.0)
    recent = slice(-min(4, len(steps)), None)
    slope, offset = linear_regression(steps[recent].tolist(), values[recent].tolist())
    residual = values[recent] - (slope * steps[recent] + offset)
    noise = float(np.sqrt(np.sum(residual**2) / (len(residual) - 2))) if len(residual) > 2 else 0.0
    doubt = noise / float(np.sqrt(np.sum((steps[recent] - steps[recent].mean()) ** 2)))
    return Standing(float(values[-1]), max(slope - doubt, 0.0), noise)
