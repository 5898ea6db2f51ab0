"""What is refused before anything is trained: weights that are not those, others that share nothing."""

import hashlib

import pytest

from search import checks, grid
from search.errors import StudyError
from search.study_config import StudyConfig
from search.study_state import StudyState
from tests.search.recorded import Search

AXES = {"dataset": "phantom", "initialization": "imagenet", "backbone": "vit_small", "resolution": 224}


def wanted(**axes):
    return grid.expand(StudyConfig.model_validate({"name": "s", "axes": AXES | axes}))


def test_one_file_is_not_taken_for_two_different_weights(tmp_path):
    file = tmp_path / "w.safetensors"
    file.touch()
    checks.check_weights(wanted(), file)
    checks.check_weights(wanted(initialization=["imagenet", "random"], resolution=[224, 384]), file)
    carried = ["vit_small", "tf_efficientnet_lite0"]  # the second one's weights come from a package, not from the file
    checks.check_weights(wanted(backbone=carried), file)
    checks.check_weights(wanted(initialization=["imagenet", "dinov3"]), tmp_path)
    with pytest.raises(StudyError, match=r"w\.safetensors: one file cannot be both vit_small.* and vit_small"):
        checks.check_weights(wanted(initialization=["imagenet", "dinov3"]), file)


def test_a_file_that_holds_other_weights_than_before_is_refused(tmp_path):
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"first")
    asked = wanted(initialization=f"file:{file}")
    state = trained_from(f"file:{file}", hashlib.sha256(b"first").hexdigest())
    checks.check_weight_files(asked, state, None)
    file.write_bytes(b"other")
    with pytest.raises(
        StudyError, match=r"not the file that trials of this study began from \(sha256 a7937b64b8ca…, now"
    ):
        checks.check_weight_files(asked, state, None)
    checks.check_weight_files(wanted(), state, None)  # asked for no more
    checks.check_weight_files(asked, trained_from(f"file:{file}", None), None)  # too large to hash
    file.unlink()
    checks.check_weight_files(asked, state, None)  # perhaps the nodes have it


def test_weights_are_looked_for_where_trials_look_for_them(tmp_path, monkeypatch):
    """In the folder that `--weights` names before the one of the command."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "w.safetensors").write_bytes(b"here")
    asked = wanted(initialization="file:w.safetensors")
    here, folder = (
        trained_from("file:w.safetensors", hashlib.sha256(name).hexdigest()) for name in (b"here", b"folder")
    )
    checks.check_weight_files(asked, here, None)
    checks.check_weight_files(asked, here, tmp_path / "folder")
    (tmp_path / "folder" / "w.safetensors").write_bytes(b"folder")
    checks.check_weight_files(asked, folder, tmp_path / "folder")
    with pytest.raises(StudyError, match=r"folder/w\.safetensors: not the file that trials of this study began from"):
        checks.check_weight_files(asked, here, tmp_path / "folder")


def trained_from(initialization: str, sha256: str | None) -> StudyState:
    search = Search({"a": [0.5]})
    search.run()
    ended = next(event for event in search.events if event["kind"] == "ended")
    ended["result"]["record"] = {"weights_source": {"file": "w.safetensors", "sha256": sha256}}
    entered = next(event for event in search.events if event["kind"] == "trial")
    entered["config"] = {"initialization": initialization}
    return StudyState.of(search.events)


def test_external_data_without_a_common_pathology_are_refused():
    targets = {"mine": {"nodule", "mass"}, "near": {"mass", "edema"}, "far": {"fracture"}}
    checks.check_shared_targets({"mine": ["near"]}, targets)
    with pytest.raises(StudyError, match="mine and far share no pathology: mine has mass, nodule; far has fracture"):
        checks.check_shared_targets({"mine": ["near", "far"]}, targets)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"sampling": {"sampler": "tpe", "trials": 4, "settings": {"nope": 1}}}, "sampling.settings: tpe: .*nope"),
        ({"pruning": {"settings": {"nope": 1}}}, "pruning.settings: cell_race: .*nope"),
        (
            {"evaluation": {"external": {"nih_chest_xray14": ["rsna_pneumonia"]}}},
            "study s: evaluation.external: rsna_pneumonia is not external to nih_chest_xray14",
        ),
    ],
)
def test_what_no_run_could_use_is_refused_by_the_file_alone(more, message):
    axes = AXES | {"dataset": "nih_chest_xray14"}
    learning_rate = {"low": 1e-5, "high": 1e-3, "log": True} if "sampling" in more else [1e-4]
    content = {"name": "s", "axes": axes, "search": {"learning_rate": learning_rate}}
    assert checks.examples(StudyConfig.model_validate({**content, "search": {}})).examples
    with pytest.raises(StudyError, match=message):
        checks.examples(StudyConfig.model_validate(content | more))
