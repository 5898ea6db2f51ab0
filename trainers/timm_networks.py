"""Builds a backbone of timm and loads its weights, all of them or none; timm is imported here and in timm_sizes.py."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from datasets.torchvision_operators import declare_missing
from trainers import large_weights, pretrained
from trainers.network_plan import HALF, IMAGENET_MEAN, IMAGENET_STD, NetworkPlan, Triple
from trainers.timm_sizes import create
from trainers.trial import TrialError

declare_missing()  # timm imports torchvision, whose import fails where its operators do not load

import timm  # noqa: E402
from timm.models import group_parameters  # noqa: E402
from timm.optim import param_groups_layer_decay  # noqa: E402

PATCHES = (
    "patch_embed.proj.weight",
    "embeddings.patch_embeddings.weight",
    "embeddings.patch_embeddings.projection.weight",
)
"""The patch embedding by timm's name and those of publishers, (width, 3, side, side)."""


class TimmNetwork(nn.Module):
    """A timm backbone without classifier, and how it is fed.

    Attributes:
        body: timm's network; (B, 3, H, W) normalised float to tokens (B, N, C) or maps (B, C, H, W).
        mean: of the input channels.
        std: as mean.
        width: of the pooled feature.
        prefix_tokens: class and register tokens before the patches; 0 without tokens.
        has_class_token: whether the first of them is the class's.
        source: of the weights, for the record.
    """

    def __init__(self, body: nn.Module, *, mean: Triple, std: Triple, source: dict[str, Any]):
        super().__init__()
        self.body = body
        self.mean = mean
        self.std = std
        self.width = int(getattr(body, "head_hidden_size", None) or body.num_features)  # type: ignore[arg-type]
        self.prefix_tokens = int(getattr(body, "num_prefix_tokens", 0) or 0)
        self.has_class_token = getattr(body, "cls_token", None) is not None
        self.source = source

    def forward(self, images: Tensor, *, pooling: str = "family") -> Tensor:
        """Return pooled features (B, width).

        Args:
            images: (B, 3, H, W), normalised.
            pooling: family (timm's default for the architecture), all_tokens (mean of class, register and patch
                tokens, as arXiv 2510.07191), patch_tokens, or class_token; all with the last norm where timm has
                it: of tokens before their mean, or, in BEiT, EVA-02 and others, of the pooled feature.

        Raises:
            TrialError: kind "configuration", there is no class token.
        """
        maps: Tensor = self.body.forward_features(images)  # type: ignore[operator]
        if pooling == "family" or maps.ndim != 3:
            pooled: Tensor = self.body.forward_head(maps, pre_logits=True)  # type: ignore[operator]
            return pooled
        normed: Tensor = _norm_of_pooled(self.body)(self._pooled(maps, pooling))
        return normed

    def _pooled(self, tokens: Tensor, pooling: str) -> Tensor:
        if pooling == "all_tokens":
            return tokens.mean(dim=1)
        if pooling == "patch_tokens":
            return tokens[:, self.prefix_tokens :].mean(dim=1)
        if not self.has_class_token:  # but a patch or a register in its place
            raise TrialError("configuration", "pooling: class_token: this network has none; choose another pooling")
        return tokens[:, 0]


def _norm_of_pooled(body: nn.Module) -> nn.Module:
    """Return the norm that timm puts over the pooled feature (in Hiera it is a part of the head); else nothing."""
    found = getattr(body, "fc_norm", None) or getattr(getattr(body, "head", None), "norm", None)
    return found if isinstance(found, nn.Module) else nn.Identity()


def build(plan: NetworkPlan, *, weights: Path | None = None, load: bool = True) -> TimmNetwork:
    """Build the backbone of a plan.

    Args:
        plan: from `trainers.initializations.resolve`.
        weights: file or folder of pretrained weights; None asks the hub.
        load: False builds the shape only (a checkpoint follows).

    Raises:
        TrialError: kind "configuration" if timm refuses the architecture or size, "weights" if they do not fit.
    """
    if not load or plan.tag is None:
        body = create(plan)
        mean, std = _normalisation(plan, body, {})
        return TimmNetwork(body, mean=mean, std=std, source={})
    path = pretrained.locate(plan, weights=weights)
    body = _loaded_large(plan, path) if large_weights.is_large(path) else _loaded(plan, path)
    mean, std = _normalisation(plan, body, pretrained.published_configuration(path))
    return TimmNetwork(body, mean=mean, std=std, source=pretrained.source(path))


def _loaded(plan: NetworkPlan, path: Path) -> nn.Module:
    body = create(plan)
    load_exactly(body, pretrained.read(path), name=plan.tag or "")
    return body


def _loaded_large(plan: NetworkPlan, path: Path) -> nn.Module:
    """Build on the meta device and take over the file's tensors in bfloat16; the network is frozen."""
    with torch.device("meta"):
        body = create(plan)
    filtered = fitting(body, large_weights.read_bfloat16(path), name=plan.tag or "")
    large_weights.take_over(body, filtered)
    return body


def load_exactly(body: nn.Module, state: Mapping[str, Tensor], *, name: str) -> None:
    """Load pretrained parameters; only a classifier may be left over.

    timm's own filter renames publishers' keys and resamples position embeddings to the input size. What timm would
    then drop with a warning is an error here.

    Raises:
        TrialError: kind "weights", naming every left-over parameter of both sides and every shape that differs.
    """
    body.load_state_dict(fitting(body, state, name=name), strict=True)


def fitting(body: nn.Module, state: Mapping[str, Tensor], *, name: str) -> dict[str, Tensor]:
    """Return pretrained parameters by the network's names, checked to be all of them and nothing else.

    Raises:
        TrialError: as `load_exactly`.
    """
    _check_patches(body, state, name=name)
    filtered = _filtered(body, dict(state), name=name)
    classifier = _classifier_names(body)
    filtered = {key: value for key, value in filtered.items() if not key.startswith(classifier)}
    wanted = body.state_dict()
    shapes = [
        f"{key} {tuple(value.shape)} for {tuple(wanted[key].shape)}"
        for key, value in filtered.items()
        if key in wanted and value.shape != wanted[key].shape
    ]
    missing = sorted(wanted.keys() - filtered.keys())
    left = sorted(filtered.keys() - wanted.keys())
    if missing or left or shapes:
        raise TrialError("weights", _misfit(name, missing, left, shapes))
    return filtered


def layer_groups(body: nn.Module, *, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Return parameter groups with `lr_scale` falling by `layer_decay` per layer from the output to the input.

    Args:
        body: timm's network without its classifier.
        weight_decay: of matrices; vectors have none.
        layer_decay: factor from layer to layer, 1 at the classifier.
    """
    groups: list[dict[str, Any]] = param_groups_layer_decay(body, weight_decay=weight_decay, layer_decay=layer_decay)
    below = layer_decay if _ends_below_its_classifier(body) else 1.0
    return [{**group, "lr_scale": group["lr_scale"] * below} for group in groups]


def _ends_below_its_classifier(body: Any) -> bool:
    """Whether the classifier that was taken away would be a layer of its own: of some bodies it shares the last one."""
    classifier = body.default_cfg.get("classifier") or "head"
    name = f"{classifier if isinstance(classifier, str) else classifier[0]}.weight"
    if not hasattr(body, "group_matcher"):
        return False
    whole = SimpleNamespace(named_parameters=lambda: iter([*body.named_parameters(), (name, None)]))
    layers = group_parameters(whole, body.group_matcher(coarse=False), reverse=True)
    top = layers.pop(name)
    return bool(max(layers.values()) < top)


def _filtered(body: nn.Module, state: dict[str, Tensor], *, name: str) -> dict[str, Tensor]:
    filter_keys = getattr(sys.modules[type(body).__module__], "checkpoint_filter_fn", None)
    if filter_keys is None:
        return state
    try:
        filtered: dict[str, Tensor] = filter_keys(state, body)
    except (KeyError, RuntimeError, AttributeError, IndexError) as error:
        raise TrialError(
            "weights",
            f"{name}: timm cannot read these names for {type(body).__name__} ({type(error).__name__}: {error}). "
            f"Names in the file: {', '.join(sorted(state))}. Names wanted: {', '.join(sorted(body.state_dict()))}",
        ) from error
    return filtered


def _check_patches(body: nn.Module, state: Mapping[str, Tensor], *, name: str) -> None:
    """Refuse patches of another size, which timm's filter would resample without a word into another network."""
    wanted = body.state_dict().get(PATCHES[0])
    found = next((state[key] for key in PATCHES if key in state), None)
    if wanted is None or found is None or found.ndim != wanted.ndim or found.shape[2:] == wanted.shape[2:]:
        return
    raise TrialError(
        "weights",
        f"{name}: its patches have {found.shape[-1]} px, those of the architecture {wanted.shape[-1]}; name a backbone "
        "with the file's patch size (any timm name will do)",
    )


def _classifier_names(body: nn.Module) -> tuple[str, ...]:
    classifier = getattr(body, "pretrained_cfg", {}).get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return tuple(f"{name}." for name in names)


def _misfit(name: str, missing: list[str], left: list[str], shapes: list[str]) -> str:
    lines = [f"{name}: the weights do not fit the network; nothing was loaded."]
    if left:
        lines.append(f"In the file but not in the network ({len(left)}): {', '.join(left)}.")
    if missing:
        lines.append(f"In the network but not in the file ({len(missing)}): {', '.join(missing)}.")
    if shapes:
        lines.append(f"Other shape ({len(shapes)}): {', '.join(shapes)}.")
    prefix = _common_prefix(left)
    if prefix and missing:
        lines.append(
            f"Every left-over name begins with {prefix!r}: strip it with `python -m trainers convert-checkpoint "
            f"FILE --strip-prefix {prefix} --to NEW.safetensors`."
        )
    return " ".join(lines)


def _common_prefix(names: list[str]) -> str:
    first = names[0].partition(".")[0] + "." if names else ""
    return first if first and all(name.startswith(first) for name in names) else ""


def _normalisation(plan: NetworkPlan, body: nn.Module, published: Mapping[str, Any]) -> tuple[Triple, Triple]:
    """Return mean and std: the table's, else the published configuration's, else timm's for the architecture.

    A local file's own configuration knows better than the table of its architecture.
    """
    tells = (plan.tag or "").startswith("file:") and "mean" in published
    if plan.mean is not None and plan.std is not None and not tells:
        return plan.mean, plan.std
    default: Mapping[str, Any] = getattr(body, "pretrained_cfg", None) or {}
    if plan.tag and not plan.tag.startswith(("file:", "hf_hub:", "package:")):
        tagged = timm.models.get_pretrained_cfg(plan.tag)
        default = tagged.to_dict() if tagged else default
    chosen = published if "mean" in published else default
    mean = tuple(chosen.get("mean", IMAGENET_MEAN))
    std = tuple(chosen.get("std", IMAGENET_STD))
    return (mean, std) if len(mean) == 3 else (HALF, HALF)


def parameter_count(module: nn.Module) -> int:
    """Return the number of parameters, buffers not counted."""
    return sum(parameter.numel() for parameter in module.parameters())


def meta_network(plan: NetworkPlan) -> TimmNetwork:
    """Build a plan's network on the meta device: shapes and names without memory."""
    with torch.device("meta"):
        return build(plan, load=False)
