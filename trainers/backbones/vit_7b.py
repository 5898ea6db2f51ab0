"""ViT-7B/16 of DINOv3 (Siméoni et al., arXiv 2508.10104): 6.7 billion parameters, meant for frozen features."""

from trainers.network_plan import Backbone

BACKBONE = Backbone(
    name="vit_7b", architecture="vit_7b_patch16_dinov3", family="vit", patch_size=16, features=4096, frozen=True
)
