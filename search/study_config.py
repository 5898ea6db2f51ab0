"""The study file as a frozen pydantic model: what is compared, searched, trained, pruned and promoted.

Nothing here says where data lie, which GPU runs what or who is logged in: those are properties of the
machine and come from the command line or the environment.
"""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from datasets.dataset_config import QUESTION
from mlflow_server import history
from search import yaml_places
from search.errors import StudyError
from search.study_folder import RESERVED
from search.study_sections import (
    AXES,
    DATASET_FIELDS,
    RECIPE_FIELDS,
    REQUIRED_AXES,
    Budget,
    Evaluation,
    Promotion,
    Pruning,
    Range,
    Resources,
    Sampling,
    Section,
    Space,
    Tracking,
    Values,
    coerced,
    refuse_truth,
)

NAME = re.compile(r"\w[\w.-]*")
"""Of a data set whose scores and metrics stand beside those of another."""


class StudyConfig(Section):
    """One study file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$", description="lower case; names the folder and experiment")
    task: str = "multilabel"
    axes: dict[str, Values]
    exclude: list[dict[str, Values]] = Field(default_factory=list)
    search: dict[str, Space] = Field(default_factory=dict)
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

    @field_validator("name")
    @classmethod
    def _free_name(cls, name: str) -> str:
        if name in RESERVED:
            raise ValueError(f"{name!r} is something else in every storage folder; choose another name")
        return name

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
                coerced(name, [space.low, space.high])
        factors = {n: space if isinstance(space, Range) else coerced(n, space) for n, space in factors.items()}
        listed = {name: values for name, values in factors.items() if isinstance(values, list)}
        empty = [name for name, values in listed.items() if not values]
        if empty:
            raise ValueError(f"{', '.join(empty)}: at least one value is needed")
        doubled = [name for name, values in listed.items() if any(v in values[:i] for i, v in enumerate(values))]
        if doubled:
            raise ValueError(f"{', '.join(doubled)}: a value is listed twice")
        return factors

    @field_validator("search")
    @classmethod
    def _one_question(cls, factors: dict[str, Any]) -> dict[str, Any]:
        if other := [name for name in QUESTION if name in factors]:
            raise ValueError(
                f"{', '.join(other)}: decides by which cases and labels a trial is judged, so that the luckiest value "
                "would win; make it an axis"
            )
        return factors

    @field_validator("recipe")
    @classmethod
    def _no_truth_for_numbers(cls, recipe: dict[str, Any]) -> dict[str, Any]:
        for name, value in recipe.items():
            refuse_truth(name, value)
        return recipe

    @field_validator("exclude")
    @classmethod
    def _coerced_rules(cls, rules: list[dict[str, list[Any]]]) -> list[dict[str, list[Any]]]:
        return [{axis: coerced(axis, values) for axis, values in rule.items()} for rule in rules]

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
        problems += self._problems_of_overrides()
        if isinstance(self.pruning.within, list):
            problems += [
                f"pruning.within: `{axis}` is not an axis" for axis in self.pruning.within if axis not in self.axes
            ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _problems_of_overrides(self) -> list[str]:
        spaces = {**self.axes, **self.search}
        asked = [
            (f"resources.overrides[{index}].when", axis, values)
            for index, override in enumerate(self.resources.overrides)
            for axis, values in override.when.items()
        ]
        return [
            f"{place}: `{axis}` is neither an axis nor searched" for place, axis, _ in asked if axis not in spaces
        ] + [
            f"{place}: {axis} has no value {value!r}; values: {space}"
            for place, axis, values in asked
            for value in values
            if isinstance(space := spaces.get(axis), list) and value not in space
        ]

    def _problems_of_sampling(self) -> list[str]:
        ranges = [name for name, space in self.search.items() if isinstance(space, Range)]
        if self.sampling.sampler != "grid":
            if not self.search:
                return [f"{self.sampling.sampler} has nothing to draw: `search` is empty"]
            return [] if self.sampling.trials else [f"{self.sampling.sampler} needs `trials`: points per cell"]
        problems = ["`trials` belongs to a sampler other than grid"] if self.sampling.trials else []
        return problems + [f"search.{name} is a range; choose a sampler, or list values" for name in ranges]

    def _problems_of_data(self) -> list[str]:
        names = self.axes.get("dataset", [])
        externals = {name for others in self.evaluation.external.values() for name in others}
        problems = [
            f"`{key}` is neither a setting ({', '.join(sorted(DATASET_FIELDS))}) nor a data set of the axes or "
            "of evaluation.external"
            for key in self.data
            if key not in DATASET_FIELDS and key not in names and key not in externals
        ]
        problems += [
            f"evaluation.external: {name} is not a data set of the axes: {', '.join(map(str, names))}"
            for name in self.evaluation.external
            if name not in names
        ]
        return problems + [
            f"evaluation.external: {name!r} becomes part of metrics' and files' names: letters, digits and _ - . only"
            for name in sorted(externals)
            if not NAME.fullmatch(name)
        ]

    def _problems_of_promotion(self) -> list[str]:
        measured = {name for others in self.evaluation.external.values() for name in others}
        model = self.promotion.registered_model or self.name
        refused = [f"promotion.registered_model: {model!r}: {told}"] if (told := history.problem_of(model)) else []
        return refused + [
            f"promotion.external: {name} is not measured; name it in evaluation.external too"
            for name in self.promotion.external
            if name not in measured
        ]


def load_study(path: Path) -> StudyConfig:
    """Read and check a study file.

    Raises:
        StudyError: with every problem of the file and the line each stands on.
    """
    content, lines = yaml_places.load(path)
    try:
        study = StudyConfig.model_validate(content)
        problems = [_describe(error, path, lines) for error in _unknown_in_recipe(study)]
    except ValidationError as found:
        problems = [_describe(dict(error), path, lines) for error in found.errors()]
    if problems:
        raise StudyError(f"{path}: {len(problems)} problem(s)\n" + "\n".join(problems))
    return study


def _unknown_in_recipe(study: StudyConfig) -> list[dict[str, Any]]:
    """Return the keys of the recipe that no recipe has, as pydantic reports those of other sections."""
    unknown = [key for key in study.recipe if key not in RECIPE_FIELDS and key != "name"]
    return [{"loc": ("recipe", key), "type": "extra_forbidden", "msg": ""} for key in unknown]


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
    if place == ("recipe",):
        return dict.fromkeys(RECIPE_FIELDS | {"name"})
    fields: dict[str, Any] = dict(StudyConfig.model_fields)
    for part in place:
        inner = getattr(fields.get(str(part)), "annotation", None)
        fields = dict(inner.model_fields) if isinstance(inner, type) and issubclass(inner, BaseModel) else {}
    return fields
