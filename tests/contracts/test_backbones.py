"""Every backbone and initialization builds, at every resolution, with the published number of parameters."""

import pytest
import torch
from torch import nn

from trainers import adaptations, assembly, backbones, cells, initializations, timm_names
from trainers.network import Network
from trainers.network_plan import NetworkPlan, Refusal
from trainers.timm_networks import meta_network, parameter_count
from trainers.trial import TrialError

RESOLUTIONS = (224, 512, 1024)
PLANS = [
    pytest.param(plan, id=f"{plan.initialization}-{plan.backbone}-{plan.resolution}")
    for initialization in initializations.names()
    for backbone in backbones.names()
    for resolution in RESOLUTIONS
    if isinstance(plan := initializations.resolve(initialization, backbone, resolution), NetworkPlan)
]
# Millions, without a classifier: timm's model cards and the papers (DINOv3 arXiv 2508.10104 table 3, DINOv2 arXiv
# 2304.07193, ConvNeXt arXiv 2201.03545 with its classifier taken away).
PUBLISHED = {
    ("dinov3", "vit_small"): 21.6,
    ("dinov3", "vit_base"): 85.65,
    ("dinov3", "vit_large"): 303.1,
    ("dinov3", "vit_7b"): 6716,
    ("dinov3", "convnext_tiny"): 27.8,
    ("dinov3", "convnext_small"): 49.5,
    ("dinov3", "convnext_base"): 87.6,
    ("dinov3", "convnext_large"): 196.2,
    ("dinov2", "vit_small"): 22.06,
    ("dinov2", "vit_base"): 86.58,
    ("dinov2", "vit_large"): 304.4,
    ("imagenet", "vit_base"): 85.8,
    ("imagenet", "convnext_base"): 87.6,
    ("imagenet", "tf_efficientnet_lite0"): 3.37,
}


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
def test_builds_on_the_meta_device_and_gives_one_feature_vector(plan: NetworkPlan) -> None:
    encoder = meta_network(plan)
    shape = backbones.find(plan.backbone)
    assert encoder.width == shape.features
    for pooling in {"family", plan.paper_pooling}:
        with torch.no_grad(), torch.device("meta"):
            network = Network(encoder, nn.Linear(encoder.width, 3), plan=plan, normalise=True, pooling=pooling)
            outputs = network(torch.zeros(2, 1, plan.resolution, plan.resolution))
        assert outputs.shape == (2, 3)


@pytest.mark.parametrize(("initialization", "backbone"), PUBLISHED)
def test_has_the_published_number_of_parameters(initialization: str, backbone: str) -> None:
    # DINOv2's position embeddings are counted at its native 518 px.
    plan = initializations.resolve(initialization, backbone, 518 if initialization == "dinov2" else 224)
    assert isinstance(plan, NetworkPlan)
    assert parameter_count(meta_network(plan)) / 1e6 == pytest.approx(PUBLISHED[initialization, backbone], rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("adaptation", adaptations.names())
@pytest.mark.parametrize(
    "plan",
    [p for p in PLANS if p.values[0].resolution == 224 and p.values[0].backbone in ("vit_base", "convnext_base")],
)
def test_every_adaptation_trains_its_part_of_every_study_network(plan: NetworkPlan, adaptation: str) -> None:
    way = adaptations.load(adaptation)
    assert way.refusal(plan.family) is None
    with torch.device("meta"):
        encoder = meta_network(plan)
        head = way.head(nn.Linear(encoder.width, 5), width=encoder.width, outputs=5)
        network = Network(encoder, head, plan=plan, normalise=True, pooling="family")
        way.adapt(network)
    whole = parameter_count(network)
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    if adaptation == "finetune":
        assert trained == whole
    elif adaptation == "lora":
        in_head = parameter_count(network.head)
        # ViT-B: 12 blocks × (query, value) × 16 × (768 + 768). ConvNeXt-B: 3, 3, 27 and 3 blocks of width
        # C = 128, 256, 512 and 1024; two layers each × 16 × (C + 4 C).
        vit = 12 * 2 * 16 * (768 + 768)
        convnext = sum(blocks * 2 * 16 * 5 * width for blocks, width in ((3, 128), (3, 256), (27, 512), (3, 1024)))
        assert trained - in_head == (vit if plan.family == "vit" else convnext)
    else:
        assert trained == parameter_count(network.head)


def test_lora_refuses_families_without_agreed_layers() -> None:
    for backbone in ("tf_efficientnet_lite0", "swin_tiny_patch4_window7_224"):
        refusal = cells.resolve("random", backbone, 224, "lora")
        assert isinstance(refusal, Refusal)
        assert "finetune" in refusal.reason


@pytest.mark.parametrize(
    ("name", "side"),
    [("test_vit", 64), ("test_convnext2", 64), ("test_vit4", 64), ("eva02_tiny_patch14_224", 56)],
)
def test_lora_starts_as_the_pretrained_network_and_every_adapter_learns(name: str, side: int) -> None:
    plan = initializations.resolve("random", name, side)
    assert isinstance(plan, NetworkPlan)
    encoder = backbones.build(plan)
    network = Network(encoder, nn.Linear(encoder.width, 2), plan=plan, normalise=True, pooling="family").eval()
    images = torch.rand(2, 1, side, side, generator=torch.Generator().manual_seed(0))
    before = network(images)
    adaptations.load("lora").adapt(network)
    after = network.eval()(images)
    assert torch.allclose(after, before, atol=1e-6)
    after.square().sum().backward()
    adapters = {key: value.grad for key, value in network.named_parameters() if "lora_B" in key}
    assert adapters
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in adapters.values())


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("test_vit", {"qkv.query", "qkv.value"}),
        ("eva02_base_patch14_224", {"q_proj", "v_proj"}),
        ("convnext_tiny", {"mlp.fc1", "mlp.fc2"}),
    ],
)
def test_lora_adapts_the_papers_layers_with_the_papers_constants(name: str, targets: set[str]) -> None:
    """As arXiv 2510.07191's code (lora_wrappers.py): rank 16, α 32, dropout 0.05, no biases."""
    plan = initializations.resolve("random", name, 224)
    assert isinstance(plan, NetworkPlan)
    with torch.device("meta"):
        encoder = meta_network(plan)
        network = Network(encoder, nn.Linear(encoder.width, 2), plan=plan, normalise=True, pooling="family")
        adaptations.load("lora").adapt(network)
    adapted = {key: layer for key, layer in network.named_modules() if hasattr(layer, "lora_A")}
    assert {key.partition(".attn.")[2] or ".".join(key.split(".")[-2:]) for key in adapted} == targets
    for layer in adapted.values():
        assert (layer.r["default"], layer.lora_alpha["default"], layer.scaling["default"]) == (16, 32, 2.0)
        assert layer.lora_dropout["default"].p == 0.05
    trained = {key for key, parameter in network.named_parameters() if parameter.requires_grad}
    assert {key for key in trained if "lora_" not in key} == {"head.weight", "head.bias"}


def test_the_mlp_on_frozen_features_is_the_papers() -> None:
    """As arXiv 2510.07191's code (dinonet.py): LayerNorm → 512 → GELU → LayerNorm → dropout 0.3 → outputs."""
    head = adaptations.load("probe_mlp").head(nn.Linear(8, 3), width=8, outputs=3)
    assert [str(layer) for layer in head] == [
        "LayerNorm((8,), eps=1e-05, elementwise_affine=True, bias=True)",
        "Linear(in_features=8, out_features=512, bias=True)",
        "GELU(approximate='none')",
        "LayerNorm((512,), eps=1e-05, elementwise_affine=True, bias=True)",
        "Dropout(p=0.3, inplace=False)",
        "Linear(in_features=512, out_features=3, bias=True)",
    ]


@pytest.mark.parametrize("pooling", ["all_tokens", "patch_tokens", "class_token"])
def test_poolings_by_name(pooling: str) -> None:
    plan = initializations.resolve("random", "vit_tiny", 32)
    assert isinstance(plan, NetworkPlan)
    encoder = backbones.build(plan).eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = encoder.body.forward_features(images)  # class token, then four patches
    expected = {"all_tokens": tokens.mean(1), "patch_tokens": tokens[:, 1:].mean(1), "class_token": tokens[:, 0]}
    assert torch.equal(encoder(images, pooling=pooling), expected[pooling])
    assert torch.equal(encoder(images), expected["class_token"])  # ViT's own


@pytest.mark.parametrize("name", ["test_vit2", "eva02_tiny_patch14_224", "beit_base_patch16_224", "hiera_tiny_224"])
def test_poolings_by_name_have_the_norm_that_follows_the_mean(name: str) -> None:
    """These average their patch tokens and lay the last norm over the mean: by name it is the same feature."""
    plan = initializations.resolve("random", name, 224)
    assert isinstance(plan, NetworkPlan)
    encoder = backbones.build(plan).eval()
    images = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(encoder(images, pooling="patch_tokens"), encoder(images), atol=1e-5)
        everything = encoder(images, pooling="all_tokens")
    assert everything.var(correction=0) == pytest.approx(1, abs=1e-2)  # a layer norm's, its weights being new


def test_a_class_token_is_not_taken_from_where_there_is_none() -> None:
    plan = initializations.resolve("random", "test_vit3", 32)  # one register, whose token is the first
    assert isinstance(plan, NetworkPlan)
    encoder = backbones.build(plan).eval()
    assert encoder.prefix_tokens == 1
    with pytest.raises(TrialError, match="pooling: class_token: this network has none"):
        encoder(torch.zeros(1, 3, 32, 32), pooling="class_token")


def test_the_paper_pools_dino_tokens_and_leaves_others_to_their_family() -> None:
    for initialization, backbone, expected in (
        ("dinov3", "vit_base", "all_tokens"),
        ("dinov2", "vit_base", "all_tokens"),
        ("imagenet", "vit_base", "family"),
        ("dinov3", "convnext_base", "family"),
        # The same weights by timm's own names.
        ("dinov3", "vit_base_patch16_dinov3", "all_tokens"),
        ("dinov2", "vit_base_patch14_reg4_dinov2.lvd142m", "all_tokens"),
        ("imagenet", "vit_base_patch16_224", "family"),
        ("dinov3", "convnext_base.dinov3_lvd1689m", "family"),
    ):
        plan = initializations.resolve(initialization, backbone, 224)
        assert isinstance(plan, NetworkPlan)
        assert assembly.pooling_of(plan, "paper") == expected


@pytest.mark.parametrize("name", ["flexivit_small", "cait_xxs24_224", "mixer_s16_224", "gmlp_ti16_224"])
def test_patches_that_a_name_does_not_tell_are_known_before_anything_is_built(name: str) -> None:
    refusal = initializations.resolve("random", name, 236)
    assert isinstance(refusal, Refusal)
    assert refusal.reason.endswith("more than 5% away; use 224 or 240 px")
    plan = initializations.resolve("random", name, 230)  # 14 × 16 = 224 ≤ 230, less than 5 % away
    assert isinstance(plan, NetworkPlan)
    assert (plan.input_size, plan.patch_size) == (224, 16)


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("pit_ti_224", 236, "leave out 4 px at the right and the lower edge; use 232 px or 240 px"),  # 16 + 27 × 8
        ("swinv2_tiny_window8_256", 230, "leave out 2 px at the right and the lower edge; use 228 px or 232 px"),
        ("levit_128s", 236, "196.*225.*; use 224 px or 240 px"),  # 14² and 15² positions
    ],
)
def test_a_size_that_a_network_would_crop_or_break_at_is_refused_with_those_that_fit(
    name: str, asked: int, message: str
) -> None:
    plan = initializations.resolve("random", name, asked)
    assert isinstance(plan, NetworkPlan)
    with pytest.raises(TrialError, match=f"^{name} cannot read {asked} px: .*{message}$"):
        backbones.build(plan)


@pytest.mark.parametrize(("name", "side"), [("volo_d1_224", 236), ("pit_ti_224", 232), ("visformer_tiny", 224)])
def test_what_is_read_is_read_to_its_edges(name: str, side: int) -> None:
    plan = initializations.resolve("random", name, side)
    assert isinstance(plan, NetworkPlan)
    images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).requires_grad_()
    backbones.build(plan).eval()(images).square().sum().backward()
    assert images.grad is not None
    assert images.grad[0, :, -1].abs().max() > 0 and images.grad[0, :, :, -1].abs().max() > 0


def test_trying_a_size_draws_no_numbers() -> None:
    plan = initializations.resolve("random", "visformer_tiny", 224)
    assert isinstance(plan, NetworkPlan)
    import timm  # after `trainers.timm_networks`, which makes it importable everywhere

    torch.manual_seed(0)
    tried = backbones.build(plan).body.state_dict()
    torch.manual_seed(0)
    plain = timm.create_model("visformer_tiny", num_classes=0).state_dict()
    assert all(torch.equal(tried[name], value) for name, value in plain.items())


def test_one_grey_channel_is_three_equal_ones() -> None:
    plan = initializations.resolve("random", "test_convnext2", 64)
    assert isinstance(plan, NetworkPlan)
    encoder = backbones.build(plan)
    network = Network(encoder, nn.Identity(), plan=plan, normalise=True, pooling="family")
    grey = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor(encoder.mean).view(3, 1, 1), torch.tensor(encoder.std).view(3, 1, 1)
    assert torch.equal(network.prepare(grey), (grey.float().expand(-1, 3, -1, -1) / 255 - mean) / std)


def test_the_catalogue_read_from_source_is_what_timm_lists() -> None:
    import timm

    catalogue = timm_names.catalogue()
    assert set(timm.list_models()) - set(catalogue) == set()
    listed = set(timm.list_pretrained())
    ours = {f"{name}.{tag}" for name, tags in catalogue.items() for tag in tags}
    missed = listed - ours
    assert len(missed) <= 0.03 * len(listed)
    assert not [name for name in missed if "in1k" in name or "in21k" in name or "lvd" in name]
