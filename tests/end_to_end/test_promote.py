"""From a finished study to the registry, or why not."""

import hashlib
import json

import mlflow
import numpy as np
import pandas as pd
import pytest

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
