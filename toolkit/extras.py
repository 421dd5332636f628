"""Packages that only some commands need: each comes with an extra of this one."""

import importlib.util
from collections.abc import Mapping

from toolkit.errors import ConfigError

EXTRAS: Mapping[str, str] = {
    "deepspeed": "deepspeed",
    "mlflow": "mlflow",
    "peft": "peft",
    "prodigyopt": "rivals",
    "schedulefree": "rivals",
    "submitit": "slurm",
    "tensorboard": "trackers",
    "trackio": "trackio",
    "wandb_workspaces": "trackers",
}
"""Name that a package is imported by -> the extra that it comes with."""
OPTIMIZERS: Mapping[str, str] = {"schedule-free": "schedulefree", "prodigy": "prodigyopt"}
"""Optimizer of a recipe -> the package that has it."""


def check_adapters(recipe: object) -> None:
    """Refuse a recipe with LoRA, if that is a setting of it, where its package is not there.

    Raises:
        ConfigError: with the extra to install.
    """
    if (rank := getattr(recipe, "lora_rank", None)) is not None:
        check_installed("peft", f"recipe.lora_rank = {rank}")


def check_installed(package: str, what: str, *instead: str) -> None:
    """Refuse what needs a package that is not there, before anything is run. Imports nothing.

    Args:
        package: its name, as it is imported.
        what: what needs it, as the user has asked for it.
        instead: others that would do.

    Raises:
        ConfigError: with the extra to install, if it comes with one.
    """
    if all(importlib.util.find_spec(one) is None for one in (package, *instead)):
        plain, extra = package.replace("_", "-"), EXTRAS.get(package)
        comes_with = f"'adaptive-lr-toolkit[{extra}]'" if extra else plain
        raise ConfigError(f"{what} needs the package {plain}: pip install {comes_with}")
