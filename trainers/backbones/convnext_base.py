"""ConvNeXt-B (Liu et al., arXiv 2201.03545)."""

from trainers.network_plan import Backbone

BACKBONE = Backbone(name="convnext_base", architecture="convnext_base", family="convnext", features=1024)
