"""Takes timm's fused query-key-value layers apart, so that query and value can be adapted each on their own."""

import torch
from torch import Tensor, nn


class SplitQkv(nn.Module):
    """The same output as one fused linear layer, from three.

    Args:
        fused: linear (C, 3 C').
    """

    def __init__(self, fused: nn.Linear):
        super().__init__()
        self.query, self.key, self.value = (
            _part(fused, weight, None if fused.bias is None else bias)
            for weight, bias in zip(
                fused.weight.chunk(3), (fused.weight if fused.bias is None else fused.bias).chunk(3), strict=True
            )
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (…, 3 C'): query, key and value side by side."""
        return torch.cat([self.query(tokens), self.key(tokens), self.value(tokens)], dim=-1)


def split_fused(body: nn.Module) -> None:
    """Replace every fused `attn.qkv` of a ViT in place; networks without one are left alone.

    Raises:
        ValueError: an attention that reads its fused weight directly and would miss the adapters.
    """
    for name, module in list(body.named_modules()):
        fused = getattr(module, "qkv", None)
        if not name.endswith("attn") or not isinstance(fused, nn.Linear):
            continue
        if getattr(module, "q_bias", None) is not None:
            if not hasattr(module, "qkv_bias_separate"):
                raise ValueError(f"{name} adds its query bias outside the fused layer; lora cannot reach it there")
            # BEiT and EVA then call the layer and add the bias, instead of reading its weight.
            module.qkv_bias_separate = True
        module.qkv = SplitQkv(fused)


def _part(fused: nn.Linear, weight: Tensor, bias: Tensor | None) -> nn.Linear:
    part = nn.Linear(
        fused.in_features, len(weight), bias=bias is not None, device=fused.weight.device, dtype=fused.weight.dtype
    )
    part.weight = nn.Parameter(weight.detach().clone(), requires_grad=fused.weight.requires_grad)
    if bias is not None:
        part.bias = nn.Parameter(bias.detach().clone(), requires_grad=fused.weight.requires_grad)
    return part
