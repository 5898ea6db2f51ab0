"""From a finished study to a registered model: the winner of winners is judged against the champion."""

import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from search import grid, ledger, selection
from search.desk import now_ms
from search.errors import StudyError
from search.identity import identified
from search.study_config import StudyConfig
from search.study_delivery import connect_tracker, tracking_uri
from search.study_folder import StudyFolder
from search.study_state import StudyState


def promote(study: StudyConfig, storage: Path) -> dict[str, Any]:
    """Judge the study's best winner, chosen on validation, and crown it if the evidence allows.

    Returns:
        The decision with its reasons, the model's name and version, and who was champion before.

    Raises:
        StudyError: the study is not finished.
        PromotionError: the registry lacks the champion's evidence, or the champion changed meanwhile.
    """
    from mlflow_server import packaging, promotion
    from mlflow_server.registry import Registry
    from trainers.evaluation.redraws import Bootstrap

    folder = StudyFolder(storage, study.name)
    state = StudyState.of(ledger.read(folder.ledger).events)
    winner = best_winner(study, state)
    uri = tracking_uri(study, folder)
    run_id = connect_tracker(study, folder).run_id(winner.trial)
    registry = Registry(uri)
    name = study.promotion.registered_model or study.name
    champion = registry.champion(name)
    settings = study.evaluation
    policy = promotion.Policy(
        rule=study.promotion.rule,
        margin=study.promotion.margin,
        metric=state.declaration.primary_metric.split("/")[1],
        bootstrap=Bootstrap(settings.redraws, settings.unit, level=settings.confidence, seed=settings.seed),
    )
    if champion is not None and champion.run_id == run_id:
        return _outcome(study, winner, name, champion.version, champion.version) | {
            "promoted": True,
            "reasons": [
                {"condition": "this model is the champion", "holds": True, "evidence": f"version {champion.version}"}
            ],
        }
    decision = promotion.judge(
        _test_scores((folder.winner(winner.trial) / "scores.parquet").read_bytes()),
        _test_scores(registry.artifact(champion.run_id, "evaluation/scores.parquet")) if champion else None,
        policy,
    )
    version = registry.version_of(name, run_id)
    if decision.promoted:
        if version is None:
            facts = {"study": study.name, "trial": winner.trial, "cell": winner.cell, "run_id": run_id}
            checkpoint = folder.trial(winner.trial) / winner.checkpoint
            source = packaging.log_model(packaging.Package(checkpoint, facts), run_id=run_id, uri=uri)
            evidence = {"radsweep.study": study.name, "radsweep.trial": winner.trial, "radsweep.cell": winner.cell}
            version = registry.register(name, source=source, run_id=run_id, tags=evidence)
        registry.tag(version, {"radsweep.promotion": json.dumps(decision.as_json()["reasons"])})
        registry.crown(version, instead_of=champion)
    outcome = _outcome(
        study, winner, name, version.version if version else None, champion.version if champion else None
    )
    outcome |= decision.as_json()
    _remember(folder, outcome)
    return outcome


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
    verdict = "[green]promoted[/green]" if outcome["promoted"] else "[yellow]not promoted[/yellow]"
    console.print(f"{verdict}: {outcome['cell']} (trial {outcome['trial']}) of study {outcome['study']}")
    for reason in outcome["reasons"]:
        mark = "[green]yes[/green]" if reason["holds"] else "[red]no [/red]"
        console.print(f"  {mark} {reason['condition']}: {reason['evidence']}", soft_wrap=True)
    if outcome["promoted"]:
        console.print(f"registered model {outcome['registered_model']}, version {outcome['version']}, alias champion")


def _outcome(
    study: StudyConfig, winner: selection.Winner, name: str, version: str | None, before: str | None
) -> dict[str, Any]:
    return {
        "study": study.name,
        "registered_model": name,
        "version": version,
        "champion_before": before,
        "cell": winner.cell,
        "trial": winner.trial,
        "validation": winner.value,
        "time_ms": now_ms(),
    }


def _test_scores(content: bytes) -> Any:
    from trainers.evaluation import case_scores

    scores = case_scores.load(io.BytesIO(content))
    return scores.where((scores.table["partition"] == "test").to_numpy(bool))


def _remember(folder: StudyFolder, outcome: dict[str, Any]) -> None:
    with ledger.Ledger(folder.promotions) as history:
        history.append({"kind": "promotion", **outcome})
