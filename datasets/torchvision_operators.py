"""Makes `import torchvision` work where its compiled operators do not load.

torchvision built for another torch (a CUDA build beside a CPU torch, for example) skips its compiled
library with no word, and then fails with "operator torchvision::nms does not exist" while it describes
two operators that nobody declared. Nothing here or in timm calls them, so declaring their names is enough.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

_SIGNATURES = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[Any] = []  # torch forgets the operators when their Library object is collected


def declare_missing() -> None:
    """Declare torchvision's operators if its own library cannot; call before the first import of torchvision or timm.

    Does nothing where torchvision loads well, is imported already or is not installed.
    """
    if _declared or "torchvision" in sys.modules:
        return
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None or _library_loads(Path(found.origin).parent):
        return
    import torch

    library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for signature in _SIGNATURES:
        library.define(signature)
    _declared.append(library)


def _library_loads(package: Path) -> bool:
    import torch

    for path in (*package.glob("_C*.so"), *package.glob("_C*.pyd")):
        try:
            torch.ops.load_library(path)  # type: ignore[no-untyped-call]
        except (ImportError, OSError):
            return False
    return hasattr(torch.ops.torchvision, "nms")
