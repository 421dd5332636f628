"""Take the trained weights of a finished run elsewhere: ``toolkit export RUN FOLDER``.

A transformers or timm model is written in its library's own format, for ``from_pretrained`` or
``timm.create_model``; any other as weights that ``toolkit.trained`` reads. Exit codes: 0 done,
1 failed, 2 wrong usage.
"""

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.config import WEIGHTS, RunConfig, from_json
from toolkit.errors import ConfigError, RunError, error_text, first_line
from toolkit.process import DONE, run_command
from toolkit.records.config_file import CONFIG, read_config
from toolkit.records.result import RESULT
from toolkit.task import load, parse_target

if TYPE_CHECKING:
    from torch import nn


def trained(run: str | Path) -> "nn.Module":
    """The model of a finished run with its trained weights: on the CPU, in evaluation mode.

    It is made again, so what its task needs for that must be at hand: the task's file, a model's
    folder or configuration, for ``lstm-glove`` the reviews and the word vectors.

    Args:
        run: the run's folder, or one that ``toolkit export`` wrote.

    Raises:
        ConfigError: if the folder has no weights, or the model cannot be made again.
    """
    return _model(_config(Path(run)), Path(run) / WEIGHTS)


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
    model, target = _model(config, run / WEIGHTS), parse_target(config.target)
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        loads = load(target.task).export(model, target.model, config.recipe, folder)
        if loads is not None:
            return loads
        (folder / WEIGHTS).parent.mkdir()
        for name in (CONFIG, RESULT, WEIGHTS):
            shutil.copyfile(run / name, folder / name)
        return f"toolkit.trained({str(folder)!r})"
    except BaseException:
        shutil.rmtree(folder)
        if not new:
            folder.mkdir()
        raise


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser("toolkit export", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished run: runs/STUDY/ID")
    parser.add_argument("folder", type=Path, help="where to write; must not exist")
    options = parser.parse_args(argv)

    def command() -> int:
        try:
            print(f"load it with {export(options.run, options.folder.resolve())}")
        except ConfigError:
            raise
        except Exception as error:  # of the task, or of the library that the model is of
            raise RunError(error_text(error)) from error
        return DONE

    return run_command(command)


def _model(config: RunConfig, weights: Path) -> "nn.Module":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from toolkit.training.build import fresh_model

    target = parse_target(config.target)
    recipe = replace(config.recipe, init="random")  # the weights are at hand
    model = fresh_model(load(target.task), target.model, recipe)
    try:
        model.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        raise ConfigError(f"{weights} cannot be read: {first_line(error)}") from error
    return model.eval()


def _config(run: Path) -> RunConfig:
    """The configuration of a run that has kept its weights."""
    if not (run / CONFIG).exists():
        raise ConfigError(f"{run} is no run's folder: it has no config.json")
    if not (run / RESULT).exists():
        raise ConfigError(f"{run} is not finished: its command continues it")
    if not (run / WEIGHTS).exists():
        raise ConfigError(
            f"{run} has kept no weights: it diverged, or was made by a study or with "
            "--keep-weights False; toolkit train with --fresh makes them"
        )
    return from_json(read_config(run))


if __name__ == "__main__":
    raise SystemExit(main())
