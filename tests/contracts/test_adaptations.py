import subprocess
import sys
from pathlib import Path

import pytest

from trainers import adaptations, cells
from trainers.network_plan import NetworkPlan, Refusal
from trainers.plugins import UnknownNameError


@pytest.mark.parametrize("name", adaptations.names())
@pytest.mark.parametrize("backbone", ["vit_base", "convnext_base", "tf_efficientnet_lite0"])
def test_every_adaptation_accepts_a_backbone_or_says_why_not(name: str, backbone: str) -> None:
    found = cells.resolve("imagenet", backbone, 224, name)
    assert isinstance(found, NetworkPlan) or (isinstance(found, Refusal) and name in found.reason)


def test_an_unknown_adaptation_lists_those_that_exist() -> None:
    with pytest.raises(UnknownNameError, match="did you mean finetune"):
        cells.resolve("imagenet", "vit_base", 224, "finetuned")


def test_cells_are_resolved_without_torch() -> None:
    code = (
        "import sys; from trainers import adaptations, cells; "
        "[cells.resolve('imagenet', 'vit_base', 224, name) for name in adaptations.names()];"
        "assert not {'torch', 'timm', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
