"""The shipped files to launch with, in a checkout and in an installation.

Those of ``accelerate launch --config_file``, and scripts for SLURM's ``sbatch``.

A launch file of DeepSpeed names a JSON file of settings, and Accelerate looks that up in the folder
where the command is given. ``find_deepspeed_file`` finds the shipped one from any other folder.
"""

import os
from pathlib import Path

from toolkit.errors import ConfigError, unknown

DEEPSPEED_FILE = "ACCELERATE_DEEPSPEED_CONFIG_FILE"
"""How Accelerate's launcher tells its processes the path in the launch file."""


def folder() -> Path:
    """Where the launch files lie."""
    here = Path(__file__).resolve().parent
    places = (here / "_launch_configs", here.parent / "launch_configs")
    return next(place for place in places if place.is_dir())


def files() -> dict[str, Path]:
    """All of them by name, such as ``ddp`` and ``slurm/one_node``."""
    here = folder()
    found = sorted([*here.glob("*.yaml"), *here.glob("slurm/*.sh")])
    return {file.relative_to(here).with_suffix("").as_posix(): file for file in found}


def path_of(name: str) -> Path:
    """The file of a name, with or without its ending.

    Raises:
        ConfigError: if there is none, naming the nearest.
    """
    known = files()
    try:
        return known[name.removesuffix(".yaml").removesuffix(".sh")]
    except KeyError:
        raise unknown("launch file", name, known) from None


def find_deepspeed_file() -> None:
    """Let DeepSpeed's settings be found, wherever the command was given.

    A path that is there is left alone; else the shipped file of that name takes its place.

    Raises:
        ConfigError: if there is neither.
    """
    named = os.environ.get(DEEPSPEED_FILE)
    if named is None or Path(named).is_file():
        return
    shipped = folder() / Path(named).name
    if not shipped.is_file():
        raise ConfigError(
            f"{named}: the launch file names these settings of DeepSpeed, and they are not there: "
            "write the whole path into the launch file"
        )
    os.environ[DEEPSPEED_FILE] = str(shipped)
