"""The study file as frozen pydantic models: what is compared, searched, trained, pruned and promoted.

Nothing here says where data lie, which GPU runs what or who is logged in: those are properties of the
machine and come from the command line or the environment.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from datasets.dataset_config import DatasetConfig
from search import yaml_places
from search.errors import StudyError
from trainers.recipes import Recipe
from trainers.trial import TrialConfig


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


Values = Annotated[list[Any], BeforeValidator(_as_list), Field(min_length=1)]
"""One value or a list of values."""


class Range(BaseModel):
    """A continuous or whole-numbered interval that a sampler draws from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float
    high: float
    log: bool = Field(False, description="draw on a logarithmic scale")

    @model_validator(mode="after")
    def _ascending(self) -> "Range":
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"low must be below high, and above 0 if log; found low {self.low}, high {self.high}")
        return self


def _as_space(value: Any) -> Any:
    is_range = isinstance(value, dict) and bool({"low", "high"} & set(value))
    return Range.model_validate(value) if is_range else _as_list(value)


Space = Annotated[Range | list[Any], BeforeValidator(_as_space)]
"""A range, or one value or a list of values."""

REQUIRED_AXES = ("dataset", "initialization", "backbone", "resolution")
DATASET_FIELDS = frozenset(DatasetConfig.model_fields) - {"name", "source", "options"}
TRIAL_FIELDS = frozenset(TrialConfig.model_fields) - {"dataset", "seed"}
RECIPE_FIELDS = frozenset(Recipe.model_fields) - {"name"}
AXES = frozenset({"dataset"}) | TRIAL_FIELDS | RECIPE_FIELDS | DATASET_FIELDS


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sampling(_Section):
    """How the searched hyperparameters of a cell are chosen."""

    sampler: Literal["grid", "tpe", "gp", "cmaes", "qmc", "random"] = Field(
        "grid", description="grid: every listed combination; else Optuna's sampler of this name"
    )
    trials: int | None = Field(None, ge=1, description="points per cell; each is trained with every seed")
    per_round: int = Field(4, ge=1, description="points drawn at once, of tpe, gp and cmaes; more: less waiting")
    seed: int = Field(0, ge=0)
    settings: dict[str, Any] = Field(default_factory=dict, description="the sampler's own settings")


class Pruning(_Section):
    """Which pruner stops trials early, and among which trials it compares."""

    pruner: str = Field("cell_race", description="a file in search/pruners, an Optuna pruner's class name, or none")
    settings: dict[str, Any] = Field(default_factory=dict, description="the pruner's own settings")
    within: Literal["cell", "study"] | list[str] = Field("cell", description="comparison group: cell, study, or axes")
    carry: bool = Field(True, description="cells learn from those of lower resolution, where there are at least three")
    spare_share: float = Field(0.05, ge=0, le=1, description="share of would-be-pruned trials that run on regardless")
    spare_seed: int = Field(0, ge=0)


@dataclass(frozen=True, slots=True)
class Amounts:
    """What one trial gets, all defaults filled in; the fields are those of `Resources`."""

    cpus: int = 1
    gpus: float | None = None
    gpu_type: str | None = None
    gpu_memory_gb: float | None = None
    memory_gb: float | None = None
    loader_workers: int = 0


class _Amounts(_Section):
    cpus: int | None = Field(None, ge=1, description="None: one")
    gpus: float | None = Field(None, ge=0, description="None: from the memory that the trial needs; several share one")
    gpu_type: str | None = Field(None, description="Ray's accelerator_type, e.g. A100; None: any")
    gpu_memory_gb: float | None = Field(None, gt=0, description="of one GPU; None: by its type")
    memory_gb: float | None = Field(None, gt=0, description="host memory to reserve; None: none")
    loader_workers: int | None = Field(None, ge=0, description="None: none")


class Override(_Amounts):
    """Other amounts for the trials of some axis values."""

    when: dict[str, Values] = Field(min_length=1, description="axis values that it is for, e.g. resolution: 1024")

    @field_validator("when")
    @classmethod
    def _coerced_values(cls, when: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {axis: _coerced(axis, values) for axis, values in when.items()}

    def meets(self, setting: Mapping[str, Any]) -> bool:
        """Say whether it is for a trial."""
        return all(setting.get(axis) in values for axis, values in self.when.items())


class Resources(_Amounts):
    """What one trial gets; settings of operation, not part of its identity."""

    overrides: list[Override] = Field(default_factory=list, description="later ones win")

    def for_setting(self, setting: Mapping[str, Any]) -> Amounts:
        """Return what holds for a trial with these axis and searched values."""
        chosen = self.model_dump(exclude={"overrides"}, exclude_none=True)
        for override in self.overrides:
            if override.meets(setting):
                chosen |= override.model_dump(exclude={"when"}, exclude_none=True)
        return Amounts(**chosen)


class Tracking(_Section):
    """Where MLflow runs go; credentials come from the environment (MLFLOW_TRACKING_USERNAME, …)."""

    uri: str | None = Field(None, description="None: the embedded store, sqlite:///<storage>/mlflow.db")
    experiment: str | None = Field(None, description="None: the study's name")

    @field_validator("uri")
    @classmethod
    def _no_credentials(cls, uri: str | None) -> str | None:
        if uri and re.search(r"//[^/@]+:[^/@]+@", uri):
            raise ValueError("a password does not belong in a study file; set MLFLOW_TRACKING_USERNAME and _PASSWORD")
        return uri


class Evaluation(_Section):
    """How winners are measured on the test partition."""

    redraws: int = Field(1000, ge=100, description="bootstrap redraws")
    unit: Literal["patient", "case"] = Field("patient", description="what is redrawn")
    confidence: float = Field(0.95, gt=0.5, lt=1)
    seed: int = Field(0, ge=0, description="of the redraws; equal for all trials of a data set, so pairs are paired")
    metadata_baseline: bool = Field(False, description="also report what view, sex and age alone reach")
    subgroups: tuple[Literal["sex", "age_band", "view", "origin"], ...] = Field(
        ("sex", "age_band", "view", "origin"), description="also report these groups of the test cases by themselves"
    )
    external: dict[str, list[str]] = Field(
        default_factory=dict,
        description="data sets on whose test partitions the winners of a data set are also measured",
    )


Rule = Literal["superiority", "non_inferiority"]


class ExternalBound(_Section):
    """What the paired interval's lower bound must lie above on another data set."""

    rule: Rule = "non_inferiority"
    margin: float = Field(0.0, ge=0, description="in units of the primary metric")


class Promotion(_Section):
    """When the study's winner replaces the champion of the registered model."""

    registered_model: str | None = Field(None, pattern=r"^[\w.-]+$", description="None: the study's name")
    rule: Rule = Field(
        "superiority", description="the paired interval's lower bound must lie above +margin, or above -margin"
    )
    margin: float = Field(0.0, ge=0, description="in units of the primary metric")
    per_pathology: float | None = Field(
        0.02, ge=0, description="no pathology's whole interval may lie below minus this; None does not ask"
    )
    calibration: float | None = Field(
        None, gt=0, le=1, description="largest mean expected calibration error; None does not ask"
    )
    minimum_positives: int = Field(0, ge=0, description="test cases of either class that every pathology must have")
    external: dict[str, ExternalBound] = Field(
        default_factory=dict, description="data sets of evaluation.external that must pass as well"
    )
    reproduction: float = Field(
        1e-5, gt=0, description="how far the registered model's scores may lie from the stored ones"
    )


class Budget(_Section):
    """What a study may use, over all its runs."""

    gpu_hours: float | None = Field(
        None, gt=0, description="GPUs x hours of all trials, pruned and repeated work included"
    )
    wall_clock_hours: float | None = Field(None, gt=0, description="hours that its runs may take together")
    checkpoint_gb: float | None = Field(
        None, gt=0, description="10^9 bytes of the study folder; beyond it weights of trials that did not win go first"
    )


class StudyConfig(_Section):
    """One study file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$", description="lower case; names the folder and experiment")
    task: str = "multilabel"
    axes: dict[str, Values]
    exclude: list[dict[str, Values]] = Field(default_factory=list)
    search: dict[str, Space] = Field(default={"learning_rate": [1e-4]})
    sampling: Sampling = Field(default_factory=Sampling)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0], min_length=1)
    data: dict[str, Any] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)
    pruning: Pruning = Field(default_factory=Pruning)
    resources: Resources = Field(default_factory=Resources)
    tracking: Tracking = Field(default_factory=Tracking)
    evaluation: Evaluation = Field(default_factory=Evaluation)
    promotion: Promotion = Field(default_factory=Promotion)
    budget: Budget = Field(default_factory=Budget)

    @field_validator("recipe", mode="before")
    @classmethod
    def _recipe_by_name(cls, recipe: Any) -> Any:
        return {"name": recipe} if isinstance(recipe, str) else recipe

    @field_validator("axes", "search")
    @classmethod
    def _known_settings(cls, factors: dict[str, Any]) -> dict[str, Any]:
        unknown = sorted(set(factors) - AXES - {"recipe"})
        if unknown:
            raise ValueError(f"unknown setting {', '.join(unknown)}; settings: {', '.join(sorted(AXES | {'recipe'}))}")
        for name, space in factors.items():
            if isinstance(space, Range):
                _coerced(name, [space.low, space.high])
        factors = {n: space if isinstance(space, Range) else _coerced(n, space) for n, space in factors.items()}
        listed = {name: values for name, values in factors.items() if isinstance(values, list)}
        empty = [name for name, values in listed.items() if not values]
        if empty:
            raise ValueError(f"{', '.join(empty)}: at least one value is needed")
        doubled = [name for name, values in listed.items() if len({repr(v) for v in values}) < len(values)]
        if doubled:
            raise ValueError(f"{', '.join(doubled)}: a value is listed twice")
        return factors

    @field_validator("exclude")
    @classmethod
    def _coerced_rules(cls, rules: list[dict[str, list[Any]]]) -> list[dict[str, list[Any]]]:
        return [{axis: _coerced(axis, values) for axis, values in rule.items()} for rule in rules]

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed is listed twice")
        return seeds

    @model_validator(mode="after")
    def _consistent(self) -> "StudyConfig":
        problems = [f"axes: `{axis}` is missing" for axis in REQUIRED_AXES if axis not in self.axes]
        problems += [f"`{name}` is both an axis and searched; keep one" for name in self.axes if name in self.search]
        for index, rule in enumerate(self.exclude):
            problems += [
                f"exclude[{index}]: `{axis}` is not an axis; axes: {', '.join(self.axes)}"
                for axis in rule
                if axis not in self.axes
            ]
            problems += [
                f"exclude[{index}]: {axis} has no value {value!r}; values: {self.axes[axis]}"
                for axis, values in rule.items()
                for value in values
                if axis in self.axes and value not in self.axes[axis]
            ]
        problems += [f"data: {problem}" for problem in self._problems_of_data()]
        problems += [f"sampling: {problem}" for problem in self._problems_of_sampling()]
        problems += self._problems_of_promotion()
        problems += [
            f"resources.overrides[{index}].when: `{axis}` is neither an axis nor searched"
            for index, override in enumerate(self.resources.overrides)
            for axis in override.when
            if axis not in self.axes and axis not in self.search
        ]
        if isinstance(self.pruning.within, list):
            problems += [
                f"pruning.within: `{axis}` is not an axis" for axis in self.pruning.within if axis not in self.axes
            ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _problems_of_sampling(self) -> list[str]:
        ranges = [name for name, space in self.search.items() if isinstance(space, Range)]
        if self.sampling.sampler != "grid":
            return [] if self.sampling.trials else [f"{self.sampling.sampler} needs `trials`: points per cell"]
        problems = ["`trials` belongs to a sampler other than grid"] if self.sampling.trials else []
        return problems + [f"search.{name} is a range; choose a sampler, or list values" for name in ranges]

    def _problems_of_data(self) -> list[str]:
        names = self.axes.get("dataset", [])
        externals = {name for others in self.evaluation.external.values() for name in others}
        return [
            f"`{key}` is neither a setting ({', '.join(sorted(DATASET_FIELDS))}) nor a data set of the axes"
            for key in self.data
            if key not in DATASET_FIELDS and key not in names and key not in externals
        ] + [
            f"evaluation.external: {name} is not a data set of the axes: {', '.join(map(str, names))}"
            for name in self.evaluation.external
            if name not in names
        ]

    def _problems_of_promotion(self) -> list[str]:
        measured = {name for others in self.evaluation.external.values() for name in others}
        return [
            f"promotion.external: {name} is not measured; name it in evaluation.external too"
            for name in self.promotion.external
            if name not in measured
        ]


def _coerced(name: str, values: list[Any]) -> list[Any]:
    """Turn values into the setting's type: PyYAML reads `1e-4` as text."""
    for model in (Recipe, DatasetConfig, TrialConfig):
        field = model.model_fields.get(name)
        if field is not None and name not in {"dataset", "recipe"}:
            adapter: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, field])  # type: ignore[arg-type]
            try:
                return [adapter.validate_python(value) for value in values]
            except ValidationError as found:
                first = found.errors()[0]
                raise ValueError(f"{name}: {first['msg']}, found {first['input']!r}") from None
    return values


def load_study(path: Path) -> StudyConfig:
    """Read and check a study file.

    Raises:
        StudyError: with every problem of the file and the line each stands on.
    """
    content, lines = yaml_places.load(path)
    try:
        return StudyConfig.model_validate(content)
    except ValidationError as found:
        problems = [_describe(dict(error), path, lines) for error in found.errors()]
        raise StudyError(f"{path}: {len(problems)} problem(s)\n" + "\n".join(problems)) from None


def _describe(error: dict[str, Any], path: Path, lines: dict[yaml_places.Place, int]) -> str:
    place = tuple(part for part in error["loc"] if part != "function-before[_as_list(), list[any]]")
    line = yaml_places.line_of(place, lines)
    where = f"{path.name}:{line}" if line else path.name
    key = ".".join(str(part) for part in place) or "study"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        section = _section(place[:-1])
        message = f"unknown key; keys here: {', '.join(sorted(section))}" if section else "unknown key"
    return f"  {where}: {key}: {message}"


def _section(place: tuple[str | int, ...]) -> dict[str, Any]:
    fields: dict[str, Any] = dict(StudyConfig.model_fields)
    for part in place:
        inner = getattr(fields.get(str(part)), "annotation", None)
        fields = dict(inner.model_fields) if isinstance(inner, type) and issubclass(inner, BaseModel) else {}
    return fields
