"""Studies that never ran, with a ledger and scores like those of real ones."""

from dataclasses import dataclass

import pytest

from scripts import synthetic_study
from search import grid, ledger, report
from search.study_config import StudyConfig
from search.study_folder import StudyFolder
from search.study_state import StudyState
from tests.conftest import made_once

TARGETS = {
    "nih_chest_xray14": ["cardiomegaly", "nodule", "pneumothorax"],
    "vindr_pcxr": ["no_finding", "pneumonia"],
}
STUDY = StudyConfig.model_validate(
    {
        "name": "small",
        "axes": {
            "dataset": list(TARGETS),
            "initialization": ["imagenet", "dinov2", "dinov3"],
            "backbone": ["vit_base", "convnext_base"],
            "resolution": [224, 512],
        },
        "exclude": [{"dataset": ["vindr_pcxr"], "initialization": ["dinov2"]}],
        "search": {"learning_rate": [1e-5, 3e-5, 1e-4]},
        "recipe": {"epochs": 8},
        "evaluation": {"redraws": 200, "seed": 3},
    }
)


@dataclass(frozen=True)
class Reported:
    """A study with its report."""

    study: StudyConfig
    folder: StudyFolder

    @property
    def state(self):
        return StudyState.of(ledger.read(self.folder.ledger).events)

    @property
    def found(self):
        return report.read(self.folder)

    def file(self, name):
        return (self.folder.report / name).read_text()

    def write(self):
        report.write(self.study, grid.expand(self.study), self.state, self.folder)


@pytest.fixture(scope="session")
def reported(tmp_path_factory) -> Reported:
    """18 cells on two data sets with different targets."""

    def make(storage):
        folder = synthetic_study.build(STUDY, storage, TARGETS, synthetic_study.Size(cases=400, patients=150))
        Reported(STUDY, folder).write()

    return Reported(STUDY, StudyFolder(made_once(tmp_path_factory, "reported", make), STUDY.name))
