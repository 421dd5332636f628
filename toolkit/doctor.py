"""What this machine has and what is missing: to look at first when a run does not start."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from toolkit.command_line import Parser
from toolkit.data import ROOT_VARIABLE, hub_reachable
from toolkit.process import DONE, run_command
from toolkit.records.provenance import versions
from toolkit.records.wandb_mirror import wandb_mode
from toolkit.vision_compat import repair_torchvision
from toolkit.words import counted


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line for each thing that runs depend on, and return the exit code."""

    def command() -> int:
        Parser(prog="toolkit doctor", description=__doc__).parse_args(argv)
        for name, finding in _findings():
            print(f"{name:<12} {finding}")
        return DONE

    return run_command(command)


def _findings() -> Iterator[tuple[str, str]]:
    yield "versions", ", ".join(f"{name} {version}" for name, version in versions().items())
    yield "device", _device()
    yield "torchvision", _torchvision()
    yield "data", _data()
    yield "hub", "reachable" if hub_reachable() else "out of reach: only local data and weights"
    yield "W&B", f"{wandb_mode()} (a key, or WANDB_MODE, changes it)"
    yield "compiler", shutil.which("cc") or "none: DeepSpeed's compiled operators are not available"


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return f"{len(names)} x {names[0]}, launch with gpu.yaml or ddp.yaml"
    return f"CPU, {counted(os.cpu_count() or 1, 'core')}, launch with cpu.yaml or cpu2.yaml"


def _torchvision() -> str:
    repair_torchvision()
    try:
        import torchvision
    except ImportError as error:
        return f"cannot be imported: {error}"
    return f"{torchvision.__version__}, imports"


def _data() -> str:
    root = os.environ.get(ROOT_VARIABLE)
    if not root:
        return f"{ROOT_VARIABLE} is not set: data sets come from the hub; digits needs none"
    if not Path(root).is_dir():
        return f"{ROOT_VARIABLE} = {root} is not a folder"
    return f"{ROOT_VARIABLE} = {root}: {', '.join(sorted(p.name for p in Path(root).iterdir()))}"
