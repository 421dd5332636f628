"""Take the trained weights of a finished run elsewhere: ``toolkit export RUN FOLDER``.

A transformers or timm model is written in its library's own format, for ``from_pretrained`` or
``timm.create_model``; any other as weights that ``toolkit.trained`` reads. Exit codes: 0 done,
1 failed, 2 wrong usage.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.command_line import Parser
from toolkit.config import WEIGHTS, RunConfig, from_json, schedule_to_json
from toolkit.errors import ConfigError, first_line
from toolkit.process import DONE, run_command
from toolkit.records.config_file import CONFIG, read_config
from toolkit.records.result import RESULT
from toolkit.schedules import Constant
from toolkit.task import load, parse_target

if TYPE_CHECKING:
    from torch import nn


def trained(run: str | Path, task: str | None = None) -> "nn.Module":
    """The model of a finished run with its trained weights: on the CPU, in evaluation mode.

    It is made again, so what its task needs for that must be at hand: the task's file, a model's
    folder or configuration, for ``lstm-glove`` the reviews and the word vectors.

    Args:
        run: the run's folder, or one that ``toolkit export`` wrote.
        task: the file of a task of your own. Nobody's code runs because ``config.json`` names it.

    Raises:
        ConfigError: if the folder has no weights, the model cannot be made again, or the task is of
            a file that was not named.
    """
    return _model(_config(Path(run), task), Path(run) / WEIGHTS)


def export(run: Path, folder: Path, task: str | None = None) -> str:
    """Write the trained model of a finished run into a new folder.

    Args:
        run: the run's folder.
        folder: where to write.
        task: as of ``trained``.

    Returns:
        The Python expression that loads it there.

    Raises:
        ConfigError: if the run has no weights, or the folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already: name a new folder, or an empty one")
    config = _config(run, task)
    model, target = _model(config, run / WEIGHTS), parse_target(config.target)
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    done = False
    try:
        loads = load(target.task).export(model, target.model, config.recipe, folder)
        if loads is None:
            (folder / WEIGHTS).parent.mkdir()
            for name in (CONFIG, RESULT, WEIGHTS):
                shutil.copyfile(run / name, folder / name)
            own = "" if task is None else f", task={task!r}"
            loads = f"toolkit.trained({str(folder)!r}{own})"
        done = True
        return loads
    finally:
        if not done:
            shutil.rmtree(folder)
            if not new:
                folder.mkdir()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run_command(lambda: _command(argv))


def _command(argv: Sequence[str] | None) -> int:
    parser = Parser(prog="toolkit export", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished run: runs/STUDY/ID")
    parser.add_argument("folder", type=Path, help="where to write; must not exist")
    parser.add_argument("--task", metavar="FILE", help="the file of a task of your own")
    options = parser.parse_args(argv)
    print(f"load it with {export(options.run, options.folder.resolve(), options.task)}")
    return DONE


def _model(config: RunConfig, weights: Path) -> "nn.Module":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from toolkit.training.build import fresh_model

    target = parse_target(config.target)
    recipe = replace(config.recipe, init="random")  # the weights are at hand
    model = fresh_model(load(target.task), target, recipe)
    try:
        model.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        raise ConfigError(f"{weights} cannot be read: {first_line(error)}") from error
    return model.eval()


def _config(run: Path, task: str | None) -> RunConfig:
    """The configuration of a run that has kept its weights; its schedule plays no part."""
    if not (run / CONFIG).exists():
        raise ConfigError(f"{run} is no run's folder: it has no config.json")
    if not (run / RESULT).exists():
        raise ConfigError(f"{run} is not finished: its command continues it")
    if not (run / WEIGHTS).exists():
        raise ConfigError(
            f"{run} has kept no weights: it diverged, or was made by a study or with "
            "--keep-weights False; toolkit train with --fresh makes them"
        )
    stored = read_config(run)
    target = parse_target(stored["target"])
    if target.task.endswith(".py"):
        if task is None:  # nobody's code runs because a file names it
            raise ConfigError(
                f"the task of {run} is of a file: name it, --task {target.task} "
                f"(in Python toolkit.trained(..., task={target.task!r}))"
            )
        target = target._replace(task=task)
    elif task is not None:
        raise ConfigError(f"--task {task}: the run is of the shipped task {target.task}")
    return from_json({**stored, "target": str(target), "schedule": schedule_to_json(Constant())})


if __name__ == "__main__":
    raise SystemExit(main())
