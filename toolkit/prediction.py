"""Predict your own rows with a finished run: ``toolkit predict RUN FILE|FOLDER [--output PATH]``.

FILE or FOLDER is what the run's task trains on: for text/ CSV, TSV, JSONL or parquet, for images/
images or parquet, for qa/ questions as SQuAD has them, for lm/ text files. Labels are not needed;
where every row has one, the metrics are printed, too. A row of the output has the id of a row, what
was predicted, in the words of the labels, and its probability. Exit codes: 0 done, 1 failed, 2
wrong usage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit import userfile
from toolkit.command_line import Parser
from toolkit.config import WEIGHTS, RunConfig
from toolkit.data import silent
from toolkit.errors import ConfigError
from toolkit.export import config_of, model_of, task_of, where_it_was_made
from toolkit.predictions import Columns, Predictions
from toolkit.process import DONE, run_command, set_threads, world_size
from toolkit.records.console import say
from toolkit.records.prediction_file import check_new, write_rows
from toolkit.scales import headline_first
from toolkit.task import Task, Unseen, parse_target
from toolkit.words import counted


@dataclass(frozen=True)
class Predicted:
    """What a run says of rows of the user's own.

    Attributes:
        rows: one for each item, in the order of the data: column -> value.
        metrics: the headline first; empty unless all rows have a label.
        notes: what a reader should know of the data, one sentence each.
    """

    rows: list[dict[str, Any]]
    metrics: dict[str, float | None]
    notes: tuple[str, ...]


def predict(
    run: str | Path,
    data: str | Path,
    task: str | None = None,
    *,
    text_column: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    no_labels: bool = False,
) -> Predicted:
    """What a finished run says of rows that it need not have seen: on the GPU, if there is one.

    Args:
        run: the run's folder, or one that ``toolkit export`` wrote for ``toolkit.trained``.
        data: a file or folder of the kind that the run's task trains on.
        task: the file of a task of your own. Nobody's code runs because ``config.json`` names it.
        text_column, image_column: of a table, where its name is not plain.
        label_column: likewise; it must be there.
        no_labels: pass labels over, and compute no metrics.

    Raises:
        ConfigError: if the run has no weights, the data cannot be read, or the task is of a file
            that was not named.
    """
    columns = Columns(text_column, image_column, label_column, no_labels)
    path = Path(data).expanduser()
    if world_size() > 1:
        raise ConfigError("toolkit predict is for one process")
    if not path.exists():
        raise ConfigError(f"there is no file or folder {path}")
    with where_it_was_made(Path(run)) as here:
        its_file = task if task is None else str(here / task)
        return _predict(here / run, here / path, its_file, columns)


def _predict(run: Path, path: Path, its_file: str | None, columns: Columns) -> Predicted:
    config = config_of(run, its_file)
    target = parse_target(config.target).task

    def made() -> Predicted:
        return _predicted(config, task_of(run, config), run, path, columns)

    if target.endswith(".py"):
        found: Predicted = userfile.raise_as_config_error(f"task '{target}'", target, made)
        return found
    return made()


def _predicted(config: RunConfig, task: Task, run: Path, path: Path, columns: Columns) -> Predicted:
    silent()
    recipe, name = config.recipe, parse_target(config.target).model
    columns = _of_recipe(columns, recipe)
    unseen = task.unseen(name, recipe, path, columns)
    found = _outputs(config, task, run, unseen)
    rows = task.rows(found, unseen.split, recipe)
    metrics: Mapping[str, float | None] = {}
    if unseen.labelled:
        from toolkit.training.evaluation import metrics_of

        metrics = headline_first(metrics_of(task, found, unseen.split), recipe.metric)
    return Predicted(rows, dict(metrics), unseen.notes)


def _of_recipe(columns: Columns, recipe: Any) -> Columns:
    """Columns that the user did not name are those of the recipe.

    A column of labels that the recipe names need not be there.
    """
    text, image = columns.text, columns.image
    return columns._replace(
        text=text or getattr(recipe, "text_column", None),
        image=image or getattr(recipe, "image_column", None),
        usual_label=getattr(recipe, "label_column", None),
    )


def _outputs(config: RunConfig, task: Task, run: Path, unseen: Unseen) -> Predictions:
    """What the run's model says, batch by batch."""
    import torch
    from accelerate.state import AcceleratorState
    from accelerate.utils import send_to_device

    from toolkit.training.batches import evaluation_loader
    from toolkit.training.evaluation import in_order, outputs_of
    from toolkit.training.ranks import make_accelerator, split_global_batch

    recipe, names, outputs = config.recipe, (), []
    model = model_of(config, task, run / WEIGHTS)
    set_threads(sum(weight.numel() for weight in model.parameters()))
    accelerator = make_accelerator(recipe, split_global_batch(recipe.eval_batch, None, 1))
    try:
        model = accelerator.prepare_model(model, evaluation_mode=True)
        with torch.no_grad():
            for batch in evaluation_loader(unseen.split, recipe.eval_batch):
                batch = send_to_device(batch, accelerator.device)
                names, parts = zip(*outputs_of(task, model, batch).items(), strict=True)
                outputs.append([part.cpu() for part in parts])
    finally:
        accelerator.free_memory(model)
        AcceleratorState._reset_state()  # the next may have another precision
    try:
        return in_order(names, outputs, len(unseen.split))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run_command(lambda: _command(argv))


def _command(argv: Sequence[str] | None) -> int:
    parser = Parser(prog="toolkit predict", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="folder of a finished run: runs/STUDY/ID")
    add("data", type=Path, metavar="FILE|FOLDER", help="what is to be predicted")
    add("--output", type=Path, help=".csv or .jsonl; by default RUN/predictions-NAME.csv")
    add("--text-column", metavar="NAME", help="the column with the texts")
    add("--image-column", metavar="NAME", help="of parquet: the column with the images")
    add("--label-column", metavar="NAME", help="the column with the labels, if there is one")
    add("--no-labels", action="store_true", help="pass labels over, and compute no metrics")
    add("--task", metavar="FILE", help="the file of a task of your own")
    options = parser.parse_args(argv)
    config_of(options.run, options.task)  # a folder that is no run's is said as such
    output = options.output or options.run / f"predictions-{options.data.resolve().stem}.csv"
    check_new(output)
    found = predict(
        options.run,
        options.data,
        options.task,
        text_column=options.text_column,
        image_column=options.image_column,
        label_column=options.label_column,
        no_labels=options.no_labels,
    )
    write_rows(output, found.rows)
    say(
        *(f"note: {note}" for note in found.notes), f"{counted(len(found.rows), 'row')} in {output}"
    )
    if found.metrics:
        numbers = (f"{name} {_shown(value)}" for name, value in found.metrics.items())
        say(f"on these: {', '.join(numbers)}")
    return DONE


def _shown(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.6g}"


if __name__ == "__main__":
    raise SystemExit(main())
