import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainers import backbones, initializations, timm_names
from trainers.efficientnet_lite0_keys import timm_key
from trainers.network_plan import NetworkPlan, Refusal
from trainers.plugins import UnknownNameError

STUDY_BACKBONES = ["vit_small", "vit_base", "vit_large", "convnext_tiny", "convnext_small", "convnext_base"]


def plan(initialization: str, backbone: str, resolution: int = 224) -> NetworkPlan:
    found = initializations.resolve(initialization, backbone, resolution)
    assert isinstance(found, NetworkPlan), found
    return found


@pytest.mark.parametrize("name", initializations.names())
def test_every_initialization_says_what_it_is_and_names_tags_timm_knows(name: str) -> None:
    table = initializations.load(name)
    assert table.description
    for backbone, weights in table.table.items():
        assert backbone in backbones.names()
        assert weights.licence
        if weights.tag.startswith(("package:", "hf_hub:")):
            continue
        architecture, _, tag = weights.tag.partition(".")
        assert tag in timm_names.catalogue()[architecture]


def test_a_hole_is_refused_with_its_reason() -> None:
    refusal = initializations.resolve("dinov2", "convnext_base", 224)
    assert isinstance(refusal, Refusal)
    assert "no such weights exist" in refusal.reason
    assert "ViTs only" in refusal.reason


@pytest.mark.parametrize(
    ("initialization", "resolution", "size"),
    # 36 × 14 = 504 ≤ 512; 73 × 14 = 1022 ≤ 1024; 16 × 14 = 224; 31 × 16 = 496 ≤ 500
    [("dinov2", 224, 224), ("dinov2", 512, 504), ("dinov2", 518, 518), ("dinov2", 1024, 1022), ("dinov3", 500, 496)],
)
def test_the_true_size_is_the_largest_multiple_of_the_patch_below(
    initialization: str, resolution: int, size: int
) -> None:
    found = plan(initialization, "vit_base", resolution)
    assert found.input_size == size
    assert ("as asked" in found.size_rule) == (size == resolution)


def test_a_size_too_far_from_the_asked_one_is_refused_with_those_that_fit() -> None:
    refusal = initializations.resolve("dinov2", "vit_base", 64)
    assert isinstance(refusal, Refusal)
    assert "56 or 70 px" in refusal.reason


def test_too_small_an_image_is_refused() -> None:
    assert isinstance(initializations.resolve("random", "convnext_base", 16), Refusal)


def test_unknown_names_list_what_exists_and_what_is_close() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean dinov3.*imagenet"):
        initializations.resolve("dino3", "vit_base", 224)
    with pytest.raises(UnknownNameError, match=r"did you mean vit_base.*convnext_base"):
        initializations.resolve("dinov3", "vit_bse", 224)


def test_any_timm_name_is_a_backbone_and_gets_weights_that_fit_the_name() -> None:
    assert plan("imagenet", "resnet50").tag == "resnet50.a1_in1k"
    assert plan("dinov3", "vit_small_plus_patch16_dinov3").tag == "vit_small_plus_patch16_dinov3.lvd1689m"
    refused = initializations.resolve("imagenet", "vit_base_patch16_224.mae", 224)
    assert isinstance(refused, Refusal)
    assert "augreg_in21k" in refused.reason


@pytest.mark.parametrize("initialization", initializations.names())
def test_the_same_weights_by_timms_own_name_are_used_and_described_alike(initialization: str) -> None:
    for backbone, weights in initializations.load(initialization).table.items():
        if weights.tag.startswith(("package:", "hf_hub:")):
            continue
        ours, timms = plan(initialization, backbone, 448), plan(initialization, weights.tag, 448)
        for said in ("tag", "gated", "pooling", "paper_pooling", "patch_size", "input_size", "note"):
            assert getattr(ours, said) == getattr(timms, said), (backbone, said)


def test_a_pickled_local_file_is_refused_with_the_command_that_converts_it() -> None:
    refusal = initializations.resolve("file:weights.pth", "vit_base", 224)
    assert isinstance(refusal, Refusal)
    assert "convert-checkpoint" in refusal.reason


def test_resolving_imports_neither_torch_nor_timm_and_is_quick() -> None:
    code = (
        "import sys; from trainers import initializations as i; i.resolve('imagenet', 'resnet50', 224);"
        "i.resolve('dinov3', 'vit_base', 512); assert not {'torch', 'timm'} & set(sys.modules)"
    )
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    assert time.monotonic() - started < 5


def test_the_rule_for_lite0_keys_is_the_published_map(shared_data: Path) -> None:
    check = json.loads((shared_data / "efficientnet_lite0_check" / "check.json").read_text())
    mapping = check["key_map_package_to_timm"]
    assert len(mapping) == 296
    assert {key: timm_key(key) for key in mapping} == mapping
