"""Features of frozen encoders while a search runs: one trial computes them, those that read the same wait for it.

They wait without a slot. Features may take an encoder hours and a whole GPU; the heads that read them take minutes, and
a trial that comes to features that are being computed would hold a GPU of its own until they are there
(`trainers.features` lets one compute at a time).
"""

from collections import defaultdict
from collections.abc import Mapping

from search.identity import key_of
from trainers import adaptations, initializations
from trainers.trial import TrialConfig


def store_of(config: TrialConfig) -> str | None:
    """Name the feature store of a trial, as far as its configuration tells; None where it reads images.

    `trainers.features.feature_key` is the exact name, which takes the data and the weights.
    """
    if not adaptations.load(config.adaptation).on_features:
        return None
    recipe = config.recipe
    encoder = (config.initialization, config.backbone, config.resolution, recipe.pooling, recipe.precision)
    seed = None if initializations.is_trained(config.initialization) else config.seed
    return repr((key_of(config.dataset), *encoder, seed))


class FeatureStores:
    """Which stores are there, which are being computed, and who waits for them.

    A store counts as there once a trial of this run has trained on it: whether one of an earlier run was removed since
    only a worker could tell.

    Args:
        store_of: by trial; those that read images are left out.
    """

    def __init__(self, store_of: Mapping[str, str]):
        self._store_of = store_of
        self._there: set[str] = set()
        self._computed_by: dict[str, str] = {}
        self._waiting: dict[str, list[str]] = defaultdict(list)

    def must_wait(self, trial: str) -> bool:
        """Say whether another trial is computing what this one reads; it is among those that are let go afterwards."""
        store = self._store_of.get(trial)
        if store is None or store not in self._computed_by:
            return False
        self._waiting[store].append(trial)
        return True

    def started(self, trial: str) -> None:
        """Take in that a trial has a slot: it computes its features, unless they are there."""
        store = self._store_of.get(trial)
        if store is not None and store not in self._there:
            self._computed_by[store] = trial

    def trained(self, trial: str) -> list[str]:
        """Take in that a trial has read its features; return those that waited for it."""
        store = self._store_of.get(trial)
        if store is None or store in self._there:
            return []
        self._there.add(store)
        return self.left(trial)

    def left(self, trial: str) -> list[str]:
        """Take in that a trial has left its slot, whatever came of it; return those that waited for it."""
        store = self._store_of.get(trial)
        if store is None or self._computed_by.get(store) != trial:
            return []
        del self._computed_by[store]
        return self._waiting.pop(store, [])
