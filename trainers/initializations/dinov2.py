"""DINOv2 self-supervision on LVD-142M (Oquab et al., arXiv 2304.07193): ViTs of patch 14, nothing else.

arXiv 2510.07191 calls its DINOv2 network ViT-B/16; its code loads facebook/dinov2-base, which has patch 14. Its head
reads the mean over all tokens.
"""

from trainers.network_plan import Initialization, Pretrained

_NOTE = "patch 14, native input 518 px; position embeddings are resampled to the true size"


def _vit(size: str) -> Pretrained:
    return Pretrained(
        f"vit_{size}_patch14_dinov2.lvd142m",
        licence="apache-2.0",
        patch_size=14,
        paper_pooling="all_tokens",
        note=_NOTE,
    )


INITIALIZATION = Initialization(
    description="DINOv2 on LVD-142M",
    table={f"vit_{size}": _vit(size) for size in ("small", "base", "large")},
    tag_pattern=r"^lvd142m$",
    licence="apache-2.0",
    paper_pooling="all_tokens",
    note=_NOTE,
    holes={
        "convnext": "no such weights exist: DINOv2 was published for ViTs only (dinov3 has ConvNeXt)",
        "vit_7b": "no such weights exist: DINOv2's largest network is ViT-g (1.1B); only dinov3 has 7B",
        "vit_tiny": "no such weights exist: DINOv2's smallest network is ViT-S",
    },
)
