"""DINOv3 self-supervision on LVD-1689M (Siméoni et al., arXiv 2508.10104): ViTs of patch 16 and ConvNeXts.

The DINOv3 License (19 August 2025) allows use and derivatives, asks for acknowledgement in publications, and demands
that redistributed derivatives (fine-tuned checkpoints are such) carry the same agreement.
"""

from trainers.network_plan import Initialization, Pretrained

_LICENCE = "dinov3-license"
_NOTE = "facebook/dinov3-* is gated; timm's mirror carries the same licence. Fine-tuned weights are derivative works"


def _vit(size: str) -> Pretrained:
    return Pretrained(
        f"vit_{size}_patch16_dinov3.lvd1689m",
        licence=_LICENCE,
        gated=True,
        patch_size=16,
        paper_pooling="all_tokens",
        note=_NOTE,
    )


def _convnext(size: str) -> Pretrained:
    return Pretrained(f"convnext_{size}.dinov3_lvd1689m", licence=_LICENCE, gated=True, note=_NOTE)


INITIALIZATION = Initialization(
    description="DINOv3 on LVD-1689M",
    table={
        **{f"vit_{size}": _vit(size) for size in ("small", "base", "large", "7b")},
        **{f"convnext_{size}": _convnext(size) for size in ("tiny", "small", "base", "large")},
    },
    tag_pattern=r"^(?:dinov3_)?lvd1689m$",
    licence=_LICENCE,
    gated=True,
    paper_pooling="all_tokens",
    note=_NOTE,
    holes={"vit_tiny": "no such weights exist: DINOv3's smallest network is ViT-S"},
)
