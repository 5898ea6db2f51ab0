"""Low-rank adaptation (Hu et al., arXiv 2106.09685) through the peft library, as arXiv 2510.07191's code sets it.

Rank 16, α 32, dropout 0.05, no biases; ViTs: the query and value projections; ConvNeXts: the two pointwise layers of
each block; the head is trained in full.
"""

from typing import TYPE_CHECKING

from trainers.network_plan import Refusal

if TYPE_CHECKING:
    from torch import nn

    from trainers.network import Network

RANK = 16
ALPHA = 32
DROPOUT = 0.05
TARGETS = {"vit": r".*\.attn\.(?:q_proj|v_proj|qkv\.query|qkv\.value)", "convnext": r".*\.mlp\.fc[12]"}


class Lora:
    """Adapters in the encoder, everything else in it frozen."""

    on_features = False
    ignores = frozenset[str]()

    def adapt(self, network: "Network") -> None:
        """Insert adapters; only they and the head stay trainable."""
        from peft import LoraConfig, inject_adapter_in_model

        from trainers.split_qkv import split_fused

        body = network.encoder.body
        body.requires_grad_(False)
        split_fused(body)
        family = "convnext" if not hasattr(body, "blocks") or hasattr(body, "stages") else "vit"
        adapters = LoraConfig(
            r=RANK, lora_alpha=ALPHA, lora_dropout=DROPOUT, bias="none", target_modules=TARGETS[family]
        )
        inject_adapter_in_model(adapters, body)
        for name, parameter in body.named_parameters():
            parameter.requires_grad_("lora_" in name)

    def head(self, head: "nn.Module", *, width: int, outputs: int) -> "nn.Module":
        """Keep the task's head."""
        return head

    def refusal(self, family: str) -> Refusal | None:
        """Refuse families for which no target layers are agreed on."""
        if family in TARGETS:
            return None
        return Refusal(f"lora is defined for ViT and ConvNeXt backbones, not for {family} ones; use finetune or probe")


ADAPTATION = Lora()
