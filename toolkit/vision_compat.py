"""Repair of torchvision beside a torch build without its compiled operators.

The torchvision wheel of the package index is built for CUDA. Beside a CPU build of torch its
operator library does not load, and ``import torchvision`` ends with ``operator torchvision::nms
does not exist``; timm, most of transformers and even the ``accelerate`` command go down with it.
Nothing here needs those operators. Declaring the two that torchvision refers to at import time is
enough; calling one still raises a clear error.

The repair waits in the import system. It acts when importing torchvision fails with this one
error and never else: a healthy torchvision, an absent one and every other error are left alone.

``python -m toolkit.vision_compat`` makes it permanent for an environment that needs it, so that
commands which never import this module, like ``accelerate launch``, start too.
"""

import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_SYMPTOM = "operator torchvision::nms does not exist"
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_HOOK_FILE = "toolkit_vision_compat.pth"
_HOOK = (
    "import importlib.util as u; u.find_spec('toolkit') and "
    "__import__('toolkit.vision_compat').vision_compat.repair_torchvision()\n"
)
_declared: list[Any] = []  # torch forgets the declarations when their Library is collected


def repair_torchvision() -> None:
    """Have the next import of torchvision repaired, if it needs to be. Imports nothing itself."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "torchvision":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _RepairingLoader(spec.loader)
        return spec


class _RepairingLoader(Loader):
    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        try:
            self.loader.exec_module(module)
        except RuntimeError as error:
            if _SYMPTOM not in str(error):
                raise
            for name in [name for name in sys.modules if name.startswith("torchvision.")]:
                del sys.modules[name]
            _declare_operators()
            self.loader.exec_module(module)


def _declare_operators() -> None:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(operator + _SIGNATURE)
    _declared.append(library)


def main() -> int:
    """Write the start-up hook if torchvision cannot be imported without it; remove it if it can."""
    hook = Path(sysconfig.get_paths()["purelib"]) / _HOOK_FILE
    hook.unlink(missing_ok=True)
    probe = subprocess.run(
        [sys.executable, "-c", "import torchvision"], capture_output=True, text=True
    )
    if _SYMPTOM in probe.stderr:
        hook.write_text(_HOOK)
        print("torchvision has no operators for this torch: repaired at import (vision_compat)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
