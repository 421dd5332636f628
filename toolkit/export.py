"""Take the trained weights of a finished run elsewhere: ``toolkit export RUN FOLDER``.

A transformers or timm model is written in its library's own format, for ``from_pretrained`` or
``timm.create_model``; any other as weights that ``toolkit.trained`` reads. Exit codes: 0 done,
2 wrong usage.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.config import WEIGHTS, RunConfig, from_json
from toolkit.errors import ConfigError
from toolkit.process import DONE, WRONG
from toolkit.task import load, parse_target

if TYPE_CHECKING:
    from torch import nn


def trained(run: str | Path) -> "nn.Module":
    """The model of a finished run with its trained weights: on the CPU, in evaluation mode.

    Args:
        run: the run's folder, or one that ``toolkit export`` wrote.

    Raises:
        ConfigError: if the folder has no weights, or the model cannot be made again.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    from toolkit.run import fresh_model

    config = _config(Path(run))
    target = parse_target(config.target)
    recipe = replace(config.recipe, init="random")  # the weights are at hand
    model = fresh_model(load(target.task), target.model, recipe)
    try:
        load_model(model, Path(run) / WEIGHTS)
    except (SafetensorError, RuntimeError) as error:
        why = str(error).splitlines()[0]
        raise ConfigError(f"{Path(run) / WEIGHTS} cannot be read: {why}") from error
    return model.eval()


def export(run: Path, folder: Path) -> str:
    """Write the trained model of a finished run into a new folder.

    Returns:
        The Python expression that loads it there.

    Raises:
        ConfigError: if the run has no weights, or the folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already: name a new folder, or an empty one")
    config = _config(run)
    target = parse_target(config.target)
    model = trained(run)
    folder.mkdir(parents=True, exist_ok=True)
    loads = load(target.task).export(model, target.model, config.recipe, folder)
    if loads is not None:
        return loads
    (folder / WEIGHTS).parent.mkdir()
    for name in ("config.json", WEIGHTS):
        shutil.copyfile(run / name, folder / name)
    return f"toolkit.trained('{folder}')"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser("toolkit export", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished run: runs/STUDY/ID")
    parser.add_argument("folder", type=Path, help="where to write; must not exist")
    options = parser.parse_args(argv)
    try:
        print(f"{options.folder}: load it with {export(options.run, options.folder)}")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG
    return DONE


def _config(run: Path) -> RunConfig:
    """The configuration of a run that has kept its weights."""
    if not (run / "config.json").exists():
        raise ConfigError(f"{run} is no run's folder: it has no config.json")
    if not (run / WEIGHTS).exists():
        why = "is not finished: its command continues it"
        if (run / "result.json").exists():
            why = "has kept no weights: it diverged, or was made by a study or --keep-weights False"
        raise ConfigError(f"{run} {why}")
    try:
        return from_json(json.loads((run / "config.json").read_text()))
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{run / 'config.json'} cannot be read: {error}") from error


if __name__ == "__main__":
    raise SystemExit(main())
