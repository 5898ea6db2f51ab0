"""A study whose file was edited trains only what is missing."""

import hashlib
import json
import shutil
from collections import Counter

import pytest

from datasets import sources
from datasets.dataset_config import DatasetConfig
from tests.end_to_end.results import client, report, runs

pytestmark = pytest.mark.slow


def test_winners_are_also_measured_on_other_data_sets_when_the_study_comes_to_ask(again):
    """A champion among them is registered once more, with what was measured since."""
    assert json.loads(again("promote", "--json"))["version"] == "1"
    root = again.storage / "other"
    cases = write_other(root)
    alone, trained = report(again)["cells"], sum(e["kind"] == "epoch" for e in again.events())
    written = {path: path.stat().st_mtime_ns for path in again.folder.glob("winners/*/scores.parquet")}
    study = again.study.read_text()
    study = study.replace("redraws: 200, metadata_baseline: true", "redraws: 300, external: {phantom: [other]}")
    study = study.replace("data: {", "data: {other: {source: csv, findings: [nodule], partition: split}, ")
    again.study.write_text(study + "promotion: {external: {other: {margin: 0.1}}}\n")
    again("run", "--data-root", f"other={root}")
    both = report(again)["cells"]
    assert sum(e["kind"] == "epoch" for e in again.events()) == trained
    assert {path: path.stat().st_mtime_ns for path in written} == written  # the test images were looked at once
    winners = [run for run in runs(again) if run.data.tags.get("radsweep.winner") == "true"]
    assert len(both) == len(alone) == len(winners) == len(written) == 2
    for before, after in zip(alone, both, strict=True):
        assert [row["value"] for row in after["test"]] == [row["value"] for row in before["test"]]
        assert [row["low"] for row in after["test"]] != [row["low"] for row in before["test"]]
        external = after["external"]
        assert {(row["dataset"], row["target"]) for row in external} == {("other", "nodule"), ("other", "macro")}
        assert {row["cases"] for row in external} == {cases}
    for winner in winners:
        history = client(again).get_metric_history(winner.info.run_id, "test/auroc/macro")
        assert len(history) == 1  # what came out the same has no second row
    assert "external: other" in (again.folder / "report" / "results.csv").read_text()
    decision = json.loads(again("promote", "--json"))
    (reason,) = [one for one in decision["reasons"] if one["condition"].startswith("on other, non_inferiority:")]
    assert reason["holds"]
    assert reason["evidence"] == f"nothing to compare with; measured on {cases} cases"
    assert decision["reasons"][0]["condition"] == "this model is the champion, and was measured anew since"
    assert (decision["promoted"], decision["version"], decision["champion_before"]) == (True, "2", "1")
    champion = client(again).get_model_version_by_alias("tiny", "champion")
    assert str(champion.version) == "2"
    stored = again.folder / "winners" / decision["trial"] / "scores_other.parquet"
    assert champion.tags["radsweep.scores_sha256.other"] == hashlib.sha256(stored.read_bytes()).hexdigest()
    assert json.loads(again("promote", "--json"))["reasons"][0]["condition"] == "this model is the champion"


def write_other(root):
    """Write a CSV table over the films of another phantom, which alone would be the same source; return test cases."""
    phantom = DatasetConfig(name="p", source="phantom", options={"patients": 24, "size": 64, "seed": 5})
    manifest = sources.load(phantom, root)
    table = manifest.instances[["path"]].assign(split="test")
    table.loc[:3, "split"] = "train"
    table.loc[4:7, "split"] = "val"
    table["patient"] = range(len(table))
    table["nodule"] = [i % 2 for i in range(len(table))]
    table.to_csv(root / "labels.csv", index=False)
    return len(table) - 8


@pytest.mark.parametrize("elsewhere", [False, True], ids=["a database made anew", "another experiment"])
def test_an_mlflow_that_does_not_know_the_study_is_told_all_of_it(again, elsewhere):
    before = {run.info.run_name: (run.data.params, run.data.metrics, run.info.status) for run in runs(again)}
    if elsewhere:
        again.study.write_text(again.study.read_text() + "tracking: {experiment: elsewhere}\n")
        assert "events have not reached MLflow" in again("promote", code=2)
    else:
        for path in again.storage.glob("mlflow.db*"):
            path.unlink()
        shutil.rmtree(again.storage / "mlartifacts")
    again("run")
    told = runs(again, experiment="elsewhere" if elsewhere else "tiny")
    assert {run.info.run_name: (run.data.params, run.data.metrics, run.info.status) for run in told} == before
    assert len(told) == len(before)
    assert json.loads(again("promote", "--json"))["promoted"]


def test_a_changed_grid_trains_only_what_is_missing(again):
    """It gains a learning rate, and a longer training of one of its two networks."""
    known = {e["trial"] for e in again.events() if e["kind"] == "trial"}
    text = again.study.read_text().replace("recipe: {epochs: 4, ", "recipe: {").replace("3e-3]", "3e-3, 5e-4]")
    longer = "resolution: 32\n  epochs: [4, 5]\nexclude:\n  - {epochs: 5, backbone: test_convnext2}"
    again.study.write_text(text.replace("resolution: 32", longer))
    events = len(again.events())
    again("run")
    new = again.events()[events:]
    missing = {e["trial"]: e for e in new if e["kind"] == "trial" and e["trial"] not in known}
    assert {e["trial"] for e in new if e["kind"] in {"started", "epoch"}} == set(missing)
    assert Counter((e["axes"]["epochs"], e["searched"]["learning_rate"]) for e in missing.values()) == {
        (4, 5e-4): 2,
        **dict.fromkeys([(5, 1e-3), (5, 1e-4), (5, 3e-3), (5, 5e-4)], 1),
    }
    found = report(again)
    assert (found["counts"]["cells"], found["counts"]["trials"]) == (3, 12)
    assert {cell["axes"]["epochs"] for cell in found["cells"]} == {4, 5}
    assert {run.data.tags["cell.epochs"] for run in runs(again)} == {"4", "5"}


def test_a_smaller_grid_is_reported_without_training(again):
    again.study.write_text(again.study.read_text().replace("[test_convnext2, test_vit3]", "test_vit3"))
    events = len(again.events())
    again("run")
    assert [event["kind"] for event in again.events()[events:]] == ["study", "closed"]
    assert report(again)["counts"]["cells"] == 1
