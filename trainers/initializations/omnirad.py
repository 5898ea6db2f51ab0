"""OmniRad: DINOv2-style self-supervision on radiological images of many kinds (Snarcy/OmniRad on the hub).

ViTs of patch 14 at 224 px with ImageNet mean and standard deviation. Licence cc-by-nc-4.0: not for commercial use.
"""

from trainers.network_plan import Initialization, Pretrained


def _vit(size: str) -> Pretrained:
    return Pretrained(
        f"hf_hub:Snarcy/OmniRad-{size}",
        licence="cc-by-nc-4.0",
        patch_size=14,
        architecture=f"vit_{size}_patch14_dinov2",
        note="cc-by-nc-4.0: research only; position embeddings are resampled to the true size",
    )


INITIALIZATION = Initialization(
    description="self-supervision on radiological images",
    table={"vit_base": _vit("base"), "vit_small": _vit("small")},
    holes={"convnext": "no such weights exist: OmniRad was published for ViT-S and ViT-B"},
)
