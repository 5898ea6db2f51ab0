"""What a user sees of a study, from plan to promotion, and after a killed driver."""

import hashlib
import json
from collections import Counter

import mlflow
import numpy as np
import optuna
import pytest
from mlflow.tracking import MlflowClient

pytestmark = pytest.mark.slow


def client(command):
    return MlflowClient(f"sqlite:///{command.storage}/mlflow.db")


def runs(command, level="trial"):
    found = client(command)
    experiment = found.get_experiment_by_name("tiny")
    return found.search_runs([experiment.experiment_id], f"tags.`radsweep.level` = '{level}'", max_results=1000)


def rows_per_metric(command):
    found = client(command)
    counts = Counter()
    for run in runs(command):
        for key in run.data.metrics:
            steps = [metric.step for metric in found.get_metric_history(run.info.run_id, key)]
            counts[max(Counter(steps).values())] += 1
    return counts


def report(command):
    found = json.loads(command("report", "--json"))
    # What a machine measures of itself differs from run to run; nothing else may.
    for cell in found["cells"]:
        del cell["record"]
    del found["provenance"]
    return found


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


def test_winners_are_also_measured_on_other_data_sets_when_the_study_comes_to_ask(elsewhere):
    """Another phantom would be the same source; a CSV table over its films is another one."""
    from datasets import sources
    from datasets.dataset_config import DatasetConfig

    phantom = DatasetConfig(name="p", source="phantom", options={"patients": 24, "size": 64, "seed": 5})
    root = elsewhere.storage / "other"
    manifest = sources.load(phantom, root)
    table = manifest.instances[["path", "patient"]].assign(nodule=manifest.labels[:, 2], split="test")
    table.loc[:3, "split"] = "train"
    table.loc[4:7, "split"] = "val"
    table["patient"] = range(len(table))
    table["nodule"] = [i % 2 for i in range(len(table))]
    table.to_csv(root / "labels.csv", index=False)
    study = elsewhere.study.read_text().replace("[test_convnext2, test_vit3]", "test_convnext2")
    elsewhere.study.write_text(study)
    elsewhere("run")
    alone, trained = report(elsewhere)["cells"][0], sum(e["kind"] == "epoch" for e in elsewhere.events())
    (scores,) = elsewhere.folder.glob("winners/*/scores.parquet")
    written = scores.stat().st_mtime_ns
    study = study.replace("redraws: 200, metadata_baseline: true", "redraws: 300, external: {phantom: [other]}")
    study = study.replace("data: {", "data: {other: {source: csv, findings: [nodule], partition: split}, ")
    elsewhere.study.write_text(study + "promotion: {external: {other: {margin: 0.1}}}\n")
    elsewhere("run", "--data-root", f"other={root}")
    both = report(elsewhere)["cells"][0]
    assert sum(e["kind"] == "epoch" for e in elsewhere.events()) == trained
    assert scores.stat().st_mtime_ns == written  # the test images were looked at once
    assert [row["value"] for row in both["test"]] == [row["value"] for row in alone["test"]]
    assert [row["low"] for row in both["test"]] != [row["low"] for row in alone["test"]]
    (winner,) = [run for run in runs(elsewhere) if run.data.tags.get("radsweep.winner") == "true"]
    history = client(elsewhere).get_metric_history(winner.info.run_id, "test/auroc/macro")
    assert len(history) == 1  # what came out the same has no second row
    external = report(elsewhere)["cells"][0]["external"]
    assert {(row["dataset"], row["target"]) for row in external} == {("other", "nodule"), ("other", "macro")}
    assert {row["cases"] for row in external} == {len(table) - 8}
    assert "external: other" in (elsewhere.folder / "report" / "results.csv").read_text()
    reasons = json.loads(elsewhere("promote", "--json", "--dry-run"))["reasons"]
    (reason,) = [reason for reason in reasons if reason["condition"].startswith("on other, non_inferiority:")]
    assert reason["holds"]
    assert reason["evidence"] == f"no champion to compare with; measured on {len(table) - 8} cases"


def test_only_finished_trials_keep_weights_and_nobody_keeps_resume_state(undisturbed):
    states = {e["trial"]: e["state"] for e in undisturbed.events() if e["kind"] == "ended"}
    kept = {
        trial for trial in states if list((undisturbed.folder / "trials" / trial).glob("best-*/network.safetensors"))
    }
    assert kept == {trial for trial, state in states.items() if state == "COMPLETE"}
    assert not list(undisturbed.folder.glob("trials/*/last-*/*.safetensors"))


def test_a_second_run_does_nothing(again):
    before = (again.folder / "ledger.jsonl").read_bytes()
    checkpoints = {path: path.stat().st_mtime_ns for path in again.folder.glob("trials/**/*") if path.is_file()}
    again("run")
    assert (again.folder / "ledger.jsonl").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in checkpoints} == checkpoints
    assert len(runs(again)) == 6


def test_a_changed_grid_runs_only_what_is_missing(again):
    known = {e["trial"] for e in again.events() if e["kind"] == "trial"}
    text = again.study.read_text().replace("3e-3]", "3e-3, 5e-4]").replace("[test_convnext2, test_vit3]", "test_vit3")
    again.study.write_text(text)
    events = len(again.events())
    again("run")
    new = again.events()[events:]
    assert {e["searched"]["learning_rate"] for e in new if e["kind"] == "trial"} == {5e-4}
    assert not {e["trial"] for e in new if e["kind"] in {"started", "epoch"}} & known
    assert report(again)["counts"]["cells"] == 1


def test_chosen_trials_get_more_epochs_and_the_others_are_not_trained_again(again):
    known = {e["trial"] for e in again.events() if e["kind"] == "trial"}
    text = again.study.read_text().replace("recipe: {epochs: 4, ", "recipe: {")
    longer = "resolution: 32\n  epochs: [4, 5]\nexclude:\n  - {epochs: 5, backbone: test_convnext2}"
    again.study.write_text(text.replace("resolution: 32", longer))
    events = len(again.events())
    again("run")
    new = again.events()[events:]
    trained = {e["trial"] for e in new if e["kind"] == "started"}
    assert len(trained) == 3
    assert not trained & known
    assert {e["config"]["recipe"]["epochs"] for e in new if e["kind"] == "trial" and e["trial"] in trained} == {5}
    found = report(again)
    assert (found["counts"]["cells"], found["counts"]["trials"]) == (3, 9)
    assert {cell["axes"]["epochs"] for cell in found["cells"]} == {4, 5}
    assert {run.data.tags["cell.epochs"] for run in runs(again)} == {"4", "5"}


def test_a_smaller_grid_is_reported_without_training(again):
    again.study.write_text(again.study.read_text().replace("[test_convnext2, test_vit3]", "test_vit3"))
    events = len(again.events())
    again("run")
    assert [event["kind"] for event in again.events()[events:]] == ["study", "closed"]
    assert report(again)["counts"]["cells"] == 1
    before = (again.folder / "ledger.jsonl").read_bytes()
    again("run")
    assert (again.folder / "ledger.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(lambda events: any(e["kind"] == "started" for e in events), id="as the first trial starts"),
        pytest.param(lambda events: sum(e["kind"] == "epoch" for e in events) >= 5, id="in the middle"),
        pytest.param(lambda events: any(e["kind"] == "evaluated" for e in events), id="while winners are measured"),
    ],
)
def test_a_killed_driver_changes_nothing_in_the_end(undisturbed, elsewhere, moment):
    elsewhere.kill_when(moment)
    before = {(e["trial"], e["epoch"]): e for e in elsewhere.events() if e["kind"] == "epoch"}
    elsewhere("run")
    assert report(elsewhere) == report(undisturbed)
    after = {(e["trial"], e["epoch"]): e for e in elsewhere.events() if e["kind"] == "epoch"}
    assert {key: after[key] for key in before} == before
    assert Counter(run.info.status for run in runs(elsewhere)) == Counter(run.info.status for run in runs(undisturbed))
    assert len(runs(elsewhere)) == 6
    assert set(rows_per_metric(elsewhere)) == {1}


def test_a_sampler_draws_rounds_and_a_second_run_draws_nothing_more(elsewhere):
    text = elsewhere.study.read_text().replace("[1e-3, 1e-4, 3e-3]", "{low: 1e-4, high: 1e-2, log: true}")
    text = text.replace("[test_convnext2, test_vit3]", "test_vit3").replace("epochs: 4", "epochs: 2")
    elsewhere.study.write_text(text + "sampling: {sampler: tpe, trials: 3, per_round: 2}\n")
    elsewhere("run")
    found = report(elsewhere)
    assert (found["counts"]["cells"], found["counts"]["trials"]) == (1, 3)
    before = (elsewhere.folder / "ledger.jsonl").read_bytes()
    elsewhere("run")
    assert (elsewhere.folder / "ledger.jsonl").read_bytes() == before
    assert json.loads(elsewhere("status", "--json"))["counts"]["WAITING"] == 0


def test_a_study_in_which_nothing_finishes_ends_with_code_1(elsewhere):
    text = elsewhere.study.read_text().replace("[test_convnext2, test_vit3]", "test_vit3")
    elsewhere.study.write_text(text.replace("[1e-3, 1e-4, 3e-3]", "[1e30]"))
    assert "Cell without a finished trial" in elsewhere("run", code=1)
    (ended,) = [event for event in elsewhere.events() if event["kind"] == "ended"]
    assert (ended["state"], ended["reason"].partition(":")[0]) == ("FAILED", "non_finite")


def test_two_drivers_are_refused(elsewhere):
    import subprocess

    from tests.end_to_end.conftest import ROOT, environment

    first = subprocess.Popen(elsewhere.words("run"), cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL)
    while not any(e["kind"] == "trial" for e in elsewhere.events()):
        assert first.poll() is None
    told = elsewhere("run", code=2)
    assert f"another driver is running it: process {first.pid} on" in told
    first.kill()
    first.wait()


@pytest.mark.parametrize(("broken", "code"), [(1, 0), (4, 2)])
def test_unreadable_images_are_quarantined_and_too_many_stop_the_study(elsewhere, broken, code):
    from datasets import sources
    from datasets.dataset_config import DatasetConfig

    options = {"patients": 48, "size": 64}
    root = elsewhere.storage / "generated" / "phantom"
    manifest = sources.load(DatasetConfig(name="phantom", source="phantom", options=options), root)
    for path in manifest.instances["path"][:broken]:
        (root / path).write_bytes((root / path).read_bytes()[:400])
    told = elsewhere("run", code=code)
    if code:
        assert f"{broken} of {len(manifest)} images" in told
        assert not any(e["kind"] in {"trial", "started"} for e in elsewhere.events())
        assert not any(name.rpartition("/")[2] in told for name in manifest.instances["path"])
    else:
        assert report(elsewhere)["data"][0]["quarantined"] == 1


def test_the_winner_is_promoted_and_its_scores_come_back(again):
    dry = json.loads(again("promote", "--json", "--dry-run"))
    found = client(again)
    assert dry["promoted"]
    assert dry["version"] is None
    assert not found.search_registered_models()
    decision = json.loads(again("promote", "--json"))
    assert decision["promoted"]
    assert all(reason["holds"] for reason in decision["reasons"])
    assert any("gives the stored scores to 1e-05" in reason["condition"] for reason in decision["reasons"])
    version = found.get_model_version_by_alias("tiny", "champion")
    model = found.get_logged_model(version.source.removeprefix("models:/"))
    assert "/storage/mlartifacts/tiny/models/" in model.artifact_location  # a copied storage names the first one
    mlflow.set_tracking_uri(f"sqlite:///{again.storage}/mlflow.db")
    loaded = mlflow.pyfunc.load_model("models:/tiny@champion")
    facts = loaded.metadata.metadata
    assert facts["pathologies"] == ["cardiomegaly", "pleural_effusion", "nodule", "pneumothorax"]
    assert version.run_id == facts["run_id"]
    scores = (again.folder / "winners" / decision["trial"] / "scores.parquet").read_bytes()
    (told,) = (again.storage / "mlpromotions" / "tiny.jsonl").read_text().splitlines()
    assert version.tags["radsweep.scores_sha256"] == hashlib.sha256(scores).hexdigest()
    assert json.loads(told)["scores_sha256"] == hashlib.sha256(scores).hexdigest()

    pixels, stored = test_cases(again, decision["trial"], facts)
    assert np.abs(loaded.predict(pixels).to_numpy() - stored).max() < 1e-5

    assert json.loads(again("promote", "--json"))["reasons"][0]["condition"] == "this model is the champion"
    found.delete_registered_model_alias("tiny", "champion")
    assert "though version 1 did and is still there" in again("promote", code=2)
    assert len(found.search_model_versions("name='tiny'")) == 1


def test_cases(command, trial, facts):
    """Return the pixels of the test cases (one film each) and the scores that the trial stored for them."""
    from datasets import cache, sources
    from datasets.dataset_config import DatasetConfig
    from datasets.privacy import case_key, keyed_hash
    from trainers.evaluation import case_scores

    config = next(e for e in command.events() if e.get("trial") == trial)["config"]
    manifest = sources.load(DatasetConfig(**config["dataset"]), command.storage / "generated" / "phantom")
    images = cache.open_cache(
        manifest, resolution=facts["resolution"], preprocessing="standard", cache=command.storage / "cache"
    )
    scores = case_scores.load(command.folder / "winners" / trial / "scores.parquet")
    stored = dict(zip(scores.table["case"], scores.scores, strict=True))
    key = case_key(command.storage)
    cases = manifest.instances["case"]
    single = [row for row in manifest.rows("test") if (cases == cases[row]).sum() == 1]
    assert len(single) > 5
    return images.pixels[single][:, None], np.array([stored[keyed_hash(key, cases[row])] for row in single])


test_cases.__test__ = False


def test_weights_that_changed_after_training_are_refused_and_the_refusal_is_on_record(again):
    from safetensors.numpy import load_file, save_file

    trial = json.loads(again("promote", "--json", "--dry-run"))["trial"]
    (weights,) = (again.folder / "trials" / trial).glob("best-*/network.safetensors")
    tensors = load_file(weights)
    changed = {
        name: array * np.float32(1.01) if array.dtype == np.float32 else array for name, array in tensors.items()
    }
    weights.unlink()
    save_file(changed, weights)
    refused = json.loads(again("promote", "--json", code=1))
    failed = [reason["condition"] for reason in refused["reasons"] if not reason["holds"]]
    assert len(failed) == 2
    assert failed[0] == "the packaged weights are those of the ledger"
    assert failed[1].startswith("loaded anew, the model gives the stored scores")
    version = client(again).get_model_version_by_alias("tiny", "challenger")
    assert any(tag.startswith("radsweep.promotion.") for tag in version.tags)
    (line,) = (again.storage / "mlpromotions" / "tiny.jsonl").read_text().splitlines()
    assert json.loads(line)["action"] == "refused"


def test_an_equal_challenger_is_refused_with_the_figures(again):
    again("promote")
    text = again.study.read_text().replace("name: tiny", "name: tiny-again")
    again.study.write_text(text + "promotion: {registered_model: tiny}\n")
    again("run")
    refused = json.loads(again("promote", "--json", code=1))
    assert not refused["promoted"]
    assert "challenger minus champion +0.0000, interval +0.0000 to +0.0000" in refused["reasons"][0]["evidence"]


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
