"""Reports of studies whose file was edited, whose names are paths or have spaces, and whose files are damaged."""

import errno
import re

import pytest

from scripts import synthetic_study
from search import grid, ledger, report
from search.candidate import best_winner
from search.errors import StudyError
from search.report import summary, words
from search.report.figures.canvas import LONGEST_NAME, file_name
from search.study_config import StudyConfig
from search.study_state import StudyState


def written(storage, name="chest", **axes):
    """The report of a small study on one data set."""
    axes = {"initialization": ["imagenet"], "backbone": ["vit_base"], "resolution": [224]} | axes
    study = StudyConfig.model_validate(
        {
            "name": "named",
            "axes": {"dataset": [name], **axes},
            "data": {name: {"source": "csv", "table": "t.csv", "findings": ["x"]}},
            "search": {"learning_rate": [1e-5, 3e-5]},
            "recipe": {"epochs": 4},
            "evaluation": {"redraws": 100},
        }
    )
    size = synthetic_study.Size(cases=90, patients=60, redraws=100)
    folder = synthetic_study.build(study, storage, {name: ["x", "y"]}, size)
    report.renew(study, folder)
    return study, folder


def linked(folder):
    return re.findall(r"^!\[.*\]\((.+)\)$", (folder.report / "report.md").read_text(), re.MULTILINE)


@pytest.mark.slow
def test_figures_of_long_names_that_begin_alike_are_different_files(tmp_path):
    weights = [f"file:/mnt/projects/radiology/weights/pretrained/dinov3_{letter}.safetensors" for letter in "ab"]
    _, folder = written(tmp_path, initialization=["imagenet", *weights])
    names = [name for name in linked(folder) if name.startswith("difference-initialization")]
    assert len(set(names)) == len(names) == 2 * 3  # pairs of three initializations, by cell and by target
    assert sorted(names) == sorted(path.name for path in folder.report.glob("difference-*.png"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a/b", "my data", "a|b", "cost$1$"])
def test_a_data_sets_name_becomes_a_file_beside_the_report(tmp_path, name):
    _, folder = written(tmp_path, name, initialization=["imagenet", "dinov2"])
    assert all(path.is_file() for path in folder.report.iterdir())
    for link in linked(folder):
        assert re.fullmatch(r"[\w.-]+", link)
        assert (folder.report / link).is_file()


def test_only_what_needs_it_is_cleaned_and_stays_unique():
    for name in ("heat-map-vindr_pcxr", "difference-resolution-512-224-by-target", "sensitivity-learning_rate"):
        assert file_name(name) == name
    others = ["a/b", "a b", "a_b", "../x", "x" * 300, "x" * 301, "ä" * 300]
    cleaned = [file_name(name) for name in others]
    assert cleaned[2] == "a_b"
    assert len(set(cleaned)) == len(others)
    assert all("/" not in name and len(name.encode()) <= LONGEST_NAME + 9 for name in cleaned)


def test_what_was_measured_before_an_axis_was_added_still_holds(reported):
    study, state = reported.study, reported.state
    grown = study.model_copy(update={"axes": study.axes | {"adaptation": ["finetune", "lora"]}})
    found = summary.summarize(grown, grid.expand(grown), state, reported.folder)
    before = reported.found
    assert [cell["cell"] for cell in found["cells"]] == [f"{cell['cell']}/finetune" for cell in before["cells"]]
    for now, then in zip(found["cells"], before["cells"], strict=True):
        assert now["axes"] == then["axes"] | {"adaptation": "finetune"}
        for key in ("trial", "searched", "test", "external", "subgroups"):
            assert now[key] == then[key]
    assert {trial["cell"] for trial in found["trials"]} == {cell["cell"] for cell in found["cells"]}
    assert set(found["provenance"]["use"]) == {cell["cell"] for cell in found["cells"]}


@pytest.mark.slow
def test_cells_of_other_labels_are_not_ranked_together_and_data_are_told_apart(tmp_path):
    study, folder = written(tmp_path, uncertain=["zeros", "ones"], initialization=["imagenet", "dinov2"])
    found = report.read(folder)
    best = [sentence for sentence in words.findings(found) if "cells is" in sentence]
    assert [sentence.partition(" is ")[0] for sentence in best] == [
        f"chest (uncertain={policy}): the highest of 2 cells" for policy in ("zeros", "ones")
    ]
    names = ["chest (uncertain=zeros)", "chest (uncertain=ones)"]
    assert [data["name"] for data in found["data"]] == names
    state = StudyState.of(ledger.read(folder.ledger).events)
    state.baselines = {key: {"rows": [{"target": key, "value": None}]} for key in state.datasets}
    baselines = summary.summarize(study, grid.expand(study), state, folder)["baselines"]
    assert [(baseline["name"], baseline["rows"][0]["target"]) for baseline in baselines] == [
        *zip(names, state.datasets, strict=True)
    ]
    with pytest.raises(StudyError, match=r"winners that differ in uncertain: .* Promote from a study with one value"):
        best_winner(study, state)


@pytest.mark.slow
def test_its_report_is_drawn_with_the_new_axis(tmp_path):
    study, folder = written(tmp_path, initialization=["imagenet", "dinov2"])
    before = report.read(folder)
    grown = study.model_copy(update={"axes": {"adaptation": ["finetune", "lora"], **study.axes}})
    report.renew(grown, folder)
    assert "not measured" not in (folder.report / "report.md").read_text()
    after = report.read(folder)
    assert {cell["cell"] for cell in after["cells"]} == {f"finetune/{cell['cell']}" for cell in before["cells"]}
    assert set(before["files"]) <= set(after["files"])


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b'{"format": 5, "fil', b"[]", b"\xff\xfe"])
def test_a_damaged_report_is_told_and_written_again(tmp_path, content):
    study, folder = written(tmp_path)
    before = report.read(folder)
    (folder.report / report.MARKER).write_bytes(content)
    with pytest.raises(StudyError, match=r"report\.json: damaged, .* write the report again with --renew"):
        report.read(folder)
    state = StudyState.of(ledger.read(folder.ledger).events)
    assert not report.is_whole(folder)
    assert not report.is_current(study, state, folder)
    report.renew(study, folder)
    assert report.read(folder) == before


@pytest.mark.slow
def test_a_report_that_is_half_written_is_none(tmp_path, monkeypatch):
    study, folder = written(tmp_path)
    replacing = report.replacing

    def full(path):
        if path.name == "report.md":
            raise OSError(errno.ENOSPC, "No space left on device")
        return replacing(path)

    monkeypatch.setattr(report, "replacing", full)
    with pytest.raises(OSError, match="No space left"):
        report.renew(study, folder)
    assert not report.is_whole(folder)
