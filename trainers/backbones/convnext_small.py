"""ConvNeXt-S (Liu et al., arXiv 2201.03545)."""

from trainers.network_plan import Backbone

BACKBONE = Backbone(name="convnext_small", architecture="convnext_small", family="convnext", features=768)
