"""Repair of torchvision beside a torch build without its compiled operators.

The torchvision wheel of the package index is built for CUDA. Beside a CPU build of torch its
operator library does not load, and ``import torchvision`` ends with ``operator torchvision::nms
does not exist``; timm and most of transformers go down with it. Nothing here needs those
operators. Declaring the two that torchvision refers to at import time is enough; calling one
still raises a clear error. A healthy torchvision, an absent one and every other error are left
alone.
"""

import importlib
import sys
from typing import Any

_SYMPTOM = "operator torchvision::nms does not exist"
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[Any] = []  # torch forgets the declarations when their Library is collected


def repair_torchvision() -> bool:
    """Make ``import torchvision`` work, if this one error stands in its way.

    To be called before the first import of timm or of a transformers model.

    Returns:
        True if a repair was made, in this call or an earlier one.
    """
    if "torchvision" in sys.modules:
        return bool(_declared)
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return False
    except RuntimeError as error:
        if _SYMPTOM not in str(error):
            raise
        _declare_operators()
        importlib.import_module("torchvision")
    return bool(_declared)


def _declare_operators() -> None:
    import torch

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(operator + _SIGNATURE)
    _declared.append(library)
