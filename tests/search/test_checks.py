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
