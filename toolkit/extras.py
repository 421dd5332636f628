"""Packages that only some commands need: each comes with an extra of this one."""

import importlib.util
from collections.abc import Mapping

from toolkit.errors import ConfigError

EXTRAS: Mapping[str, str] = {
    "deepspeed": "deepspeed",
    "peft": "peft",
    "prodigyopt": "rivals",
    "schedulefree": "rivals",
    "submitit": "slurm",
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


def check_installed(package: str, what: str) -> None:
    """Refuse what needs a package that is not there, before anything is run. Imports nothing.

    Args:
        package: a name in ``EXTRAS``.
        what: what needs it, as the user has asked for it.

    Raises:
        ConfigError: with the extra to install.
    """
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"{what} needs the package {package.replace('_', '-')}: "
            f"pip install 'adaptive-lr-toolkit[{EXTRAS[package]}]'"
        )
