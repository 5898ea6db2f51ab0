"""Which images a study reads: of the data sets it trains on, and of those its winners are also measured on."""

from collections.abc import Iterator
from dataclasses import dataclass

from datasets.dataset_config import DatasetConfig
from search.grid import Grid, external_datasets
from search.study_config import StudyConfig


@dataclass(frozen=True, slots=True)
class Needed:
    """A data set to decode.

    Attributes:
        dataset: its configuration.
        resolutions: sides of the squares in pixels, ascending.
        trained_on: False if it is only external to what the study trains on.
    """

    dataset: DatasetConfig
    resolutions: tuple[int, ...]
    trained_on: bool


def needed(study: StudyConfig, wanted: Grid) -> list[Needed]:
    """Return what has to be prepared, in the order of first use; every configuration once."""
    sizes: dict[str, set[int]] = {}
    found: dict[str, tuple[DatasetConfig, bool]] = {}
    for dataset, resolution, trained_on in (*_trained(wanted), *_external(study, wanted)):
        key = dataset.model_dump_json()
        sizes.setdefault(key, set()).add(resolution)
        found.setdefault(key, (dataset, trained_on))
    return [Needed(dataset, tuple(sorted(sizes[key])), trained_on) for key, (dataset, trained_on) in found.items()]


def _trained(wanted: Grid) -> Iterator[tuple[DatasetConfig, int, bool]]:
    for trial in (*wanted.examples, *wanted.trials):
        yield trial.config.dataset, trial.config.resolution, True


def _external(study: StudyConfig, wanted: Grid) -> Iterator[tuple[DatasetConfig, int, bool]]:
    others = external_datasets(study)
    for trial in wanted.examples:
        config = trial.config
        for name in study.evaluation.external.get(config.dataset.name, ()):
            # A winner reads foreign images as it read its own.
            own = {"preprocessing": config.dataset.preprocessing}
            yield others[name].model_copy(update=own), config.resolution, False
