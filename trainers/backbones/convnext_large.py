"""ConvNeXt-L (Liu et al., arXiv 2201.03545)."""

from trainers.network_plan import Backbone

BACKBONE = Backbone(name="convnext_large", architecture="convnext_large", family="convnext", features=1536)
