"""From a finished study to the registry, or why not."""

import hashlib
import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml

from tests.end_to_end.results import client

pytestmark = pytest.mark.slow


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
    weights = Path(model.artifact_location.removeprefix("file://")) / "artifacts" / "weights.safetensors"
    aside = weights.rename(weights.with_suffix(".aside"))
    without = json.loads(again("promote", "--json", code=1))
    assert [reason["condition"] for reason in without["reasons"] if not reason["holds"]] == ["its files are there"]
    aside.rename(weights)
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


def test_labels_that_were_changed_since_the_evaluation_are_no_evidence(again):
    trial = json.loads(again("promote", "--json", "--dry-run"))["trial"]
    path = again.folder / "winners" / trial / "scores.parquet"
    table = pd.read_parquet(path)
    table.assign(label_nodule=1 - table["label_nodule"]).to_parquet(path)
    assert f"scores.parquet of trial {trial} was changed since it was measured; restore " in again("promote", code=2)
    assert not client(again).search_registered_models()


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


def test_a_contract_that_was_changed_since_it_was_packaged_is_refused(again):
    """By it a model names its columns: the network's scores alone come out right under the wrong names."""
    study = again.study.read_text()
    again.study.write_text(study + "promotion: {minimum_positives: 1000}\n")
    assert not json.loads(again("promote", "--json", code=1))["promoted"]
    version = client(again).get_model_version_by_alias("tiny", "challenger")
    model = client(again).get_logged_model(version.source.removeprefix("models:/"))
    folder = Path(model.artifact_location.removeprefix("file://"))
    contract, described = folder / "artifacts" / "contract.json", folder / "MLmodel"
    content, whole = json.loads(contract.read_text()), yaml.safe_load(described.read_text())
    content["pathologies"] = whole["metadata"]["pathologies"] = content["pathologies"][::-1]
    contract.write_text(json.dumps(content))
    described.write_text(yaml.safe_dump(whole))
    again.study.write_text(study)
    refused = json.loads(again("promote", "--json", code=1))
    assert refused["version"] == str(version.version)
    failed, *_ = (reason for reason in refused["reasons"] if not reason["holds"])
    assert failed["condition"].startswith("the packaged pathologies, thresholds, preprocessing and resolution are")
    assert failed["evidence"].startswith("pathologies differ; if that stays so, delete version 1 of tiny and promote")


def test_a_winner_whose_weights_are_gone_is_trained_again_when_asked(again):
    trial = json.loads(again("promote", "--json", "--dry-run"))["trial"]
    (folder,) = (again.folder / "trials" / trial).glob("best-*")
    weights = folder / "network.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-100])
    assert "network.safetensors is damaged" in again("promote", code=2)
    shutil.rmtree(folder)
    assert f"trial {trial}, are gone from {folder}" in again("promote", code=2)
    again("run", "--retry-failed")
    assert weights.read_bytes() == before
    assert json.loads(again("promote", "--json"))["promoted"]
    kinds = [event["kind"] for event in again.events()]
    assert kinds.count("evaluated") == 2  # both winners', the same weights give the same scores
