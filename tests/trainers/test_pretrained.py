import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from trainers import assembly, backbones, cells, initializations, large_weights, offload, pretrained
from trainers.commands import main
from trainers.network_plan import NetworkPlan, Refusal
from trainers.timm_networks import build, load_exactly
from trainers.timm_sizes import create
from trainers.trial import TrialConfig, TrialError
from trainers.weights_folder import cells_in, fetch


def plan(initialization: str, backbone: str, resolution: int = 64) -> NetworkPlan:
    found = initializations.resolve(initialization, backbone, resolution)
    assert isinstance(found, NetworkPlan), found
    return found


def file_of(tmp_path: Path, backbone: str, resolution: int = 64) -> Path:
    """Write a network's random weights, with a classifier, as a published checkpoint would have them."""
    torch.manual_seed(0)
    state = create(plan("random", backbone, resolution)).state_dict()
    path = tmp_path / f"{backbone}.safetensors"
    classifier = "head.fc" if "convnext" in backbone else "head"
    save_file({**state, f"{classifier}.weight": torch.zeros(10, 4), f"{classifier}.bias": torch.zeros(10)}, path)
    return path


@pytest.mark.parametrize("backbone", ["test_convnext2", "test_vit"])
def test_a_local_file_loads_exactly_and_only_its_classifier_is_left(tmp_path: Path, backbone: str) -> None:
    path = file_of(tmp_path, backbone)
    network = backbones.build(plan(f"file:{path}", backbone))
    state = load_file(path)
    assert all(torch.equal(value, state[name]) for name, value in network.body.state_dict().items())
    assert network.source["sha256"] == pretrained.source(path)["sha256"]


def test_position_embeddings_are_resampled_to_the_true_size(tmp_path: Path) -> None:
    path = file_of(tmp_path, "test_vit", 160)
    network = backbones.build(plan(f"file:{path}", "test_vit", 96))
    assert network(torch.zeros(1, 3, 96, 96)).shape == (1, network.width)
    assert network.body.pos_embed.shape[1] == 6 * 6 + 1


def test_weights_of_another_network_name_what_is_left_on_both_sides(tmp_path: Path) -> None:
    body = create(plan("random", "test_convnext2"))
    state = body.state_dict()
    state["stages.9.extra"] = torch.zeros(1)
    missing = state.pop("stem.0.weight")
    with pytest.raises(TrialError) as raised:
        load_exactly(body, state, name="file.safetensors")
    assert "not in the network (1): stages.9.extra" in str(raised.value)
    assert "not in the file (1): stem.0.weight" in str(raised.value)
    state["stem.0.weight"] = missing[:, :1]
    del state["stages.9.extra"]
    with pytest.raises(TrialError, match=r"Other shape \(1\): stem.0.weight"):
        load_exactly(body, state, name="file.safetensors")


def test_a_prefixed_checkpoint_is_an_error_that_proposes_the_conversion(tmp_path: Path) -> None:
    body = create(plan("random", "test_vit"))
    state = {f"teacher.{name}": value for name, value in body.state_dict().items()}
    with pytest.raises(TrialError, match=r"strip it with .*--strip-prefix teacher\."):
        load_exactly(body, state, name="dino.safetensors")
    prefixed, plain = tmp_path / "prefixed.safetensors", tmp_path / "plain.safetensors"
    save_file(state, prefixed)
    main(["convert-checkpoint", str(prefixed), "--strip-prefix", "teacher.", "--to", str(plain)])
    load_exactly(body, load_file(plain), name="plain")


def test_pickled_checkpoints_are_converted_once_and_never_run(tmp_path: Path, capsys) -> None:
    body = create(plan("random", "test_vit"))
    torch.save({"model": body.state_dict(), "epoch": 3}, tmp_path / "w.pth")
    main(["convert-checkpoint", str(tmp_path / "w.pth"), "--to", str(tmp_path / "w.safetensors")])
    assert set(load_file(tmp_path / "w.safetensors")) == set(body.state_dict())
    torch.save({"model": Path("runs code when loaded")}, tmp_path / "bad.pth")
    with pytest.raises(SystemExit) as stopped:
        main(["convert-checkpoint", str(tmp_path / "bad.pth"), "--to", str(tmp_path / "bad.safetensors")])
    assert stopped.value.code == 2
    assert "without running code" in capsys.readouterr().err
    assert not (tmp_path / "bad.safetensors").exists()


@pytest.mark.parametrize(
    ("content", "key", "message"),
    [
        (torch.zeros(3), [], "w.pth is no state dict (tensors by name) but of type Tensor"),
        ([1, 2], [], "w.pth is no state dict (tensors by name) but of type list"),
        ({"model": [1]}, [], "w.pth: entry 'model' is no state dict (tensors by name) but of type list"),
        ({"epoch": 3}, ["--key", "epoch"], "w.pth: entry 'epoch' is no state dict (tensors by name) but of type int"),
        ({"epoch": 3}, ["--key", "teacher"], "w.pth: no entry 'teacher'; entries: epoch"),
        ({"epoch": 3}, [], "w.pth: no tensors under these names; its entries: epoch"),
    ],
)
def test_what_is_no_state_dict_is_told_by_what_it_is(tmp_path: Path, capsys, content, key, message: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(SystemExit):
        main(["convert-checkpoint", str(tmp_path / "w.pth"), "--to", str(tmp_path / "w.safetensors"), *key])
    assert capsys.readouterr().err == f"error: {message}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["w.pth"]


def test_a_plan_or_list_of_weights_that_is_damaged_is_named(tmp_path: Path, capsys) -> None:
    (tmp_path / "plan.json").write_text('{"initialization": "dinov3"')
    (tmp_path / "manifest.json").write_text("nonsense")
    for given, message in (
        (["--plan", str(tmp_path / "plan.json")], "plan.json: no JSON (Expecting ',' delimiter"),
        (["--cell", "random:vit_base"], "manifest.json is no list of weights; take it away"),
    ):
        with pytest.raises(SystemExit):
            main(["fetch-weights", *given, "--to", str(tmp_path)])
        assert message in capsys.readouterr().err


def test_damaged_safetensors_are_not_converted(tmp_path: Path, capsys) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"12345678" * 10)
    with pytest.raises(SystemExit):
        main(["convert-checkpoint", str(tmp_path / "w.safetensors"), "--to", str(tmp_path / "to.safetensors")])
    assert "error: w.safetensors: not a readable safetensors file" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[1]", "{", '{"pretrained_cfg": [1]}', "\xff"])
def test_a_configuration_beside_weights_that_is_none_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(TrialError, match=r"config\.json: no configuration of weights .*repair it, or take it away"):
        pretrained.published_configuration(tmp_path / "w.safetensors")
    (tmp_path / "config.json").write_text('{"pretrained_cfg": null}')
    assert pretrained.published_configuration(tmp_path / "w.safetensors") == {}


def test_offline_the_error_comes_at_once_and_says_how_to_provide_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://192.0.2.1")  # TEST-NET-1: never answers
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    asked = plan("dinov3", "convnext_tiny")
    started = time.monotonic()
    with pytest.raises(TrialError, match=r"fetch-weights --cell dinov3:convnext_tiny --to DIR.*--weights DIR"):
        pretrained.locate(asked, weights=None)
    assert time.monotonic() - started < 2


def test_a_weights_folder_is_searched_by_tag_and_lists_what_it_holds(tmp_path: Path) -> None:
    asked = plan("dinov3", "convnext_tiny")
    (tmp_path / "other.safetensors").touch()
    with pytest.raises(TrialError, match=r"the folder holds other.safetensors"):
        pretrained.locate(asked, weights=tmp_path)
    for place in ("convnext_tiny.dinov3_lvd1689m.safetensors", "timm/convnext_tiny.dinov3_lvd1689m/model.safetensors"):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        assert pretrained.locate(asked, weights=tmp_path) == path
        path.unlink()


def test_what_was_fetched_is_not_fetched_again_and_has_its_configuration_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hub").mkdir()
    for name, content in {"model.safetensors": "weights", "config.json": "{}"}.items():
        (tmp_path / "hub" / name).write_text(content)
    located = []

    def locate(asked: NetworkPlan, *, weights: Path | None) -> Path:
        located.append(asked.tag)
        return tmp_path / "hub" / "model.safetensors"

    monkeypatch.setattr(pretrained, "locate", locate)
    for _ in range(2):
        (fetched,) = fetch([("dinov3", "convnext_tiny")], to=tmp_path / "to", tell=lambda _: None)
    assert located == ["convnext_tiny.dinov3_lvd1689m"]
    assert (fetched.read_text(), fetched.with_suffix(".json").read_text()) == ("weights", "{}")
    listed = json.loads((tmp_path / "to" / "manifest.json").read_text())[fetched.name]
    assert listed["sha256"] == hashlib.sha256(b"weights").hexdigest() and listed["tag"] == located[0]


def test_cells_are_found_anywhere_in_a_plan_but_not_among_the_refused() -> None:
    studied = {
        "trials": [{"config": {"initialization": "dinov3", "backbone": "vit_base"}}] * 2,
        "refused": [{"initialization": "dinov2", "backbone": "convnext_base", "reason": "no such weights exist"}],
    }
    assert cells_in(studied) == [("dinov3", "vit_base")]
    axes = {"axes": {"initialization": ["imagenet", "dinov2"], "backbone": ["vit_base", "convnext_base"]}}
    assert cells_in(axes) == [("imagenet", "vit_base"), ("imagenet", "convnext_base"), ("dinov2", "vit_base")]
    assert cells_in([{"initialization": 5, "backbone": "vit_base"}, None, "vit_base"]) == []


def test_lite0_weights_give_the_published_predictions(shared_data: Path) -> None:
    from sklearn.datasets import load_sample_image

    expected = json.loads((shared_data / "efficientnet_lite0_check" / "check.json").read_text())["expected_top5"]
    asked = plan("imagenet", "tf_efficientnet_lite0", 224)
    network, state = build(asked).eval(), pretrained.read(pretrained.locate(asked, weights=None))
    assert sum(p.numel() for p in network.parameters()) + 1280 * 1000 + 1000 == 4_652_008
    for name in ("china.jpg", "flower.jpg"):
        picture = Image.fromarray(load_sample_image(name))
        scale = 256 / min(picture.size)
        picture = picture.resize([round(side * scale) for side in picture.size], Image.Resampling.BICUBIC)
        left, top = ((side - 224) // 2 for side in picture.size)
        pixels = np.asarray(picture.crop((left, top, left + 224, top + 224)), dtype=np.float32) / 255
        images = (torch.from_numpy(pixels).permute(2, 0, 1)[None] - 0.5) / 0.5
        with torch.no_grad():
            logits = network(images) @ state["classifier.weight"].T + state["classifier.bias"]
        top5 = logits.softmax(1)[0].topk(5)
        published = expected[f'sklearn.datasets.load_sample_image("{name}")']
        assert int(top5.indices[0]) == published[0]["class_index"]
        assert float(top5.values[0]) == pytest.approx(published[0]["prob"], abs=0.02)


CPU, CPU0, META = torch.device("cpu"), torch.device("cpu", 0), torch.device("meta")


def test_blocks_stay_together_spread_out_or_visit() -> None:
    gpus = [torch.device("cuda", 0), torch.device("cuda", 1)]
    together = offload.place_blocks([10, 10, 10], gpus, [40, 40], rest=35)
    assert together.trivial
    spread = offload.place_blocks([10, 10, 10], gpus, [26, 26], rest=35)  # 26 − 5 outside: two blocks, then one
    assert spread.homes == (gpus[0], gpus[0], gpus[1])
    assert offload.place_blocks([10, 10, 10], gpus, [24, 26], rest=35).homes == (gpus[0], gpus[1], gpus[1])
    assert offload.place_blocks([10, 10, 10], gpus, [35, 40], rest=35).trivial
    visiting = offload.place_blocks([10, 10, 10], gpus, [16, 8], rest=35)
    assert visiting.homes == (CPU,) * 3 and visiting.workplaces == (gpus[0],) * 3


def test_a_spread_network_gives_the_same_features() -> None:
    """Blocks of a ViT dealt out over "devices" (the CPU under its two names), with their hooks in place."""
    encoder = backbones.build(plan("random", "test_vit")).eval()
    blocks = list(encoder.body.blocks)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = encoder(images)
    offload.apply(encoder, blocks, offload.Placement((CPU,) * len(blocks), (CPU0,) * len(blocks)), first=CPU)
    assert all(block._forward_pre_hooks and block._forward_hooks for block in blocks)
    assert torch.equal(encoder(images), before)


def test_a_visiting_block_is_there_only_while_it_computes() -> None:
    """The meta device stands in for a GPU."""
    block = torch.nn.Linear(2, 2)
    places, at_home = [], block.weight
    block.register_forward_hook(lambda module, *_: places.append(module.weight.device.type))
    offload.apply(torch.nn.Sequential(block), [block], offload.Placement((CPU,), (META,)), first=META)
    output = block(torch.zeros(1, 2))
    assert output.device.type == "meta" and places == ["meta"]
    assert block.weight is at_home


@pytest.mark.parametrize("backbone", ["test_vit", "vit_small_patch16_dinov3"])
def test_large_encoders_take_over_their_file_in_bfloat16(
    tmp_path: Path, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = plan("random", backbone)
    torch.manual_seed(0)
    reference = create(asked).eval()
    path = tmp_path / "w.safetensors"
    save_file(reference.state_dict(), path)
    monkeypatch.setattr(large_weights, "LARGE", 1000)
    network = build(plan(f"file:{path}", backbone)).eval()
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    assert not any(parameter.requires_grad for parameter in network.parameters())
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = network(images.bfloat16()).float()
        expected = reference.bfloat16().forward_head(reference.forward_features(images.bfloat16()), pre_logits=True)
    assert torch.allclose(features, expected.float(), atol=2e-2)


@pytest.mark.parametrize("adaptation", ["finetune", "lora"])
def test_an_encoder_that_is_loaded_frozen_is_not_said_to_be_trained(
    tmp_path: Path, trial: Callable[..., TrialConfig], adaptation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file_of(tmp_path, "test_vit")
    monkeypatch.setattr(large_weights, "LARGE", 1000)
    config = trial(initialization=f"file:{path}", backbone="test_vit", adaptation=adaptation)
    with pytest.raises(TrialError, match=f"{adaptation}: .* would not learn; choose the adaptation probe"):
        assembly.build_network(config, ["a"], weights=None)
    refused = cells.resolve("dinov3", "vit_7b", 224, adaptation)
    assert isinstance(refused, Refusal)
    assert "only its frozen features" in refused.reason
    assert isinstance(cells.resolve("dinov3", "vit_7b", 224, "probe"), NetworkPlan)


def test_a_local_file_says_itself_how_its_images_were_normalised(tmp_path: Path) -> None:
    path = file_of(tmp_path, "vit_tiny")
    assert backbones.build(plan(f"file:{path}", "vit_tiny")).mean == (0.5, 0.5, 0.5)
    told = {"pretrained_cfg": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}
    path.with_suffix(".json").write_text(json.dumps(told))
    network = backbones.build(plan(f"file:{path}", "vit_tiny"))
    assert (network.mean, network.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_patches_of_another_size_are_another_network(tmp_path: Path) -> None:
    body = create(plan("random", "vit_tiny"))
    state = body.state_dict()
    state["patch_embed.proj.weight"] = torch.zeros(192, 3, 14, 14)
    with pytest.raises(TrialError, match="its patches have 14 px, those of the architecture 16"):
        load_exactly(body, state, name="file.safetensors")


def test_a_study_file_says_what_to_fetch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from trainers.commands import main

    study = Path(__file__).parents[2] / "search" / "studies" / "demo.yaml"
    main(["fetch-weights", str(study), "--to", str(tmp_path / "weights")])
    assert "imagenet × tf_efficientnet_lite0: nothing to fetch" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["fetch-weights", str(tmp_path / "none.yaml"), "--to", str(tmp_path)])
    assert "none.yaml: no such study file" in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "fails", "answers"), [(0.0, False, True), (1.5, False, True), (0.0, True, False)])
def test_a_hub_may_take_its_time_and_none_is_known_at_once(
    monkeypatch: pytest.MonkeyPatch, seconds: float, fails: bool, answers: bool
) -> None:
    def head(*_: object, **__: object) -> None:
        time.sleep(seconds)
        if fails:
            raise OSError("no network")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils._http.get_session", lambda: SimpleNamespace(head=head))
    monkeypatch.setattr(pretrained, "HUB_ANSWERS_WITHIN", 30.0 if answers else 3600.0)
    assert pretrained.hub_answers() is answers
