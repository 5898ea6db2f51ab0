"""What can be told of a study from its file alone, before any data is read."""

import hashlib
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from datasets.errors import DatasetError
from datasets.external import check_external
from search import grid, pruners, samplers, sampling
from search.errors import StudyError
from search.study_config import StudyConfig
from search.study_state import StudyState
from trainers import cells
from trainers.network_plan import NetworkPlan


def examples(study: StudyConfig) -> grid.Grid:
    """Expand a study as far as its file goes, and refuse what could not be run.

    Raises:
        StudyError: a name that nothing bears, a setting that nothing takes, or a value that cannot be.
    """
    wanted = sampling.examples(study)
    samplers.check(study.sampling)
    for epochs in {trial.config.recipe.epochs for trial in wanted.trials}:
        pruners.create(study.pruning.pruner, study.pruning.settings, epochs=epochs)
    _check_external(study, wanted)
    return wanted


def check_weights(wanted: grid.Grid, weights: Path | None) -> None:
    """Refuse one file of weights for trials that begin from different ones: they would all begin from it.

    Raises:
        StudyError: says which weights the study names, and what to give instead.
    """
    if weights is None or not weights.is_file():
        return
    configs = [trial.config for trial in wanted.trials]
    plans = (cells.resolve(c.initialization, c.backbone, c.resolution, c.adaptation) for c in configs)
    tags = {plan.tag for plan in plans if isinstance(plan, NetworkPlan) and plan.tag is not None}
    named = sorted(tag for tag in tags if not tag.startswith(("file:", "package:")))
    if len(named) > 1:
        raise StudyError(
            f"--weights {weights}: one file cannot be both {' and '.join(named)}; give a folder with a file for each "
            "(`python -m trainers fetch-weights STUDY.yaml --to DIR` fills one)"
        )


def check_weight_files(wanted: grid.Grid, state: StudyState, weights: Path | None) -> None:
    """Refuse a weights file that holds something else than when trials of this study began from it.

    A trial is known by the file's path. One that only the nodes can read is left to them.

    Raises:
        StudyError: names the file.
    """
    known: dict[str, str] = {}
    for progress in state.trials.values():
        source = (progress.result.record if progress.result else {}).get("weights_source") or {}
        if source.get("sha256") is not None:  # the largest files are not hashed
            known[progress.config["initialization"]] = source["sha256"]
    named = {trial.config.initialization for trial in wanted.trials}
    for initialization in sorted(name for name in named & set(known) if name.startswith("file:")):
        path = Path(initialization.removeprefix("file:"))
        places = [path] if weights is None else [weights / path, path]
        found = next((place for place in places if place.is_file()), None)
        if found is not None and (now := _sha256(found)) != known[initialization]:
            raise StudyError(
                f"{found}: not the file that trials of this study began from (sha256 {known[initialization][:12]}…, "
                f"now {now[:12]}…); put that one back, or give the new one another name"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_shared_targets(external: Mapping[str, Sequence[str]], targets: Mapping[str, Set[str]]) -> None:
    """Refuse data sets as external that have no pathology that a network was trained for.

    Args:
        external: names of the others, by data set trained on.
        targets: pathologies by data set.

    Raises:
        StudyError: names both, and what either has.
    """
    for trained_on, others in external.items():
        for other in others:
            if not targets[trained_on] & targets[other]:
                has = "; ".join(f"{name} has {', '.join(sorted(targets[name]))}" for name in (trained_on, other))
                raise StudyError(f"evaluation.external: {trained_on} and {other} share no pathology: {has}")


def _check_external(study: StudyConfig, wanted: grid.Grid) -> None:
    """Refuse data sets as external whose images a winner was trained on: it would be told after all training."""
    others = grid.external_datasets(study)
    for trained_on in wanted.datasets:
        for name in study.evaluation.external.get(trained_on.name, []):
            try:
                check_external(others[name], trained_on=trained_on)
            except DatasetError as problem:
                raise StudyError(f"study {study.name}: evaluation.external: {problem}") from None
