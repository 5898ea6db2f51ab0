"""The winners of a study's cells: which of them were measured as the study asks, and measuring the others."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from datasets.dataset_config import DatasetConfig
from search import grid, ray_cluster, selection, stored_scores, worker
from search.desk import Desk, now_ms
from search.grid import Trial
from search.identity import key_of
from search.resources import Slot
from search.selection import Winner
from search.study_config import StudyConfig
from search.study_folder import StudyFolder
from search.study_sections import EVALUATED_WITH
from search.wording import counted
from trainers import checkpoint_files
from trainers.trial import Operation


@dataclass(frozen=True, slots=True)
class Winners:
    """The winners among a study's trials, as the ledger has them at any moment.

    Attributes:
        study: what is asked for.
        folder: of the study.
        desk: records what is measured.
        trials: by identity, all of the study.
        place_of: returns a data set with where it lies.
        operation_of: returns where and with what a trial is carried out.
        slot_of: returns what a trial occupies.
    """

    study: StudyConfig
    folder: StudyFolder
    desk: Desk
    trials: Mapping[str, Trial]
    place_of: Callable[[DatasetConfig], worker.DatasetPlace]
    operation_of: Callable[[Trial, str], Operation]
    slot_of: Callable[[Trial], Slot]

    def all(self) -> list[Winner]:
        """Return the winner of every cell that has one."""
        return selection.winners(self.desk.state, {name: trial.cell.name for name, trial in self.trials.items()})

    def reopen_without_weights(self, *, measured: bool = False) -> bool:
        """Bring winners back to training whose weights are gone; returns whether there are any.

        A budget of bytes had no room for them while others stood for their cells, or somebody removed them.

        Args:
            measured: those as well whose figures are all there: a promotion needs the weights.
        """
        without = [winner for winner in self.all() if not self._has_weights(winner)]
        lacking = (w for w in without if self._asks_for_more(w) and not self._can_be_measured(w))
        gone = without if measured else list(lacking)
        reason = "it is its cell's winner, and its weights are gone"
        for winner in gone:
            checkpoint_files.drop_trial(self.folder.trial(winner.trial))  # what is left of it would go on at its end
        if gone:
            self.desk.record(*({"kind": "reopened", "trial": winner.trial, "reason": reason} for winner in gone))
        return bool(gone)

    def measure(self) -> None:
        """Measure each winner on the test partition, and none a second time.

        Where the study asks for other intervals or groups than when a winner was measured, its stored scores are
        summarized anew; of other data sets those are scored that were not before. Where the data say otherwise whose
        images they are, all are scored again.
        """
        state, winners = self.desk.state, self.all()
        known = [winner for winner in winners if winner.trial in state.evaluations]
        if again := [w for w in known if state.evaluated.get(w.cell, {}).get("trial") != w.trial]:
            chosen = ({"kind": "chosen", "trial": w.trial, "cell": w.cell, "time_ms": now_ms()} for w in again)
            self.desk.record(*chosen)
        missing = [winner for winner in winners if self._asks_for_more(winner) and self._can_be_measured(winner)]
        if new := sum(winner not in known for winner in missing):
            self.desk.progress.note(f"measuring {counted(new, 'winner')} on the test partition")
        if old := len(missing) - new:
            self.desk.progress.note(f"measuring {counted(old, 'winner')} as the study asks for it now")
        for winner in missing:
            self._check_stored(winner)
        orders = [self._order(winner) for winner in missing]
        slots = [self.slot_of(self.trials[winner.trial]) for winner in missing]
        for index, found in ray_cluster.each(worker.evaluate, orders, slots):
            winner = missing[index]
            place = {"trial": winner.trial, "cell": winner.cell, "asked": self._asked_of(winner)}
            self.desk.record({"kind": "evaluated", "time_ms": now_ms(), **place, **found})

    def _asks_for_more(self, winner: Winner) -> bool:
        """Whether a winner was not measured yet, or not as study and data have it now."""
        before, now = self.desk.state.evaluations.get(winner.trial, {}).get("asked", {}), self._asked_of(winner)
        return {**before, "data": None} != {**now, "data": None} or bool(_changed(before, now))

    def _can_be_measured(self, winner: Winner) -> bool:
        """Whether its network is there, or all scores that are asked for are."""
        stored = self._stored(winner)
        scored = stored is not None and len(stored) == len(self._external(winner))
        return scored or self._has_weights(winner)

    def _has_weights(self, winner: Winner) -> bool:
        return (self.folder.trial(winner.trial) / winner.checkpoint).is_dir()

    def _asked_of(self, winner: Winner) -> dict[str, Any]:
        """Return what a winner's figures depend on."""
        settings = self.study.evaluation.model_dump(mode="json", include=set(EVALUATED_WITH))
        external = {name: key_of(dataset) for name, dataset in self._external(winner).items()}
        return {**settings, "external": external, "data": self._data(winner)}

    def _data(self, winner: Winner) -> dict[str, str]:
        """Return what its figures depend on, by data set and word, as far as that is known.

        The trial itself says the labels it was trained on. A winner that was trained again may have come to other
        weights, on another processor.
        """
        state, own = self.desk.state, self._dataset(winner)
        progress = state.trials[winner.trial]
        people = state.data_identity(progress.dataset_key).get("people")
        weights = progress.result.checkpoint_sha256 if progress.result else None
        found = {f"{own} people": people, f"{own} weights": weights}
        for name, dataset in self._external(winner).items():
            found |= {f"{name} {word}": value for word, value in state.data_identity(key_of(dataset)).items()}
        return {key: value for key, value in found.items() if value is not None}

    def _dataset(self, winner: Winner) -> str:
        return self.trials[winner.trial].config.dataset.name

    def _external(self, winner: Winner) -> dict[str, DatasetConfig]:
        names = self.study.evaluation.external.get(self._dataset(winner), [])
        return {name: dataset for name, dataset in grid.external_datasets(self.study).items() if name in names}

    def _stored(self, winner: Winner) -> list[str] | None:
        """Name the other data sets, as they are asked for now, whose scores are stored; None: not even its own are."""
        known = self.desk.state.evaluations.get(winner.trial)
        if known is None:
            return None
        before, now = known.get("asked", {}), self._asked_of(winner)
        changed, keys = _changed(before, now), before.get("external", {})
        if self._dataset(winner) in changed:
            return None
        return [name for name, key in now["external"].items() if keys.get(name) == key and name not in changed]

    def _check_stored(self, winner: Winner) -> None:
        """Refuse to summarize anew what are not the scores that were measured.

        Raises:
            StudyError: names the file.
        """
        stored = self._stored(winner)
        if stored is None:
            return
        for name in (stored_scores.SCORES, *map(stored_scores.of_other, stored)):  # the others are scored again
            if (self.folder.winner(winner.trial) / name).is_file():  # and so is what is missing
                stored_scores.read(self.folder, self.desk.state.evaluations[winner.trial], name)

    def _order(self, winner: Winner) -> worker.EvaluationOrder:
        trial = self.trials[winner.trial]
        return worker.EvaluationOrder(
            trial=winner.trial,
            cell=winner.cell,
            config=trial.config,
            operation=self.operation_of(trial, winner.trial),
            checkpoint=winner.checkpoint,
            folder=self.folder.winner(winner.trial),
            settings=self.study.evaluation,
            external=[self.place_of(dataset) for dataset in self._external(winner).values()],
            stored=self._stored(winner),
        )


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> set[str]:
    """Name the data sets whose figures depend on something that was another when they were measured."""
    known = before.get("data", {})  # earlier versions wrote less of it
    return {key.rpartition(" ")[0] for key, value in now["data"].items() if known.get(key, value) != value}
