"""What can be told of a study from its file alone, before any data is read."""

from datasets.errors import DatasetError
from datasets.external import check_external
from search import grid, pruners, sampling
from search.errors import StudyError
from search.study_config import StudyConfig


def examples(study: StudyConfig) -> grid.Grid:
    """Expand a study as far as its file goes, and refuse what could not be run.

    Raises:
        StudyError: a name that nothing bears, a setting that nothing takes, or a value that cannot be.
    """
    wanted = sampling.examples(study)
    sampling.check(study.sampling)
    for epochs in {trial.config.recipe.epochs for trial in wanted.trials}:
        pruners.create(study.pruning.pruner, study.pruning.settings, epochs=epochs)
    _check_external(study, wanted)
    return wanted


def _check_external(study: StudyConfig, wanted: grid.Grid) -> None:
    """Refuse data sets as external whose images a winner was trained on: it would be told after all training."""
    others = grid.external_datasets(study)
    for trained_on in wanted.datasets:
        for name in study.evaluation.external.get(trained_on.name, []):
            try:
                check_external(others[name], trained_on=trained_on)
            except DatasetError as problem:
                raise StudyError(f"study {study.name}: evaluation.external: {problem}") from None
