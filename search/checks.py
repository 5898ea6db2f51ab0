"""What can be told of a study from its file alone, before any data is read."""

from search import grid, pruners, sampling
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
    grid.external_datasets(study)
    return wanted
