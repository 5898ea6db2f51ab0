"""Which data a trial reads, and how: the part of a trial's identity that `datasets` understands."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

UncertainPolicy = Literal["zeros", "ones", "ignore", "soft"]

QUESTION = ("labels", "uncertain", "validation_fraction", "partition_seed")
"""Settings under which the same images are other cases or carry other labels: values do not compare across them."""


class DatasetConfig(BaseModel):
    """Everything that decides which labels and pixels a trial sees.

    Where the files lie is not here: a folder is a property of the machine, not of the result.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(description="the data set's name in the study, e.g. nih_chest_xray14")
    source: str = Field(description="module in datasets/sources that reads it, e.g. nih_chest_xray14")
    labels: Literal["paper", "conventional"] = Field(
        "conventional", description="label list: the paper's own, or the data set's conventional one"
    )
    uncertain: UncertainPolicy | dict[str, UncertainPolicy] = Field(
        "ignore", description="what an uncertain label becomes, for all pathologies or per pathology"
    )
    preprocessing: str = Field("standard", description="name in datasets/preprocessing.py")
    validation_fraction: float = Field(
        0.125, gt=0, lt=1, description="share of the training patients held out for validation"
    )
    partition_seed: int = Field(0, ge=0, description="seed of every patient split that is drawn")
    label_noise: float = Field(0.0, ge=0, le=1, description="share of training labels flipped")
    label_noise_mode: Literal["asymmetric", "symmetric"] = "asymmetric"
    quarantine_limit: float = Field(
        0.01, ge=0, le=1, description="largest share of unreadable images before the study is stopped"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="the source's own settings")

    @property
    def question(self) -> dict[str, Any]:
        """What networks are asked: all that decides by which cases and labels they are chosen and measured."""
        return self.model_dump(include={"name", "source", "options", *QUESTION})
