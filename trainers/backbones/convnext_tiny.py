"""ConvNeXt-T (Liu et al., arXiv 2201.03545)."""

from trainers.network_plan import Backbone

BACKBONE = Backbone(name="convnext_tiny", architecture="convnext_tiny", family="convnext", features=768)
