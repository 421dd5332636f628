"""Take the trained weights of a finished run elsewhere: ``toolkit export RUN FOLDER``.

A transformers or timm model is written in its library's own format, for ``from_pretrained`` or
``timm.create_model``; any other as weights that ``toolkit.trained`` reads. Exit codes: 0 done,
1 failed, 2 wrong usage.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.command_line import Parser
from toolkit.config import WEIGHTS, RunConfig, from_json, schedule_to_json
from toolkit.errors import ConfigError, MissingDataError, first_line
from toolkit.extras import check_adapters
from toolkit.identity import data_now
from toolkit.process import DONE, run_command, set_threads
from toolkit.records.config_file import CONFIG, read_config
from toolkit.records.result import RESULT
from toolkit.records.vocabulary import VOCABULARY, read_vocabulary
from toolkit.schedules import Constant
from toolkit.task import Task, load, parse_target

if TYPE_CHECKING:
    from torch import nn

LACKING = "the names of its classes or tokens"
OF_THE_SCHEDULE = ("sees", "keep_last_checkpoint", "keep_before_anneal", "extend", "rewarm")
"""Settings of a run that some schedules take and others refuse. The weights do not depend on the
schedule, whose file need not be there any more, so it is left out, and these with it."""


def trained(run: str | Path, task: str | None = None) -> "nn.Module":
    """The model of a finished run with its trained weights: on the CPU, in evaluation mode.

    It is made again, so what its task needs for that must be at hand: the task's file, a model's
    folder or configuration, for ``lstm-glove`` the reviews and the word vectors. The names of
    classes are those that the run was trained on, whatever its data are now.

    Args:
        run: the run's folder, or one that ``toolkit export`` wrote.
        task: the file of a task of your own. Nobody's code runs because ``config.json`` names it.

    Raises:
        ConfigError: if the folder has no weights, the model cannot be made again, or the task is of
            a file that was not named.
    """
    with where_it_was_made(Path(run)) as here:
        folder = here / run
        config = config_of(folder, task if task is None else str(here / task))
        return model_of(config, task_of(folder, config), folder / WEIGHTS)


@contextmanager
def where_it_was_made(run: Path) -> Iterator[Path]:
    """Work where the folder of a run's model is named from, if it is not found from here.

    A target may name a folder, ``text/path/to/encoder``: from the working directory of the command
    that trained, which by default is the one that ``runs/`` lies in.

    Yields:
        What the caller's relative paths are to be put behind meanwhile.

    Raises:
        ConfigError: if the run has no weights to be had.
    """
    home, model = run.resolve().parent.parent.parent, parse_target(_stored(run)["target"]).model
    if Path(model).exists() or not (home / model).is_dir():
        yield Path()
        return
    here = Path.cwd()
    with chdir(home):
        yield here


def task_of(run: Path, config: RunConfig) -> Task:
    """The task of a finished run, with the words that its data had when it was trained.

    What predicts with the run's weights, or writes them elsewhere, asks this task and no other: the
    data may name their classes otherwise by now.

    Raises:
        ConfigError: if the run is of a version that did not keep them, and its data are others now,
            or gone.
    """
    target = parse_target(config.target)
    task, stored = load(target.task), read_vocabulary(run)
    if stored is not None:
        return task.with_vocabulary(stored)
    try:
        if not task.vocabulary(target.model, config.recipe):
            return task
        now = data_now(config)
    except MissingDataError as error:
        raise ConfigError(f"{run} has not kept {LACKING}: {error}") from error
    if not f"{now},".startswith(f"{config.data},"):  # earlier, a model's folder was not in it
        raise ConfigError(
            f"{run} has not kept {LACKING}, and its data are others now: toolkit train with "
            "--fresh keeps them"
        )
    return task


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
    with where_it_was_made(run) as here:
        return _export(here / run, here / folder, task if task is None else str(here / task))


def _export(run: Path, folder: Path, task: str | None) -> str:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already: name a new folder, or an empty one")
    config = config_of(run, task)
    its_task, target = task_of(run, config), parse_target(config.target)
    model = model_of(config, its_task, run / WEIGHTS)
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    done = False
    try:
        loads = its_task.export(model, target.model, config.recipe, folder)
        if loads is None:
            (folder / WEIGHTS).parent.mkdir()
            for name in (CONFIG, RESULT, WEIGHTS, VOCABULARY):
                if name != VOCABULARY or (run / name).exists():
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
    set_threads()
    print(f"load it with {export(options.run, options.folder.resolve(), options.task)}")
    return DONE


def model_of(config: RunConfig, task: Task, weights: Path) -> "nn.Module":
    """The task's model with these weights, on the CPU, in evaluation mode.

    Raises:
        ConfigError: if it cannot be made, or the weights are broken, or of another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from toolkit.training.build import fresh_model

    target = parse_target(config.target)
    check_adapters(config.recipe)
    recipe = replace(config.recipe, init="random")  # the weights are at hand
    model = fresh_model(task, target, recipe)
    try:
        model.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        raise ConfigError(f"{weights} cannot be read: {first_line(error)}") from error
    return model.eval()


def config_of(run: Path, task: str | None) -> RunConfig:
    """The configuration of a run that has kept its weights; its schedule plays no part.

    Args:
        run: its folder.
        task: as of ``trained``.

    Raises:
        ConfigError: if there are no weights, or the task is of a file that was not named.
    """
    stored = _stored(run)
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
    kept = {name: value for name, value in stored.items() if name not in OF_THE_SCHEDULE}
    return from_json({**kept, "target": str(target), "schedule": schedule_to_json(Constant())})


def _stored(run: Path) -> dict[str, Any]:
    """What ``config.json`` says of a run that has kept its weights.

    Raises:
        ConfigError: if there are none, or the file is broken.
    """
    if not (run / CONFIG).exists():
        raise ConfigError(f"{run} is no run's folder: it has no config.json")
    if not (run / RESULT).exists():
        raise ConfigError(f"{run} is not finished: its command continues it")
    if not (run / WEIGHTS).exists():
        raise ConfigError(
            f"{run} has kept no weights: it diverged, or was made by a study or with "
            "--keep-weights False; toolkit train with --fresh makes them"
        )
    return read_config(run)


if __name__ == "__main__":
    raise SystemExit(main())
