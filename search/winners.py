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

    def reopen_without_weights(self) -> bool:
        """Bring winners back to training whose weights are gone; returns whether there are any.

        A budget of bytes had no room for them while others stood for their cells.
        """
        gone = [winner for winner in self.all() if self._asks_for_more(winner) and not self._can_be_measured(winner)]
        reason = "it is its cell's winner now, and its weights were removed for budget.checkpoint_gb"
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
        before = self.desk.state.evaluations.get(winner.trial, {}).get("asked", {})
        return bool(self._people(winner) | before != self._asked_of(winner))

    def _can_be_measured(self, winner: Winner) -> bool:
        """Whether its network is there, or all scores that are asked for are."""
        stored = self._stored(winner)
        scored = stored is not None and len(stored) == len(self._external(winner))
        return scored or (self.folder.trial(winner.trial) / winner.checkpoint).is_dir()

    def _asked_of(self, winner: Winner) -> dict[str, Any]:
        """Return what a winner's figures depend on beside its scores, and the data sets it is also scored on."""
        settings = self.study.evaluation.model_dump(mode="json", include=set(EVALUATED_WITH))
        external = {name: key_of(dataset) for name, dataset in self._external(winner).items()}
        return {**settings, "external": external, **self._people(winner)}

    def _people(self, winner: Winner) -> dict[str, str]:
        """Return `Manifest.people` of the data it was trained on under its name, nothing where no version wrote it."""
        state = self.desk.state
        known = state.data_identity(state.trials[winner.trial].dataset_key)
        return {"people": known["people"]} if "people" in known else {}

    def _external(self, winner: Winner) -> dict[str, DatasetConfig]:
        names = self.study.evaluation.external.get(self.trials[winner.trial].config.dataset.name, [])
        return {name: dataset for name, dataset in grid.external_datasets(self.study).items() if name in names}

    def _stored(self, winner: Winner) -> list[str] | None:
        """Name the other data sets, as they are asked for now, whose scores are stored; None: not even its own are."""
        known = self.desk.state.evaluations.get(winner.trial)
        if known is None:
            return None
        asked = known.get("asked", {})
        if asked | self._people(winner) != self._people(winner) | asked:
            return None  # whose images they are was another then
        before = asked.get("external", {})
        return [name for name, dataset in self._external(winner).items() if before.get(name) == key_of(dataset)]

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
