"""From a finished study to a registered model: the winner of winners is judged against the champion."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from search import candidate, ledger
from search.candidate import Candidate
from search.data_roots import Root
from search.desk import now_ms
from search.study_config import StudyConfig
from search.study_delivery import tracking_uri

if TYPE_CHECKING:
    from mlflow_server.history import Entry, History
    from mlflow_server.packaging import Package
    from mlflow_server.registry import Registry, Version


def promote(
    study: StudyConfig,
    storage: Path,
    *,
    roots: Mapping[str, Root] | None = None,
    weights: Path | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Judge the study's best winner, chosen on validation, and crown it if the evidence allows.

    A promotion that was killed is completed by the next one: see `mlflow_server/succession.py`.

    Args:
        study: finished.
        storage: folder of all studies.
        roots: where data sets lie; some test images are scored again.
        weights: folder or file of pretrained weights; a probe's checkpoint holds its head alone. None asks the hub.
        dry_run: judge, and change nothing.

    Returns:
        The decision with its reasons, the model's name and version, and who was champion before.

    Raises:
        StudyError: the study is not finished.
        PromotionError: the registry lacks the champion's evidence, or the champion changed meanwhile.
        TrialError: kind "weights", the encoder of a probe cannot be loaded.
    """
    from mlflow_server import promotion, reload, succession
    from mlflow_server.history import History
    from mlflow_server.registry import MADE_OF, Registry

    chosen = candidate.find(study, storage)
    uri = tracking_uri(study, chosen.folder)
    registry, history = Registry(uri), History(storage, chosen.name)
    if not dry_run:
        _settle(chosen, registry, history)
    champion = registry.champion(chosen.name)
    package = chosen.package(weights)
    is_itself = champion is not None and champion.run_id == chosen.run_id
    if champion is not None and is_itself and champion.tags.get(MADE_OF) in (None, package.made_of()):
        if not dry_run:
            registry.no_challenger(champion)
        by_hand = succession.by_hand(champion, registry=registry, history=history)
        whole = registry.is_packaged(champion.name, champion.version)
        return _already(chosen, champion, by_hand, whole=whole, dry_run=dry_run)
    if champion is None:
        _check_first(chosen.name, registry, history)
    challenger = chosen.measured()
    original = chosen.original(challenger, roots or {})  # what is missing is told before anything is registered
    with _packaged(chosen, package, registry, None if dry_run else history, uri=uri) as (source, version):
        checks = reload.checks(source, original, uri=uri, tolerance=study.promotion.reproduction)
    if is_itself:
        itself = promotion.MEASURED_SINCE
        decision = promotion.judge(challenger, None, _policy(chosen), checks=checks, without_rival=itself)
    else:
        rival = chosen.rival(registry, champion, history) if champion else None
        decision = promotion.judge(challenger, rival, _policy(chosen), checks=checks)
    outcome = _outcome(chosen, version.version if version else None, champion.version if champion else None)
    outcome |= {**decision.as_json(), "dry_run": dry_run}
    if version is not None:
        _carry_out(chosen, outcome, pair=(version, champion), registry=registry, history=history)
    return outcome


def _check_first(name: str, registry: "Registry", history: "History") -> None:
    """Refuse to promote without a comparison where a champion is on record: its alias was lost.

    Raises:
        PromotionError: says which version it was and how it gets the alias back.
    """
    from mlflow_server import rollback
    from mlflow_server.errors import PromotionError

    there, _ = rollback.before(name, None, registry=registry, history=history)
    if there:
        raise PromotionError(
            f"{name}: nothing bears the alias champion, though version {there[-1]} did and is still there; give it "
            f"back with `python -m mlflow_server rollback {name}`, then promote again"
        )


def _policy(chosen: Candidate) -> Any:
    from mlflow_server.promotion import Bound, Policy
    from trainers.evaluation.redraws import Bootstrap

    settings, wanted = chosen.study.evaluation, chosen.study.promotion
    return Policy(
        bound=Bound(wanted.rule, wanted.margin),
        metric=chosen.state.declaration.metric,
        bootstrap=Bootstrap(settings.redraws, settings.unit, level=settings.confidence, seed=settings.seed),
        per_pathology=wanted.per_pathology,
        calibration=wanted.calibration,
        minimum_positives=wanted.minimum_positives,
        external={name: Bound(bound.rule, bound.margin) for name, bound in wanted.external.items()},
    )


@contextmanager
def _packaged(
    chosen: Candidate, package: "Package", registry: "Registry", history: "History | None", *, uri: str
) -> "Iterator[tuple[str, Version | None]]":
    """Package the network: as a registered version with the alias `challenger`, or in a passing folder for a dry run.

    Args:
        chosen: what is packaged.
        package: of it.
        registry: where it is registered.
        history: of the registered model; None: a dry run.
        uri: of the tracking server.
    """
    from mlflow_server import packaging
    from mlflow_server.registry import MADE_OF, SCORES_HASH

    if history is None:
        with tempfile.TemporaryDirectory(prefix="radsweep-") as place:
            packaging.save_model(package, Path(place) / "model")
            yield str(Path(place) / "model"), None
        return
    made_of = package.made_of()
    version = registry.version_of(chosen.name, chosen.run_id, made_of)
    if version is None:
        source = packaging.log_model(package, run_id=chosen.run_id, uri=uri)
        tags = {f"radsweep.{key}": value for key, value in chosen.facts.items() if key != "run_id"}
        tags |= {SCORES_HASH: chosen.scores_sha256, MADE_OF: made_of}
        tags |= {f"{SCORES_HASH}.{name}": sha256 for name, sha256 in chosen.external_sha256.items()}
        card = package.card().description()
        with history.alone():  # two at once would find no version both, and register the run twice
            version = registry.register(chosen.name, source=source, run_id=chosen.run_id, tags=tags, description=card)
    registry.challenge(version)
    yield f"models:/{version.name}/{version.version}", version


def _carry_out(
    chosen: Candidate,
    outcome: dict[str, Any],
    *,
    pair: "tuple[Version, Version | None]",
    registry: "Registry",
    history: "History",
) -> None:
    """Crown the challenger where it was promoted, and put the decision on record."""
    from mlflow_server import succession

    version, champion = pair
    evidence = {**outcome, **chosen.facts, "policy": chosen.study.promotion.model_dump(mode="json")}
    if not outcome["promoted"]:
        entry = history.append(succession.REFUSED, evidence)
        registry.remember(version, entry)
    else:
        entry = succession.crown(
            version,
            instead_of=champion,
            action=succession.PROMOTED,
            evidence=evidence,
            registry=registry,
            history=history,
        )
    _note(chosen, entry)


def _settle(chosen: Candidate, registry: "Registry", history: "History") -> None:
    """Complete the record of a promotion or rollback that was killed."""
    from mlflow_server import succession

    entry = succession.settle(chosen.name, registry=registry, history=history)
    if entry is not None and entry.get("study") == chosen.study.name:
        _note(chosen, entry)


def _note(chosen: Candidate, entry: "Entry") -> None:
    """Keep an entry of the history in the study's folder too."""
    with ledger.Ledger(chosen.folder.promotions) as own:
        own.append({"kind": "promotion", **entry})


def _already(
    chosen: Candidate, champion: "Version", by_hand: str | None, *, whole: bool, dry_run: bool
) -> dict[str, Any]:
    """Say that the study's winner is champion, whether that was ever decided, and whether its files are there."""
    reasons = [{"condition": "this model is the champion", "holds": True, "evidence": f"version {champion.version}"}]
    if by_hand is not None:
        reasons.append({"condition": "a promotion or roll-back made it champion", "holds": False, "evidence": by_hand})
    if not whole:
        told = f"some of version {champion.version} are gone; bring them back, or roll back"
        reasons.append({"condition": "its files are there", "holds": False, "evidence": told})
    outcome = _outcome(chosen, champion.version, champion.version)
    return outcome | {"promoted": by_hand is None and whole, "dry_run": dry_run, "reasons": reasons}


def show(outcome: dict[str, Any], console: Console) -> None:
    """Print a decision for people."""
    promoted = "would be promoted" if outcome["dry_run"] else "promoted"
    if outcome["promoted"] and outcome["version"] is not None and outcome["version"] == outcome["champion_before"]:
        promoted = "champion already"
    verdict = (promoted, "green") if outcome["promoted"] else ("not promoted", "yellow")
    what = f": {outcome['cell']} (trial {outcome['trial']}) of study {outcome['study']}"
    console.print(Text.assemble(verdict, what), soft_wrap=True)
    for reason in outcome["reasons"]:
        mark = ("yes", "green") if reason["holds"] else ("no ", "red")
        console.print(Text.assemble("  ", mark, f" {reason['condition']}: {reason['evidence']}"), soft_wrap=True)
    if outcome["dry_run"]:
        console.print("a dry run: nothing was changed")
    elif outcome["promoted"]:
        registered = f"registered model {outcome['registered_model']}, version {outcome['version']}, alias champion"
        console.print(Text(registered), soft_wrap=True)


def _outcome(chosen: Candidate, version: str | None, before: str | None) -> dict[str, Any]:
    return {
        "study": chosen.study.name,
        "registered_model": chosen.name,
        "version": version,
        "champion_before": before,
        "cell": chosen.winner.cell,
        "trial": chosen.winner.trial,
        "validation": chosen.winner.value,
        "scores_sha256": chosen.scores_sha256,
        "external_sha256": chosen.external_sha256,
        "time_ms": now_ms(),
    }
