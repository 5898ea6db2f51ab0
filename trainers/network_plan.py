"""What is known about a network before it is built: names, sizes, licences. No torch here: `plan` reads it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Triple = tuple[float, float, float]
Family = Literal["vit", "convnext", "cnn"]
Pooling = Literal["family", "all_tokens", "patch_tokens", "class_token"]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
HALF: Triple = (0.5, 0.5, 0.5)


@dataclass(frozen=True, slots=True)
class Backbone:
    """One architecture under the name a study uses; `trainers/backbones/` has one file each.

    Attributes:
        architecture: timm's name, used when the initialization names no other (random weights, local files).
        family: decides input-size rule, pooling and which layers LoRA adapts; `cnn` is all that is neither of the other
            two, Swin included.
        patch_size: side of a patch in pixels; None where any size goes.
        smallest: smallest side in pixels that leaves at least one output position.
        mean: of the input channels, for weights that bring none of their own.
        std: as mean.
        features: width of the pooled feature; None where only timm knows it.
        frozen: whether only its frozen features are of use.
    """

    name: str
    architecture: str
    family: Family
    patch_size: int | None = None
    smallest: int = 32
    mean: Triple | None = IMAGENET_MEAN
    std: Triple | None = IMAGENET_STD
    features: int | None = None
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class Pretrained:
    """One entry of an initialization's table: the weights it has for one backbone.

    Attributes:
        tag: timm name with its tag, `hf_hub:owner/name`, or `package:NAME` for weights that a Python package carries.
        licence: of the weights.
        gated: whether the publisher's own copy asks for a login or a form.
        mean: of the input channels as at pretraining; None: the published configuration says it.
        std: as mean.
        patch_size: side of a patch in pixels, None for convolutional networks.
        pooling: the family's own, by name.
        paper_pooling: what "Resolution scaling governs DINOv3 transfer" fed to its head (arXiv 2510.07191, code).
        architecture: timm's architecture when the tag does not say it.
        note: what a reader of the results must know.
    """

    tag: str
    licence: str
    gated: bool = False
    mean: Triple | None = IMAGENET_MEAN
    std: Triple | None = IMAGENET_STD
    patch_size: int | None = None
    pooling: Pooling = "family"
    paper_pooling: Pooling = "family"
    architecture: str | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Initialization:
    """Which weights a name stands for, backbone by backbone.

    Attributes:
        table: by backbone name.
        tag_pattern: regular expression over timm's pretrained tags, for timm names that have no row in the table;
            None: the table is all there is.
        holes: reasons for backbones that cannot be had, by backbone name or family.
        licence: of weights found by the pattern.
        gated: as of `Pretrained`, of weights found by the pattern.
        paper_pooling: as of `Pretrained`, of ViTs whose weights the pattern finds; other families keep their own.
        note: as of `Pretrained`, of weights found by the pattern.
        trained: False where nothing is loaded.
    """

    description: str
    table: Mapping[str, Pretrained] = field(default_factory=dict)
    tag_pattern: str | None = None
    holes: Mapping[str, str] = field(default_factory=dict)
    licence: str = "see the model card"
    gated: bool = False
    paper_pooling: Pooling = "family"
    note: str = ""
    trained: bool = True


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """All that is decided before building: what to build, which weights, how large the input truly is.

    Attributes:
        input_size: side in pixels of what the network sees; differs from `resolution` where patches demand it.
        size_rule: the rule that led from `resolution` to `input_size`, in words.
    """

    initialization: str
    backbone: str
    architecture: str
    family: Family
    tag: str | None
    licence: str
    gated: bool
    mean: Triple | None
    std: Triple | None
    patch_size: int | None
    pooling: Pooling
    paper_pooling: Pooling
    resolution: int
    input_size: int
    size_rule: str
    note: str = ""

    def description(self) -> dict[str, Any]:
        """Return the plan as JSON-ready values, for the trial's record."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A cell that cannot exist, and why."""

    reason: str


LARGEST_SIZE_CHANGE = 0.05


def true_size(resolution: int, *, patch_size: int | None, smallest: int) -> tuple[int, str] | Refusal:
    """Return the input side that a network can take for an asked resolution, and the rule in words.

    The rule: the largest multiple of the patch size not above the resolution, as the code of arXiv 2510.07191 does
    for DINOv2 (512 px and patch 14 give 36 × 14 = 504); the image is resized to it, not cropped. A change of more
    than 5 % would compare different resolutions under one name and is refused, with the sizes that fit.

    Args:
        resolution: asked side, pixels.
        patch_size: pixels; None for networks that take any size.
        smallest: smallest possible side, pixels.
    """
    if resolution < smallest:
        return Refusal(f"{resolution} px is below the smallest input of this network, {smallest} px")
    if patch_size is None or resolution % patch_size == 0:
        return resolution, "as asked"
    below = resolution - resolution % patch_size
    if below < smallest or (resolution - below) / resolution > LARGEST_SIZE_CHANGE:
        return Refusal(
            f"{resolution} px is not a multiple of the patch size {patch_size} and the next size below, {below} px, "
            f"is more than {LARGEST_SIZE_CHANGE:.0%} away; use {below} or {below + patch_size} px"
        )
    return below, f"largest multiple of patch {patch_size} not above {resolution}: {below} px, images are resized to it"
