"""ViT-L/16 (Dosovitskiy et al., arXiv 2010.11929); an initialization may change the patch size (DINOv2: 14)."""

from trainers.network_plan import HALF, Backbone

BACKBONE = Backbone(
    name="vit_large",
    architecture="vit_large_patch16_224",
    family="vit",
    patch_size=16,
    mean=HALF,
    std=HALF,
    features=1024,
)
