"""All training settings but the compared axes, under a name: a recipe.

`paper` is the recipe of "Resolution scaling governs DINOv3 transfer performance in chest radiograph
classification" as far as the authors' public code shows it (repository tayebiarasteh/vit-med: Adam, no
schedule, FP32, positive weights, horizontal flip and ±7°). The paper's final learning rate, weight decay
and number of epochs are not published; they are searched or set in the study.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Recipe(BaseModel):
    """Training settings of one trial; `name` gives the defaults, every other key overrides one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = "modern"
    epochs: int = Field(30, ge=1)
    batch_size: int = Field(32, ge=1, description="effective batch: images per optimizer step")
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: float = Field(1.0, ge=0, description="linear warm-up, in epochs; fractions are allowed")
    precision: Literal["bf16", "fp32"] = Field("bf16", description="autocast on CUDA; the CPU computes in fp32")
    gradient_clip: float | None = Field(1.0, gt=0, description="largest gradient norm")
    positive_weight: bool = Field(False, description="BCE pos_weight = negatives / positives of the train partition")
    augmentation: str = Field("paper", description="name in datasets/transforms.py")
    ema: float | None = Field(None, gt=0, lt=1, description="decay of the weights' moving average, evaluated instead")
    layer_decay: float | None = Field(None, gt=0, le=1, description="learning-rate factor from layer to layer")
    pooling: Literal["family", "paper", "all_tokens", "patch_tokens", "class_token"] = Field(
        "family", description="how tokens become one feature: the family's own way, the paper's, or by name"
    )
    selection: Literal["primary", "loss"] = Field(
        "primary", description="best epoch: by the task's primary metric, or by the lowest validation loss"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="before the head")
    patience: int | None = Field(None, ge=1, description="epochs without a better primary metric before stopping")

    @model_validator(mode="before")
    @classmethod
    def _start_from_the_named_recipe(cls, values: Any) -> Any:
        if isinstance(values, str):
            values = {"name": values}
        if not isinstance(values, dict):
            return values
        name = values.get("name", "modern")
        if name not in RECIPES:
            raise ValueError(f"unknown recipe {name!r}; recipes: {', '.join(sorted(RECIPES))}")
        return {**RECIPES[name], **values, "name": name}


RECIPES: dict[str, dict[str, Any]] = {
    "modern": {},
    "paper": {
        "optimizer": "adam",
        "weight_decay": 0.0,
        "schedule": "constant",
        "warmup_epochs": 0.0,
        "precision": "fp32",
        "gradient_clip": None,
        "positive_weight": True,
        "augmentation": "paper",
        "ema": None,
        "pooling": "paper",
        "selection": "loss",
    },
}
