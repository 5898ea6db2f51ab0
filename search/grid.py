"""From a study to its cells and trials: a product, less what is excluded, less what cannot exist."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import ValidationError

from datasets import preprocessing, sources, transforms
from datasets.dataset_config import DatasetConfig
from datasets.errors import DatasetError
from search.errors import StudyError
from search.study_config import StudyConfig
from search.study_sections import DATASET_FIELDS, RECIPE_FIELDS, TRIAL_FIELDS, Range, is_whole, refuse_truth
from trainers import adaptations, tasks
from trainers.cells import resolve as resolve_cell
from trainers.network_plan import Refusal as Refused
from trainers.trial import TrialConfig


@dataclass(frozen=True, slots=True)
class Cell:
    """One point of the compared factors."""

    axes: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:
        """The axis values in the order of the file, e.g. `phantom/imagenet/convnext_base/224`."""
        return "/".join(readable(value) for _, value in self.axes)

    def group(self, within: str | list[str]) -> str:
        """Name the comparison group of this cell's trials."""
        if within == "cell":
            return self.name
        if within == "study":
            return "study"
        return "/".join(readable(value) for axis, value in self.axes if axis in within)


@dataclass(frozen=True, slots=True)
class Trial:
    """A cell, the searched hyperparameters and a seed, with the configuration they make."""

    cell: Cell
    searched: tuple[tuple[str, Any], ...]
    seed: int
    config: TrialConfig

    @property
    def point(self) -> str:
        """The searched values, e.g. `learning_rate=0.0001`: what seeds repeat."""
        return ", ".join(f"{name}={readable(value)}" for name, value in self.searched)

    @property
    def setting(self) -> dict[str, Any]:
        """Its axis and searched values: what resources may depend on; seeds never do."""
        return {**dict(self.cell.axes), **dict(self.searched)}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A combination that cannot exist, and why."""

    cell: Cell
    reason: str


@dataclass(frozen=True, slots=True)
class Grid:
    """Everything a study asks for."""

    cells: tuple[Cell, ...]
    trials: tuple[Trial, ...]
    refused: tuple[Refusal, ...]
    excluded: int
    examples: tuple[Trial, ...]
    """One trial of each cell, whether it is trained or not: what the cell needs of data and networks."""

    @property
    def datasets(self) -> tuple[DatasetConfig, ...]:
        """The distinct data configurations of all trials, in order of first use."""
        both = (*self.examples, *self.trials)
        return tuple({trial.config.dataset.model_dump_json(): trial.config.dataset for trial in both}.values())


def readable(value: Any) -> str:
    """Write an axis value for people: no spaces, no braces."""
    if isinstance(value, dict):
        return str(value.get("name")) if set(value) == {"name"} else ",".join(f"{k}={v}" for k, v in value.items())
    return str(value)


Points = Mapping[str, Sequence[Mapping[str, Any]]]
"""Searched values of each cell's trials, by cell name."""


def expand(study: StudyConfig, drawn: Points | None = None) -> Grid:
    """Enumerate a study's cells and trials, in the order of the file.

    Args:
        study: what is asked for.
        drawn: what a sampler drew (see sampling.py); None: the product of all searched values.

    Raises:
        StudyError: a source, initialization, backbone, task or value that does not exist, or no cell left.
    """
    cells: list[Cell] = []
    trials: list[Trial] = []
    refused: list[Refusal] = []
    examples: list[Trial] = []
    excluded = 0
    for cell in _product(study.axes):
        if any(_matches(cell, rule) for rule in study.exclude):
            excluded += 1
            continue
        example = next(_trials_of(study, cell, [_first_point(study)]))
        reason = _refusal(example.config)
        if reason:
            refused.append(Refusal(cell, reason))
            continue
        cells.append(cell)
        examples.append(example)
        points = _product_of_values(study) if drawn is None else drawn.get(cell.name, ())
        trials.extend(_trials_of(study, cell, points))
    if not cells:
        reasons = "; ".join(sorted({refusal.reason for refusal in refused}))
        raise StudyError(
            f"study {study.name}: no cell is left ({excluded} excluded, {len(refused)} refused: {reasons})"
        )
    _refuse_doubles(study, trials)
    return Grid(tuple(cells), tuple(trials), tuple(refused), excluded, tuple(examples))


def _refuse_doubles(study: StudyConfig, trials: Sequence[Trial]) -> None:
    """Refuse axes that say the same thing twice: one training would stand for two cells, or for two points of one."""
    seen: dict[str, Trial] = {}
    for trial in trials:
        first = seen.setdefault(trial.config.model_dump_json(), trial)
        # Cells are told apart by themselves: mappings are equal whatever the order of their keys.
        if first.cell is not trial.cell or first.searched != trial.searched:  # a plan's made-up points may recur
            both = " and ".join(f"{one.cell.name} {one.point}".strip() for one in (first, trial))
            raise StudyError(
                f"study {study.name}: {both} are the same training: one axis or searched value overrules what another "
                "says. Leave one of the two out"
            )


def _product(factors: dict[str, list[Any]]) -> Iterator[Cell]:
    for values in itertools.product(*factors.values()):
        yield Cell(tuple(zip(factors, values, strict=True)))


def _matches(cell: Cell, rule: dict[str, list[Any]]) -> bool:
    values = dict(cell.axes)
    return all(values[axis] in excluded for axis, excluded in rule.items())


def _product_of_values(study: StudyConfig) -> Iterator[dict[str, Any]]:
    listed = {name: values for name, values in study.search.items() if not isinstance(values, Range)}
    for values in itertools.product(*listed.values()):
        yield dict(zip(listed, values, strict=True))


def _first_point(study: StudyConfig) -> dict[str, Any]:
    """Return some searched values, to see whether a cell can be at all."""
    return {name: _number(name, s.low) if isinstance(s, Range) else s[0] for name, s in study.search.items()}


def _number(name: str, value: float) -> float:
    return round(value) if is_whole(name) else value


def _trials_of(study: StudyConfig, cell: Cell, points: Iterable[Mapping[str, Any]]) -> Iterator[Trial]:
    for point in points:
        searched = tuple((name, point[name]) for name in study.search)
        settings = dict(cell.axes) | dict(searched)
        for seed in study.seeds:
            yield Trial(cell, searched, seed, _configuration(study, settings, seed, cell))


def _configuration(study: StudyConfig, settings: dict[str, Any], seed: int, cell: Cell) -> TrialConfig:
    recipe = settings.get("recipe", {})
    recipe = {"name": recipe} if isinstance(recipe, str) else recipe
    chosen: dict[str, Any] = {"task": study.task}
    chosen |= {name: value for name, value in settings.items() if name in TRIAL_FIELDS and name != "recipe"}
    chosen["recipe"] = study.recipe | recipe | {k: v for k, v in settings.items() if k in RECIPE_FIELDS}
    try:
        config = TrialConfig(dataset=_dataset(study, settings), seed=seed, **chosen)
    except ValidationError as found:
        raise StudyError(f"study {study.name}, cell {cell.name}:\n" + _problems(found)) from None
    _check_names(config.dataset.preprocessing, config.recipe.augmentation, config.task, config.adaptation)
    return config


def _problems(found: ValidationError) -> str:
    return "\n".join(f"  {'.'.join(map(str, e['loc']))}: {e['msg']} (found {e['input']!r})" for e in found.errors())


@cache
def _check_names(preprocessed: str, augmentation: str, task: str, adaptation: str) -> None:
    try:
        preprocessing.resolve(preprocessed)
        transforms.resolve(augmentation)
        tasks.load(task)
        adaptations.load(adaptation)
    except ValueError as problem:  # both rooms raise it for a name that nothing bears, and list those that exist
        raise StudyError(str(problem)) from None


def external_datasets(study: StudyConfig) -> dict[str, DatasetConfig]:
    """Return the data sets that winners are also measured on, by name.

    Raises:
        StudyError: one has no source, or settings that it cannot have.
    """
    names = [name for others in study.evaluation.external.values() for name in others]
    try:
        return {name: _dataset(study, {"dataset": name}) for name in dict.fromkeys(names)}
    except ValidationError as found:
        raise StudyError(f"study {study.name}, evaluation.external:\n" + _problems(found)) from None


def _dataset(study: StudyConfig, settings: dict[str, Any]) -> DatasetConfig:
    name = str(settings["dataset"])
    own = study.data.get(name) or {}
    if not isinstance(own, dict):
        raise StudyError(f"study {study.name}: data.{name} must be a mapping of settings, found {own!r}")
    common = {key: value for key, value in study.data.items() if key in DATASET_FIELDS}
    fields = {key: value for key, value in own.items() if key in DATASET_FIELDS}
    axes = {key: value for key, value in settings.items() if key in DATASET_FIELDS}
    options = {key: value for key, value in own.items() if key not in DATASET_FIELDS and key != "source"}
    try:
        for key, value in (common | fields).items():
            refuse_truth(key, value)
    except ValueError as problem:
        raise StudyError(f"study {study.name}: data: {problem}") from None
    source = own.get("source", name)
    if source not in sources.names():
        raise StudyError(
            f"study {study.name}: data set {name!r} has no source {source!r}; sources: {', '.join(sources.names())}"
        )
    config = DatasetConfig(name=name, source=source, options=options, **(common | fields | axes))
    try:
        return sources.checked(config)
    except DatasetError as problem:
        raise StudyError(f"study {study.name}: {problem}") from None


def _refusal(config: TrialConfig) -> str | None:
    """Say why a combination of things that all exist cannot be trained, or None.

    Raises:
        StudyError: something that does not exist at all.
    """
    try:
        found = resolve_cell(config.initialization, config.backbone, config.resolution, config.adaptation)
    except ValueError as problem:
        raise StudyError(str(problem)) from None
    return found.reason if isinstance(found, Refused) else None
