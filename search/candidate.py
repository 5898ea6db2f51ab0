"""The winner of a study's winners, as something to promote: where its things are and what is known of it."""

import hashlib
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.dataset_config import DatasetConfig
from search import cursor, data_roots, ledger, sampling, selection, stored_scores
from search.errors import StudyError
from search.identity import identified
from search.ledger import Event
from search.study_config import StudyConfig
from search.study_delivery import connect_tracker, told_to
from search.study_folder import StudyFolder
from search.study_state import StudyState, TrialProgress
from search.wording import percent
from trainers.trial import Operation, TrialConfig

if TYPE_CHECKING:
    from mlflow_server.history import History
    from mlflow_server.packaging import Package
    from mlflow_server.promotion import Measured
    from mlflow_server.registry import Registry, Version
    from mlflow_server.reload import Original


@dataclass(frozen=True, slots=True)
class Candidate:
    """The study's best winner and where its things are."""

    study: StudyConfig
    folder: StudyFolder
    state: StudyState
    winner: selection.Winner
    run_id: str

    @property
    def progress(self) -> TrialProgress:
        """What the ledger has of the trial."""
        return self.state.trials[self.winner.trial]

    @property
    def fingerprint(self) -> str:
        """Of the data, as the ledger has it."""
        return str(self.state.datasets[self.progress.dataset_key]["fingerprint"])

    @property
    def checkpoint(self) -> Path:
        """Folder of the best checkpoint."""
        return self.folder.trial(self.winner.trial) / self.winner.checkpoint

    @property
    def name(self) -> str:
        """Of the registered model."""
        return self.study.promotion.registered_model or self.study.name

    @property
    def facts(self) -> dict[str, Any]:
        """Where the model comes from."""
        return {
            "study": self.study.name,
            "trial": self.winner.trial,
            "cell": self.winner.cell,
            "run_id": self.run_id,
            "data_fingerprint": self.fingerprint,
            "code": ", ".join(self.progress.versions),
        }

    def package(self, weights: Path | None = None) -> "Package":
        """Return what the registered model is made of.

        Args:
            weights: folder or file of pretrained weights, for a network whose checkpoint holds the head alone.
        """
        from mlflow_server.packaging import Package

        asked = {**self.study.evaluation.model_dump(), **self.evaluation.get("asked", {})}
        return Package(
            checkpoint=self.checkpoint,
            weights=weights,
            name=self.name,
            facts=self.facts,
            data=self.state.datasets[self.progress.dataset_key],
            evaluation=self.evaluation,
            procedure=f"The test partition was read once, after the choice on validation. In brackets "
            f"{percent(asked['confidence'])} intervals, {asked['redraws']} bootstrap redraws of {asked['unit']}s.",
        )

    def measured(self) -> "Measured":
        """Return the scores that the winner's evaluation stored.

        Raises:
            StudyError: they are not what was measured.
        """
        from mlflow_server.promotion import Measured
        from trainers.evaluation import case_scores

        return Measured(
            _test_scores(self._scores),
            {name: case_scores.load(io.BytesIO(content)) for name, content in self._external.items()},
        )

    @property
    def scores_sha256(self) -> str:
        """Of the scores that its evaluation stored."""
        return hashlib.sha256(self._scores).hexdigest()

    @property
    def external_sha256(self) -> dict[str, str]:
        """Of the scores on all other data sets that it was measured on: a later promotion may ask for any of them."""
        return {name: hashlib.sha256(content).hexdigest() for name, content in self._external.items()}

    @property
    def evaluation(self) -> Event:
        """What the ledger has of its evaluation."""
        return self.state.evaluated[self.winner.cell]

    @property
    def _scores(self) -> bytes:
        return stored_scores.read(self.folder, self.evaluation)

    @property
    def _external(self) -> dict[str, bytes]:
        others = itertools.chain(self.study.promotion.external, *self.study.evaluation.external.values())
        names = {name: stored_scores.of_other(name) for name in others}
        place, known = self.folder.winner(self.winner.trial), self.evaluation.get("sha256")
        measured = {  # earlier versions wrote down no hashes
            name: file
            for name, file in names.items()
            if (file in known if known is not None else (place / file).is_file())
        }
        return {name: stored_scores.read(self.folder, self.evaluation, file) for name, file in measured.items()}

    def rival(self, registry: "Registry", champion: "Version", history: "History") -> "Measured":
        """Return the scores of the champion, as far as its run has them.

        Raises:
            PromotionError: it has none on its own test partition, or they were changed since its promotion.
        """
        from mlflow_server.promotion import Measured
        from trainers.evaluation import case_scores

        # A model that was made anew counts from 1 again: the number alone does not say which version is meant.
        of_run = (champion.version, champion.run_id)
        told = [e for e in history.read() if (e.get("version"), e.get("run_id", champion.run_id)) == of_run]
        last = next((entry for entry in reversed(told) if "scores_sha256" in entry), {})
        own = _test_scores(registry.scores(champion, sha256=last.get("scores_sha256")))
        hashes = last.get("external_sha256", {})
        stored = {
            name: registry.external_scores(champion, name, sha256=hashes.get(name))
            for name in self.study.promotion.external
        }
        return Measured(
            own,
            {name: case_scores.load(io.BytesIO(content)) for name, content in stored.items() if content is not None},
        )

    def original(self, measured: "Measured", roots: Mapping[str, data_roots.Root]) -> "Original":
        """Return what the packaged model must agree with."""
        from mlflow_server.reload import Original

        config = TrialConfig.model_validate(self.progress.config)
        result = self.progress.result
        return Original(
            checkpoint=self.checkpoint,
            sha256=result.checkpoint_sha256 if result else None,
            promises=self.package().promises(),
            fingerprint=self.fingerprint,
            scores=measured.test,
            config=config,
            operation=Operation(
                data_root=data_roots.find(config.dataset, roots, self.folder.storage),
                cache=self.folder.cache,
                key_folder=self.folder.storage,
                trial_folder=self.folder.trial(self.winner.trial),
            ),
        )


def find(study: StudyConfig, storage: Path) -> Candidate:
    """Return the candidate of a finished study.

    Raises:
        StudyError: the study is not finished, or its winners cannot be compared.
        TrackingError: MLflow cannot be used.
    """
    from trainers.checkpoint import NETWORK

    folder = StudyFolder(storage, study.name)
    state = StudyState.of(ledger.read(folder.ledger).events)
    winner = best_winner(study, state)
    if left := cursor.waiting(folder, told_to(study)):
        raise StudyError(
            f"study {study.name}: {left} events have not reached MLflow, which a promotion rests on; "
            "`python -m search run` delivers them"
        )
    place = folder.trial(winner.trial) / winner.checkpoint
    if not (place / NETWORK).is_file():
        raise StudyError(
            f"study {study.name}: the weights of its winner, trial {winner.trial}, are gone from {place}; bring them "
            "back, or remove that folder and train it again with `python -m search run --retry-failed`"
        )
    return Candidate(study, folder, state, winner, connect_tracker(study, folder).run_id(winner.trial))


def best_winner(study: StudyConfig, state: StudyState) -> selection.Winner:
    """Return the cell winner with the best validation value, among those that were measured on the test partition.

    Raises:
        StudyError: none was, or the cells are of several data sets or label sets, whose values cannot be compared.
    """
    if not state.datasets:
        raise StudyError(f"study {study.name} was not run in this storage; run it first, or give another --storage")
    wanted = sampling.expand(study, state)
    trials = identified(wanted, state)
    chosen = selection.winners(state, {identity: trial.cell.name for identity, trial in trials.items()})
    measured = [winner for winner in chosen if state.evaluated.get(winner.cell, {}).get("trial") == winner.trial]
    if not measured:
        raise StudyError(f"study {study.name} has no measured winner yet; `python -m search run` it to its end first")
    done = sum(identity in state.trials and state.trials[identity].done for identity in trials)
    total = len(wanted.trials) + len(sampling.to_come(study, state))
    if done < total or len(measured) < len(chosen):
        raise StudyError(
            f"study {study.name} is not finished: {done} of {total} trials are done, {len(measured)} of "
            f"{len(chosen)} winners measured; `python -m search run` it to its end first"
        )
    _check_one_question(study, [trials[winner.trial].config.dataset for winner in chosen])
    sign = state.declaration.sign
    return max(chosen, key=lambda winner: sign * winner.value)


def _check_one_question(study: StudyConfig, asked: Sequence[DatasetConfig]) -> None:
    if len({dataset.name for dataset in asked}) > 1:
        raise StudyError(
            f"study {study.name} has winners on several data sets; a promotion compares models on one. Promote from a "
            "study of one data set"
        )
    first, *others = (dataset.question for dataset in asked)
    if differing := sorted({name for other in others for name in first if other[name] != first[name]}):
        raise StudyError(
            f"study {study.name} has winners that differ in {', '.join(differing)}: chosen by other labels or "
            "patients, they cannot be ranked. Promote from a study with one value of each"
        )


def _test_scores(content: bytes) -> Any:
    from trainers.evaluation import case_scores

    scores = case_scores.load(io.BytesIO(content))
    return scores.where((scores.table["partition"] == "test").to_numpy(bool))
