"""The sections of a study file as frozen pydantic models; the file as a whole is in study_config.py."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from datasets.dataset_config import DatasetConfig
from mlflow_server.reach import has_password
from trainers.recipes import Recipe
from trainers.trial import TrialConfig


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


Values = Annotated[list[Any], BeforeValidator(_as_list), Field(min_length=1)]
"""One value or a list of values."""


class Range(BaseModel):
    """A continuous or whole-numbered interval that a sampler draws from."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

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

EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def with_numbers(value: Any) -> Any:
    """Turn what is written as `1e-4`, which PyYAML reads as text, into numbers, also inside lists and mappings."""
    if isinstance(value, dict):
        return {key: with_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [with_numbers(inner) for inner in value]
    return float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value


Settings = Annotated[dict[str, Any], BeforeValidator(with_numbers)]
"""What a pruner or a sampler takes; no declaration of ours says of what type."""

REQUIRED_AXES = ("dataset", "initialization", "backbone", "resolution")
DATASET_FIELDS = frozenset(DatasetConfig.model_fields) - {"name", "source", "options"}
TRIAL_FIELDS = frozenset(TrialConfig.model_fields) - {"dataset", "seed"}
RECIPE_FIELDS = frozenset(Recipe.model_fields) - {"name"}
AXES = frozenset({"dataset"}) | TRIAL_FIELDS | RECIPE_FIELDS | DATASET_FIELDS


class Section(BaseModel):
    """A part of the file; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        return _no_truth(value, cls.model_fields[str(info.field_name)])


class Sampling(Section):
    """How the searched hyperparameters of a cell are chosen."""

    sampler: Literal["grid", "tpe", "gp", "cmaes", "qmc", "random"] = Field(
        "grid", description="grid: every listed combination; else Optuna's sampler of this name"
    )
    trials: int | None = Field(None, ge=1, description="points per cell; each is trained with every seed")
    per_round: int = Field(4, ge=1, description="points drawn at once, of tpe, gp and cmaes; more: less waiting")
    seed: int = Field(0, ge=0)
    settings: Settings = Field(default_factory=dict, description="the sampler's own settings")


class Pruning(Section):
    """Which pruner stops trials early, and among which trials it compares."""

    pruner: str = Field("cell_race", description="a file in search/pruners, one of Optuna's, or none")
    settings: Settings = Field(default_factory=dict, description="the pruner's own settings")
    within: Literal["cell", "study"] | Annotated[list[str], Field(min_length=1)] = Field(
        "cell", description="comparison group: cell, study, or axes whose values it shares"
    )
    carry: bool = Field(True, description="cells learn from those of lower resolution, where there are at least three")
    spare_share: float = Field(0.05, ge=0, le=1, description="share of would-be-pruned trials that run on regardless")
    spare_seed: int = Field(0, ge=0)

    @field_validator("within", mode="before")
    @classmethod
    def _axes_once(cls, within: Any) -> Any:
        """Take one axis for a list of it, and every axis of a list once."""
        if isinstance(within, str) and within not in {"cell", "study"}:
            return [within]
        return list(dict.fromkeys(within)) if isinstance(within, list) else within


@dataclass(frozen=True, slots=True)
class Amounts:
    """What one trial gets, as far as the study says so; the fields are those of `Resources`."""

    cpus: int | None = None
    gpus: float | None = None
    gpu_type: str | None = None
    gpu_memory_gb: float | None = None
    memory_gb: float | None = None
    loader_workers: int = 0


class _Amounts(Section):
    cpus: int | None = Field(None, ge=1, description="None: one per GPU, at least one")
    gpus: float | None = Field(None, ge=0, description="None: from the memory that the trial needs; several share one")
    gpu_type: str | None = Field(None, description="Ray's accelerator_type, e.g. A100; None: any")
    gpu_memory_gb: float | None = Field(None, gt=0, description="of one GPU; None: by its type")
    memory_gb: float | None = Field(None, gt=0, description="of the node; None: of trials on GPUs what they need")
    loader_workers: int | None = Field(None, ge=0, description="None: none")

    @field_validator("gpus")
    @classmethod
    def _a_share_or_whole(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError(f"a trial gets a share of one GPU or whole ones; write {int(gpus)} or {int(gpus) + 1}")
        return gpus


class Override(_Amounts):
    """Other amounts for the trials of some axis values."""

    when: dict[str, Values] = Field(min_length=1, description="axis values that it is for, e.g. resolution: 1024")

    @field_validator("when")
    @classmethod
    def _coerced_values(cls, when: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {axis: coerced(axis, values) for axis, values in when.items()}

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


class Tracking(Section):
    """Where MLflow runs go; credentials come from the environment (MLFLOW_TRACKING_USERNAME, …)."""

    uri: str | None = Field(None, description="None: the embedded store, sqlite:///<storage>/mlflow.db")
    experiment: str | None = Field(None, description="None: the study's name")

    @field_validator("uri")
    @classmethod
    def _no_credentials(cls, uri: str | None) -> str | None:
        if uri and has_password(uri):
            raise ValueError(
                "a password does not belong in a study file; set MLFLOW_TRACKING_USERNAME and _PASSWORD, of a database "
                "PGPASSWORD or PGPASSFILE"
            )
        return uri


class Evaluation(Section):
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


EVALUATED_WITH = frozenset({"redraws", "unit", "confidence", "seed", "subgroups"})
"""Settings of `Evaluation` that figures depend on; scores depend on none of them."""

Rule = Literal["superiority", "non_inferiority"]


class ExternalBound(Section):
    """What the paired interval's lower bound must lie above on another data set."""

    rule: Rule = "non_inferiority"
    margin: float = Field(0.0, ge=0, description="in units of the primary metric")


class Promotion(Section):
    """When the study's winner replaces the champion of the registered model."""

    registered_model: str | None = Field(None, min_length=1, description="None: the study's name")
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


class Budget(Section):
    """What a study may use, over all its runs."""

    gpu_hours: float | None = Field(
        None, gt=0, description="GPUs x hours of all trials, pruned and repeated work included"
    )
    wall_clock_hours: float | None = Field(None, gt=0, description="hours that its runs may take together")
    checkpoint_gb: float | None = Field(
        None, gt=0, description="10^9 bytes of the study folder; beyond it weights of trials that did not win go first"
    )


def coerced(name: str, values: list[Any]) -> list[Any]:
    """Turn values into the setting's type: PyYAML reads `1e-4` as text."""
    field = _field(name)
    if field is None:
        return values
    for value in values:
        refuse_truth(name, value)
    endless = [value for value in values if isinstance(value, float) and not math.isfinite(value)]
    if endless:
        raise ValueError(f"{name}: a value must be finite, found {endless[0]}")
    adapter: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, field])  # type: ignore[arg-type]
    try:
        return [adapter.validate_python(value) for value in values]
    except ValidationError as found:
        first = found.errors()[0]
        raise ValueError(f"{name}: {first['msg']}, found {first['input']!r}") from None


def refuse_truth(name: str, value: Any) -> None:
    """Refuse true or false for a setting that is a number: YAML reads `yes` and `on` so, and 1 would come of it."""
    if (field := _field(name)) is not None:
        try:
            _no_truth(value, field)
        except ValueError as problem:
            raise ValueError(f"{name}: {problem}") from None


def _no_truth(value: Any, field: FieldInfo) -> Any:
    kinds = (field.annotation, *get_args(field.annotation))
    if isinstance(value, bool) and bool not in kinds and not {int, float}.isdisjoint(kinds):
        raise ValueError(f"a number is expected, found {str(value).lower()} (YAML reads yes, on and true alike)")
    return value


def is_whole(name: str) -> bool:
    """Say whether a setting is a whole number, e.g. `batch_size`."""
    field = _field(name)
    return field is not None and field.annotation in (int, int | None)


def _field(name: str) -> FieldInfo | None:
    """Return the declaration of a setting that an axis or the search may name."""
    if name in {"dataset", "recipe"}:
        return None
    models = (Recipe, DatasetConfig, TrialConfig)
    return next((model.model_fields[name] for model in models if name in model.model_fields), None)
