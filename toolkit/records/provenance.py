"""Where a result comes from: packages, the machine, the ranks, the commit of the toolkit."""

import os
import platform
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from toolkit.records.result import Code

PACKAGES = (
    *("torch", "accelerate", "timm", "transformers", "datasets", "evaluate", "numpy", "wandb"),
    *("schedulefree", "prodigyopt"),
)
ROOT = Path(__file__).parents[2]
"""The folder that has the package toolkit in it: the checkout, or site-packages."""


@lru_cache(maxsize=1)
def code() -> Code:
    """The code that this process runs, as it was at the first call: call it early."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        done = subprocess.run(  # noqa: S603  # git, with arguments of ours
            command, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != ROOT.resolve():
            return Code(None, ())  # installed below some other project's checkout
        status = git("status", "--porcelain", "--", "toolkit", "tasks", "launch_configs")
        return Code(
            git("rev-parse", "HEAD"), tuple(line[2:].strip() for line in status.splitlines())
        )
    except (OSError, subprocess.CalledProcessError):
        return Code(None, ())


THEN = ", then "
"""Between what the parts of a run, which was stopped and continued, came from."""


def origin(device: str, ranks: int) -> dict[str, Any]:
    """What a part of a run comes from, as JSON.

    Args:
        device: cpu or cuda.
        ranks: how many processes.
    """
    found = code()
    return {
        "device": device,
        "ranks": ranks,
        "commit": found.commit,
        "uncommitted": list(found.uncommitted),
        "versions": versions(),
        "machine": machine(),
    }


def continued(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """What a run comes from that goes on: where it is the same, that; else one, then the other.

    Args:
        earlier: ``origin`` of what there was, or what this returned. What it lacks, as it does that
            is of an earlier version, is taken to have been the same.
        now: ``origin`` of the part that begins.
    """
    return _joined({**now, **earlier}, now)


def _joined(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for name in {**now, **earlier}:
        a, b = earlier.get(name), now.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            whole[name] = _joined(a, b)
        elif isinstance(a, list) and isinstance(b, list):
            whole[name] = [*dict.fromkeys([*a, *b])]
        else:
            same = a == b or str(a).endswith(f"{THEN}{b}")
            whole[name] = a if same else f"{a}{THEN}{b}"
    return whole


def changes(whole: Mapping[str, Any]) -> list[str]:
    """What is not of one kind in what ``continued`` returned, in words."""
    flat = {name: whole[name] for name in ("device", "ranks", "commit")}
    flat |= {**whole["versions"], **whole["machine"]}
    return [f"{name} {value}" for name, value in flat.items() if THEN in str(value)]


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed


def machine() -> dict[str, str | int]:
    """The machine that a result's times depend on."""
    import torch

    found: dict[str, str | int] = {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found["accelerator"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    usual = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return usual
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, usual)
