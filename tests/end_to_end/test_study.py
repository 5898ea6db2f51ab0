"""What a user sees of a study, and of one that cannot run."""

import json
import shutil
from collections import Counter

import optuna
import pytest

from datasets import sources
from datasets.dataset_config import DatasetConfig
from tests.end_to_end.results import client, report, rows_per_metric, runs

pytestmark = pytest.mark.slow


def test_every_cell_has_a_measured_winner(undisturbed):
    found = report(undisturbed)
    assert found["counts"]["cells"] == len(found["cells"]) == 2
    assert found["counts"]["trials"] == 6
    for cell in found["cells"]:
        by_target = {row["target"]: row for row in cell["test"] if row["metric"] == "auroc"}
        assert set(by_target) == {"cardiomegaly", "pleural_effusion", "nodule", "pneumothorax", "macro"}
        assert all(row["low"] <= row["value"] <= row["high"] for row in by_target.values())
    assert {row["target"] for row in found["baselines"][0]["rows"]} >= {"macro", "nodule"}


def test_the_report_is_written_for_people_too(undisturbed):
    page = (undisturbed.folder / "report" / "report.html").read_text()
    assert "<h1>tiny</h1>" in page
    assert 'src="data:image/svg+xml;base64,' in page
    assert "http" not in page.replace("http-equiv", "")
    assert "random" not in (undisturbed.folder / "report" / "results.csv").read_text().splitlines()[0]


def test_mlflow_has_one_run_per_trial_and_one_row_per_step(undisturbed):
    trials = {e["trial"]: e for e in undisturbed.events() if e["kind"] == "trial"}
    found = runs(undisturbed)
    assert Counter(run.data.tags["radsweep.identity"] for run in found) == Counter(trials.keys())
    assert {run.info.status for run in found} <= {"FINISHED", "KILLED"}
    assert set(rows_per_metric(undisturbed)) == {1}
    parents = runs(undisturbed, "study")
    assert [run.info.status for run in parents] == ["FINISHED"]
    assert {run.data.tags["mlflow.parentRunId"] for run in found} == {parents[0].info.run_id}
    run = found[0]
    assert run.data.tags["cell.backbone"] in {"test_convnext2", "test_vit3"}
    assert run.inputs.dataset_inputs[0].dataset.name == "phantom"
    assert float(run.data.params["learning_rate"]) in {1e-3, 1e-4, 3e-3}


def test_metrics_carry_the_events_own_time(undisturbed):
    told = {(e["trial"], e["epoch"]): e for e in undisturbed.events() if e["kind"] == "epoch"}
    found = client(undisturbed)
    for run in runs(undisturbed):
        for metric in found.get_metric_history(run.info.run_id, "val/auroc/macro"):
            event = told[run.data.tags["radsweep.identity"], metric.step]
            assert (metric.timestamp, metric.value) == (event["timestamp_ms"], event["metrics"]["val/auroc/macro"])


def test_optuna_tells_the_truth(undisturbed):
    ends = Counter(e["state"] for e in undisturbed.events() if e["kind"] == "ended")
    storage = f"sqlite:///{undisturbed.folder}/optuna.db"
    states = Counter()
    for summary in optuna.get_all_study_summaries(storage):
        study = optuna.load_study(study_name=summary.study_name, storage=storage)
        states.update(trial.state.name for trial in study.trials)
        assert any(trial.state.name == "COMPLETE" for trial in study.trials)
    assert states == ends


def test_only_finished_trials_keep_weights_and_nobody_keeps_resume_state(undisturbed):
    states = {e["trial"]: e["state"] for e in undisturbed.events() if e["kind"] == "ended"}
    kept = {
        trial for trial in states if list((undisturbed.folder / "trials" / trial).glob("best-*/network.safetensors"))
    }
    assert kept == {trial for trial, state in states.items() if state == "COMPLETE"}
    assert not list(undisturbed.folder.glob("trials/*/last-*/*.safetensors"))


def test_a_study_in_which_nothing_finishes_ends_with_code_1(elsewhere):
    text = elsewhere.study.read_text().replace("[test_convnext2, test_vit3]", "test_vit3")
    elsewhere.study.write_text(text.replace("[1e-3, 1e-4, 3e-3]", "[1e30]"))
    assert "Cell without a finished trial" in elsewhere("run", code=1)
    (ended,) = [event for event in elsewhere.events() if event["kind"] == "ended"]
    assert (ended["state"], ended["reason"].partition(":")[0]) == ("FAILED", "non_finite")


def test_a_sampler_draws_rounds_inside_a_cell_and_an_unreadable_image_is_quarantined(elsewhere):
    tear(elsewhere, 1)
    text = elsewhere.study.read_text().replace("[1e-3, 1e-4, 3e-3]", "{low: 1e-4, high: 1e-2, log: true}")
    text = text.replace("[test_convnext2, test_vit3]", "test_vit3").replace("epochs: 4", "epochs: 2")
    elsewhere.study.write_text(text + "sampling: {sampler: tpe, trials: 3, per_round: 2}\n")
    elsewhere("run")
    found = report(elsewhere)
    assert (found["counts"]["cells"], found["counts"]["trials"]) == (1, 3)
    assert json.loads(elsewhere("status", "--json"))["counts"]["WAITING"] == 0
    assert found["data"][0]["quarantined"] == 1


def test_too_many_unreadable_images_stop_the_study_before_a_trial(elsewhere):
    manifest = tear(elsewhere, 4)
    told = elsewhere("run", code=2)
    assert f"4 of {len(manifest)} images" in told
    assert not any(e["kind"] in {"trial", "started"} for e in elsewhere.events())
    assert not any(name.rpartition("/")[2] in told for name in manifest.instances["path"])


def test_data_that_cannot_be_used_stop_their_own_cells_until_they_are_mended(elsewhere):
    text = elsewhere.study.read_text().replace("dataset: phantom", "dataset: [phantom, torn]")
    text = text.replace("[test_convnext2, test_vit3]", "test_vit3").replace("[1e-3, 1e-4, 3e-3]", "[1e-3]")
    text = text.replace("data: {", "data: {torn: {source: phantom, patients: 48, size: 64, seed: 1}, ").replace(
        "epochs: 4", "epochs: 1"
    )
    elsewhere.study.write_text(text)
    manifest = tear(elsewhere, 4, "torn", seed=1)
    told = elsewhere("run", code=1)
    assert f"Data set torn could not be used: 4 of {len(manifest)} images" in told
    assert "Cell without a finished trial: torn/random/test_vit3/32" in told
    assert [cell["axes"]["dataset"] for cell in report(elsewhere)["cells"]] == ["phantom"]
    shown = elsewhere("status")
    assert "failed data set torn: data: 4 of " in shown
    assert "data: its data cannot be read; the cell stops" in shown
    assert json.loads(elsewhere("status", "--json"))["to_come"] == {"torn/random/test_vit3/32": 1}
    assert "is not finished: 1 of 2 trials are done" in elsewhere("promote", code=2)
    both = elsewhere.study.read_text()
    elsewhere.study.write_text(both + "exclude: [{dataset: torn}]\n")
    assert "torn" not in elsewhere("run") + elsewhere("status")  # it is asked for no more
    elsewhere.study.write_text(both)
    shutil.rmtree(manifest.root)
    elsewhere("run")
    assert [cell["axes"]["dataset"] for cell in report(elsewhere)["cells"]] == ["phantom", "torn"]
    assert "torn: data" not in elsewhere("status")
    assert len(runs(elsewhere)) == 2


def tear(command, number, name="phantom", **options):
    """Cut off so many images of the tiny study's phantom; returns its manifest."""
    phantom = DatasetConfig(name=name, source="phantom", options={"patients": 48, "size": 64, **options})
    root = command.storage / "generated" / name
    manifest = sources.load(phantom, root)
    for path in manifest.instances["path"][:number]:
        (root / path).write_bytes((root / path).read_bytes()[:400])
    return manifest


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (("name: tiny", "nam: tiny"), (), "nam: unknown key"),
        (("name: tiny", "name: mlflow.db"), (), "'mlflow.db' is something else in every storage folder"),
        (("test_convnext2", "test_convnext9"), (), "test_convnext9"),
        (
            ("[test_convnext2, test_vit3]\n  resolution: 32", "vit_small\n  resolution: 40"),
            (),
            "40 px is not a multiple of the patch size 16",
        ),
        (
            ("dataset: phantom", "dataset: [phantom, nih_chest_xray14]"),
            (),
            "no folder given. Say --data-root nih_chest_xray14=PATH",
        ),
        (("patients: 48", "patients: 3"), (), "options of source phantom: patients"),
        (("name: tiny", "name: tiny\ntracking: {uri: 'http://127.0.0.1:9'}"), (), "cannot be used"),
        (("name: tiny", "name: tiny"), ("--address", "127.0.0.1:9"), "no Ray cluster answers"),
        (("name: tiny", "name: tiny\nresources: {cpus: 999}"), (), "no node of this cluster has that"),
    ],
)
def test_bad_input_ends_with_a_message_and_code_2(elsewhere, change, words, message):
    elsewhere.study.write_text(elsewhere.study.read_text().replace(*change))
    told = elsewhere("run", *words, code=2)
    assert message in told
    assert "Traceback" not in told
    assert not any(e["kind"] == "trial" for e in elsewhere.events())
