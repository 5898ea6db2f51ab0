"""Settings of a single source, given under `options` in the study and refused with their names if wrong."""

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from datasets.dataset_config import DatasetConfig
from datasets.errors import DatasetError


class SourceOptions(BaseModel):
    """What a source without settings of its own accepts: nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PublishedTestOptions(SourceOptions):
    """Settings of a source that publishes a test partition but no validation partition."""

    validation_on_test: bool = Field(
        False, description="validate on the test partition, as paper 1 does; its test figures are then optimistic"
    )


Options = TypeVar("Options", bound=SourceOptions)


def parse_options(config: DatasetConfig, kind: type[Options]) -> Options:
    """Return `config.options` as the source's own settings.

    Raises:
        DatasetError: naming every wrong key and the keys that exist.
    """
    try:
        return kind(**config.options)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'options'}: {e['msg']}" for e in error.errors())
        raise DatasetError(
            f"options of source {config.source}: {problems}",
            f"data set {config.name}",
            f"keys among {', '.join(kind.model_fields)}" if kind.model_fields else "no options",
        ) from None
