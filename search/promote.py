"""From a finished study to a registered model: the winner of winners is judged against the champion."""

import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from search import data_roots, grid, ledger, selection
from search.desk import now_ms
from search.errors import StudyError
from search.identity import identified
from search.study_config import StudyConfig
from search.study_delivery import connect_tracker, tracking_uri
from search.study_folder import StudyFolder
from search.study_state import StudyState, TrialProgress
from trainers.trial import Operation, TrialConfig

if TYPE_CHECKING:
    from mlflow_server.promotion import Reason
    from mlflow_server.registry import Registry, Version


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
        }


def promote(
    study: StudyConfig, storage: Path, *, roots: Mapping[str, Path] | None = None, dry_run: bool = False
) -> dict[str, Any]:
    """Judge the study's best winner, chosen on validation, and crown it if the evidence allows.

    Args:
        study: finished.
        storage: folder of all studies.
        roots: where data sets lie; some test images are scored again.
        dry_run: judge, and change nothing.

    Returns:
        The decision with its reasons, the model's name and version, and who was champion before.

    Raises:
        StudyError: the study is not finished.
        PromotionError: the registry lacks the champion's evidence, or the champion changed meanwhile.
    """
    from mlflow_server import promotion
    from mlflow_server.registry import Registry

    folder = StudyFolder(storage, study.name)
    state = StudyState.of(ledger.read(folder.ledger).events)
    winner = best_winner(study, state)
    candidate = Candidate(study, folder, state, winner, connect_tracker(study, folder).run_id(winner.trial))
    uri = tracking_uri(study, folder)
    registry = Registry(uri)
    champion = registry.champion(candidate.name)
    if champion is not None and champion.run_id == candidate.run_id:
        crowned = {
            "promoted": True,
            "dry_run": dry_run,
            "reasons": [
                {"condition": "this model is the champion", "holds": True, "evidence": f"version {champion.version}"}
            ],
        }
        return _outcome(candidate, champion.version, champion.version) | crowned
    challenger = _test_scores((folder.winner(winner.trial) / "scores.parquet").read_bytes())
    with _packaged(candidate, registry, uri=uri, dry_run=dry_run) as (source, version):
        found = _checks(candidate, source, challenger, uri=uri, roots=roots or {})
    decision = promotion.judge(
        challenger, _test_scores(registry.scores(champion)) if champion else None, _policy(candidate), checks=found
    )
    outcome = _outcome(candidate, version.version if version else None, champion.version if champion else None)
    outcome |= {**decision.as_json(), "dry_run": dry_run}
    if version is not None:
        _carry_out(candidate, registry, outcome, pair=(version, champion))
    return outcome


def _policy(candidate: Candidate) -> Any:
    from mlflow_server.promotion import Policy
    from trainers.evaluation.redraws import Bootstrap

    settings, wanted = candidate.study.evaluation, candidate.study.promotion
    return Policy(
        rule=wanted.rule,
        margin=wanted.margin,
        metric=candidate.state.declaration.primary_metric.split("/")[1],
        bootstrap=Bootstrap(settings.redraws, settings.unit, level=settings.confidence, seed=settings.seed),
        per_pathology=wanted.per_pathology,
        calibration=wanted.calibration,
        minimum_positives=wanted.minimum_positives,
    )


@contextmanager
def _packaged(
    candidate: Candidate, registry: "Registry", *, uri: str, dry_run: bool
) -> "Iterator[tuple[str, Version | None]]":
    """Package the network: as a registered version with the alias `challenger`, or, dry, in a passing folder."""
    from mlflow_server import packaging

    package = packaging.Package(candidate.checkpoint, candidate.facts)
    if dry_run:
        with tempfile.TemporaryDirectory(prefix="radsweep-") as place:
            packaging.save_model(package, Path(place) / "model")
            yield str(Path(place) / "model"), None
        return
    version = registry.version_of(candidate.name, candidate.run_id)
    if version is None:
        source = packaging.log_model(package, run_id=candidate.run_id, uri=uri)
        tags = {f"radsweep.{key}": value for key, value in candidate.facts.items() if key != "run_id"}
        version = registry.register(candidate.name, source=source, run_id=candidate.run_id, tags=tags)
    registry.challenge(version)
    yield f"models:/{version.name}/{version.version}", version


def _checks(
    candidate: Candidate, source: str, scores: Any, *, uri: str, roots: Mapping[str, Path]
) -> "Sequence[Reason]":
    from mlflow_server import reload

    config = TrialConfig.model_validate(candidate.progress.config)
    result = candidate.progress.result
    original = reload.Original(
        checkpoint=candidate.checkpoint,
        sha256=result.checkpoint_sha256 if result else None,
        fingerprint=candidate.fingerprint,
        scores=scores,
        config=config,
        operation=Operation(
            data_root=data_roots.find(config.dataset, roots, candidate.folder.storage),
            cache=candidate.folder.cache,
            key_folder=candidate.folder.storage,
            trial_folder=candidate.folder.trial(candidate.winner.trial),
        ),
    )
    return reload.checks(source, original, uri=uri, tolerance=candidate.study.promotion.reproduction)


def _carry_out(
    candidate: Candidate, registry: "Registry", outcome: dict[str, Any], *, pair: "tuple[Version, Version | None]"
) -> None:
    """Crown the challenger where it was promoted, and put the decision on record."""
    from mlflow_server.history import History

    version, champion = pair
    if outcome["promoted"]:
        registry.crown(version, instead_of=champion)
    evidence = {**outcome, **candidate.facts, "policy": candidate.study.promotion.model_dump(mode="json")}
    history = History(candidate.folder.storage, candidate.name)
    registry.remember(version, history.append("promoted" if outcome["promoted"] else "refused", evidence))
    with ledger.Ledger(candidate.folder.promotions) as own:
        own.append({"kind": "promotion", **outcome})


def best_winner(study: StudyConfig, state: StudyState) -> selection.Winner:
    """Return the cell winner with the best validation value, among those that were measured on the test partition.

    Raises:
        StudyError: none was, or the cells are of several data sets, whose values cannot be compared.
    """
    if not state.datasets:
        raise StudyError(f"study {study.name} was not run in this storage; run it first, or give another --storage")
    trials = identified(grid.expand(study), state)
    chosen = selection.winners(state, {identity: trial.cell.name for identity, trial in trials.items()})
    chosen = [winner for winner in chosen if state.evaluated.get(winner.cell, {}).get("trial") == winner.trial]
    if not chosen:
        raise StudyError(f"study {study.name} has no measured winner yet; `python -m search run` it to its end first")
    if len({trials[winner.trial].config.dataset.name for winner in chosen}) > 1:
        raise StudyError(
            f"study {study.name} has winners on several data sets; a promotion compares models on one. Promote from a "
            "study of one data set"
        )
    sign = 1.0 if state.declaration.direction == "maximize" else -1.0
    return max(chosen, key=lambda winner: sign * winner.value)


def show(outcome: dict[str, Any], console: Console) -> None:
    """Print a decision for people."""
    promoted = "would be promoted" if outcome["dry_run"] else "promoted"
    verdict = f"[green]{promoted}[/green]" if outcome["promoted"] else "[yellow]not promoted[/yellow]"
    console.print(f"{verdict}: {outcome['cell']} (trial {outcome['trial']}) of study {outcome['study']}")
    for reason in outcome["reasons"]:
        mark = "[green]yes[/green]" if reason["holds"] else "[red]no [/red]"
        console.print(f"  {mark} {reason['condition']}: {reason['evidence']}", soft_wrap=True)
    if outcome["dry_run"]:
        console.print("a dry run: nothing was changed")
    elif outcome["promoted"]:
        console.print(f"registered model {outcome['registered_model']}, version {outcome['version']}, alias champion")


def _outcome(candidate: Candidate, version: str | None, before: str | None) -> dict[str, Any]:
    return {
        "study": candidate.study.name,
        "registered_model": candidate.name,
        "version": version,
        "champion_before": before,
        "cell": candidate.winner.cell,
        "trial": candidate.winner.trial,
        "validation": candidate.winner.value,
        "time_ms": now_ms(),
    }


def _test_scores(content: bytes) -> Any:
    from trainers.evaluation import case_scores

    scores = case_scores.load(io.BytesIO(content))
    return scores.where((scores.table["partition"] == "test").to_numpy(bool))
