"""Masked autoencoders pretrained on chest radiographs (Xiao et al., WACV 2023, arXiv 2210.12843), as timm loads them.

Mean and standard deviation are those of the published configuration, read from beside the weights. The pretraining
pictures include CheXpert, NIH ChestX-ray14 and MIMIC-CXR: scores on these data sets are not of unseen sources.
"""

from trainers.network_plan import Initialization, Pretrained

_NOTE = "pretrained on chest radiographs of public collections; check overlap with the data set under study"


def _vit(size: str) -> Pretrained:
    return Pretrained(
        f"hf_hub:1aurent/vit_{size}_patch16_224.medmae_CXR_mae",
        licence="apache-2.0",
        mean=None,
        std=None,
        patch_size=16,
        architecture=f"vit_{size}_patch16_224",
        note=_NOTE,
    )


INITIALIZATION = Initialization(
    description="masked autoencoder on chest radiographs",
    table={"vit_base": _vit("base"), "vit_small": _vit("small")},
    holes={"convnext": "no such weights are known: the autoencoders were published for ViTs only"},
)
