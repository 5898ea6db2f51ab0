"""Pruners by name: our own, one file each in this folder, and every pruner that Optuna has.

A pruner of our own exports `PRUNER`, a subclass of `optuna.pruners.BasePruner`. It is built with its settings and with
those of `NOT_SETTINGS` that it takes, as keywords; these come from the search, never from a study file. It may have an
attribute `rungs`: epochs at which the trials of a group wait for each other, so that a decision does not depend on
which of them ran first.
"""

import importlib
import inspect
import sys
from collections.abc import Mapping
from typing import Any

import optuna

from search.errors import StudyError
from trainers.plugins import listed


def names() -> list[str]:
    """List every pruner a study file can name."""
    return [*_ours(), "none", *_optunas(), *PATIENT]


REFUSED = ("wilcoxon", "WilcoxonPruner")
"""Optuna's pruner of means over problem instances, which epochs are not."""
PATIENT = ("patient", "PatientPruner")
"""Optuna's pruner that holds another back; settings: patience, wrapped_pruner: median or {median: {…}}; without one it
stops by itself what has not improved."""
NOTHING = ("none", "nop", "NopPruner")
"""Names under which nothing is pruned."""
POINT = "point"
"""User attribute of a trial: what those share that differ in their seed alone."""
NOT_SETTINGS = frozenset({"epochs", "past", "restarts", "trials"})


def create(
    name: str, settings: Mapping[str, Any], *, epochs: int, known: Mapping[str, Any] | None = None
) -> optuna.pruners.BasePruner:
    """Build a pruner for trials of `epochs` epochs.

    Args:
        name: one of `names`.
        settings: from a study file.
        epochs: of a full trial.
        known: what a pruner of our own is told besides, if it takes it, of `NOT_SETTINGS`.

    Raises:
        StudyError: no such pruner, or a setting it does not take.
    """
    if name in REFUSED:
        raise StudyError(
            "pruning.pruner: WilcoxonPruner compares trials step by step over the same problem instances; "
            "epochs of a training are not instances. Choose another pruner"
        )
    given = dict(settings)
    if name in PATIENT:
        kind: Any = optuna.pruners.PatientPruner
        inner, own = unwrapped(name, given)
        alone = given.pop("wrapped_pruner", None) is None
        if not isinstance(own, Mapping):
            raise StudyError(f"pruning.settings: {name}: expected wrapped_pruner: {{{inner}: {{SETTING: VALUE}}}}")
        held_back = None if alone else create(inner, own, epochs=epochs, known=known)
        if hasattr(held_back, "rungs"):
            raise StudyError(
                f"pruning.settings: {name}: wrapped_pruner {inner} decides where the trials of a group wait for each "
                f"other, and under another pruner none waits: nothing would be pruned. Choose {inner} itself, or wrap "
                "one of Optuna's"
            )
        given = {"wrapped_pruner": held_back, "patience": 1, **given}
    elif name in NOTHING:
        kind = optuna.pruners.NopPruner
    elif name in _optunas():
        kind = _optunas()[name]
        if kind is optuna.pruners.HyperbandPruner:  # by itself it prunes nothing until a trial showed it the length
            given.setdefault("max_resource", epochs)
    elif name in names():
        kind = importlib.import_module(f"{__name__}.{name}").PRUNER
        takes_known = NOT_SETTINGS & set(inspect.signature(kind).parameters)
        given |= {word: told for word, told in {"epochs": epochs, **(known or {})}.items() if word in takes_known}
    else:
        raise StudyError(f"pruning.pruner: no pruner {name!r}; pruners: {', '.join(names())}")
    takes = ", ".join(key for key in inspect.signature(kind).parameters if key not in NOT_SETTINGS) or "nothing"
    if reserved := sorted(NOT_SETTINGS & set(settings)):
        raise StudyError(f"pruning.settings: {name}: {', '.join(reserved)} is no setting; it takes: {takes}")
    try:
        if kind is optuna.pruners.HyperbandPruner and given.get("reduction_factor", 3) < 2:
            raise ValueError("reduction_factor must be at least 2")  # Optuna divides by its logarithm
        _check_whole(kind, given)
        pruner: optuna.pruners.BasePruner = kind(**given)
    except (TypeError, ValueError) as problem:
        raise StudyError(f"pruning.settings: {name}: {problem}; it takes: {takes}") from None
    return pruner


def unwrapped(name: str, settings: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the pruner that decides, and its settings: of `patient` the one that it holds back, if there is one."""
    wrapped = settings.get("wrapped_pruner") if name in PATIENT else None
    if wrapped is None:
        return name, settings
    inner, own = next(iter(wrapped.items())) if isinstance(wrapped, Mapping) and wrapped else (wrapped, {})
    return str(inner), own


def _check_whole(kind: Any, given: Mapping[str, Any]) -> None:
    """Refuse fractions for whole numbers: Optuna's pruners take them and fail amid the search."""
    for name, parameter in inspect.signature(kind).parameters.items():
        value, declared = given.get(name), str(parameter.annotation)
        if isinstance(value, float) and not value.is_integer() and "int" in declared and "float" not in declared:
            raise ValueError(f"{name} must be a whole number, found {value:g}")


def rungs(pruner: optuna.pruners.BasePruner) -> tuple[int, ...]:
    """Return the epochs at which a group waits for all its trials; none for pruners that decide at once."""
    return tuple(getattr(pruner, "rungs", ()))


def learns(name: str) -> bool:
    """Say whether a pruner can take over what other groups teach (`learn_from`)."""
    return name in _ours() and hasattr(importlib.import_module(f"{__name__}.{name}").PRUNER, "learn_from")


def key_of(params: Mapping[str, Any]) -> str:
    """Name hyperparameters, the same in every group."""
    return ", ".join(f"{name}={value}" for name, value in sorted(params.items()))


def _ours() -> list[str]:
    return listed(sys.modules[__name__])


def _optunas() -> dict[str, type[optuna.pruners.BasePruner]]:
    """Optuna's pruners that need no other pruner, by snake-case name without `Pruner`."""
    kinds = {
        _snake(name.removesuffix("Pruner")): getattr(optuna.pruners, name)
        for name in optuna.pruners.__all__
        if name not in {"BasePruner", *PATIENT, *REFUSED}
    }
    return kinds | {kind.__name__: kind for kind in kinds.values()}


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
