from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datasets.dataset_config import DatasetConfig
from trainers.recipes import Recipe
from trainers.trial import Operation, TrialConfig


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the phantom source and its cache, filled when first asked for."""
    return tmp_path_factory.mktemp("phantoms")


@pytest.fixture
def trial() -> Callable[..., TrialConfig]:
    """A tiny trial, any setting of which may be given anew."""

    def make(**settings: Any) -> TrialConfig:
        recipe = Recipe(**{"epochs": 2, "batch_size": 8, "warmup_epochs": 0.5, **settings.pop("recipe", {})})
        defaults: dict[str, Any] = {
            "dataset": DatasetConfig(name="phantom", source="phantom", options={"patients": 24, "size": 64}),
            "initialization": "random",
            "backbone": "test_convnext2",
            "resolution": 64,
        }
        return TrialConfig(**{**defaults, "recipe": recipe, **settings})

    return make


@pytest.fixture
def operation(phantoms: Path, tmp_path: Path) -> Callable[..., Operation]:
    """Where a trial runs: shared data, a folder of its own."""

    def make(folder: str = "trial", **settings: Any) -> Operation:
        return Operation(
            data_root=phantoms / "root", cache=phantoms / "cache", trial_folder=tmp_path / folder, **settings
        )

    return make
