"""What a task is: data, model, loss and metrics of one data set, and the recipes to train on it."""

import importlib
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

from toolkit import userfile
from toolkit.errors import ConfigError, unknown
from toolkit.hints import shown
from toolkit.predictions import Columns, Predictions, plain_rows
from toolkit.recipe import Recipe
from toolkit.scales import Scale
from toolkit.vision_compat import repair_torchvision

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

Batch: TypeAlias = "dict[str, Tensor]"
"""One batch: tensors by name, the first axis counts the samples."""


class Split(Protocol):
    """One split of a data set, held ready for batched access.

    A split with an attribute ``lengths`` (int, shape (samples,)) is trained and evaluated on in
    batches of similar length. One with an attribute ``names`` has a name for each sample, a text or
    a number, which stands beside its prediction; else that is its number, from 0. One whose
    attribute ``reads_files`` is true reads or decodes samples when it is asked for them, which is
    worth a process that does it ahead; its batches must be functions of the ids alone.
    """

    def __len__(self) -> int: ...

    def __getitems__(self, ids: list[int]) -> Batch:
        """The batch of these samples: tensors with a first axis of ``len(ids)``; ``id``, int64, is
        one, with these numbers."""


class Splits(NamedTuple):
    """The three splits of a task. Test data is touched once, at the end of a run."""

    train: Split
    validation: Split
    test: Split
    notes: tuple[str, ...] = ()
    """What a reader of the result should know of the data, one sentence each."""


class Unseen(NamedTuple):
    """Data of the user's own, to be predicted.

    Attributes:
        split: the samples; where it has no labels they are ``NO_LABEL``, or NaN.
        labelled: whether all have a label, so that there are metrics.
        notes: what a reader of the predictions should know.
    """

    split: Split
    labelled: bool
    notes: tuple[str, ...] = ()


class Task(Protocol):
    """One data set: ``tasks/NAME.py`` has an instance of a subclass, named ``TASK``."""

    counts: Literal["fixed", "varying"] = "fixed"
    """Whether micro-batches of one size may differ in the number of items in their loss, as they
    do where it is a sum over tokens; then ``items`` must tell the number."""
    rope: float | None = None
    """The region of practical equivalence: a difference in the headline metric, in its units, that
    does not matter in practice. A study judges with it unless it states another; without one it
    shows differences with their intervals, and gives no verdict."""
    recipes: Mapping[str, Mapping[str, Recipe]]
    """Model -> recipe name -> recipe; the model ``*`` stands for every model not named."""
    published_data: Collection[str] = ()
    """Fingerprints, ``HUB_ID@REVISION``, of the data as they are published. They are not in a run
    id, as data were not in those of earlier versions."""

    def resolve(self, recipe: Any) -> Any:
        """The recipe with everything that depends on the data at hand decided."""
        return recipe

    def data_sources(self, name: str, recipe: Any) -> "Sequence[Path | str]":
        """Where the data of model ``name`` come from, in a fixed order; ``()`` if from the code.

        A ``Path`` is a file or folder, known by its content; a ``str`` is the id of a data set on
        the hub, known by its revision. Other content is another run: a task that reads files, and
        does not name them here, shows the result of the first data for any other. The folder of
        a model, its weights and tokenizer, is among them.

        Raises:
            MissingDataError: if there are none.
        """
        return ()

    def model(self, name: str, recipe: Any) -> "nn.Module":
        """A fresh model.

        Raises:
            ConfigError: for a model that does not exist.
        """

    def splits(self, name: str, recipe: Any) -> Splits:
        """The data, as model ``name`` wants it.

        Raises:
            ConfigError: if the data cannot be had or read.
        """

    def scales(self, recipe: Any, splits: Splits) -> Mapping[str, Scale]:
        """Every metric of ``metrics``, the headline first, with how it is to be read.

        Metrics that are not here are scores in per cent, and no recipe can choose them.
        """
        return {}

    def augment(self, batch: Batch, seed: int, epoch: int) -> Batch:
        """The training batch, augmented on its device as a pure function of its arguments."""
        return batch

    def items(self, batch: Batch) -> int:
        """The number of items that ``loss`` will sum over, possibly 0."""
        return len(batch["id"])

    def loss(self, model: "nn.Module", batch: Batch) -> "tuple[Tensor, int]":
        """The loss summed over the batch, on the device, and the number of items in the sum.

        Where the recipe has a ``label_smoothing`` above 0 training passes it by that name; only a
        loss that takes it can be trained so.
        """

    def predict(self, model: "nn.Module", batch: Batch) -> "tuple[Tensor | None, ...]":
        """Predictions and labels, each with a first axis of the batch's length.

        They may be followed by the probability of each prediction, or None, and by the loss of each
        sample, shape (batch,), of the logits at hand and without label smoothing. The mean of these
        over a split is its metric ``loss``, unless ``metrics`` has one of that name: a task whose
        loss is a sum over other items than samples knows better. They are passed over where a class
        derived from the one with this ``predict`` has another ``loss``.
        """

    def metrics(
        self, predictions: "np.ndarray", labels: "np.ndarray", split: Split
    ) -> dict[str, float]:
        """The metrics over a whole split, its samples in order; the first is the headline."""

    def classes_of(self, recipe: Any) -> Sequence[str]:
        """The names of the classes, in the order of their numbers; ``()`` if they have none."""
        return ()

    def rows(self, found: Predictions, split: Split, recipe: Any) -> list[dict[str, Any]]:
        """The predictions of a split in the user's words, one row after the other.

        They are what ``--save-predictions`` and ``toolkit predict`` write: ``id``, and what was
        predicted; with the label where it is known.
        """
        return plain_rows(found, len(split), getattr(split, "names", None), self.classes_of(recipe))

    def unseen(self, name: str, recipe: Any, path: Path, columns: Columns) -> "Unseen":
        """Data of the user's own, as model ``name`` wants them, to be predicted.

        Args:
            name: of the model.
            recipe: of the run.
            path: a file or folder that exists.
            columns: what to read of a table.

        Raises:
            ConfigError: if they cannot be read; by default always.
        """
        raise ConfigError(
            "this task does not say how to read data of your own: it needs a method unseen"
        )

    def vocabulary(self, name: str, recipe: Any) -> Mapping[str, Sequence[str]]:
        """The words of the data that the model is made for, such as the names of the classes.

        They are kept with a run, for the data may be others when its model is made again.
        """
        return {}

    def with_vocabulary(self, stored: Mapping[str, Sequence[str]]) -> "Task":
        """The task with the words that ``vocabulary`` returned in place of those of the data."""
        return self

    def export(self, model: "nn.Module", name: str, recipe: Any, folder: Path) -> str | None:
        """Write a trained model in the format of the library that it comes from.

        Returns:
            The Python expression that loads it from there; None if there is no such format, and
            nothing was written.
        """
        return None


def scales_of(task: Task, recipe: Recipe, splits: Splits) -> Mapping[str, Scale]:
    """The metrics that a task declares, with the recipe's headline first.

    Raises:
        ConfigError: if the recipe's headline is none of them.
    """
    scales, chosen = task.scales(recipe, splits), recipe.metric
    if chosen is None:
        return scales
    if chosen not in scales:
        raise unknown("recipe.metric", chosen, scales)
    return {chosen: scales[chosen], **scales}


class Target(NamedTuple):
    """What to train: ``TASK/MODEL@RECIPE``."""

    task: str
    model: str
    recipe: str

    def __str__(self) -> str:
        return f"{self.task}/{self.model}@{self.recipe}"


def parse_target(text: str) -> Target:
    """Read ``TASK/MODEL[@RECIPE]``; TASK ends at ``.py/`` if that occurs, else at the first ``/``.

    Raises:
        ConfigError: if the text does not have that form.
    """
    body, _, recipe = text.partition("@")
    end = body.find(".py/") + len(".py") if ".py/" in body else body.find("/")
    if end <= 0 or not body[end + 1 :] or text.endswith("@"):
        raise ConfigError(f"target '{text}' is not of the form TASK/MODEL[@RECIPE]")
    return Target(body[:end], body[end + 1 :], recipe or "field")


def load(name: str) -> Task:
    """The task of this name, or in this file (``path/to/file.py``).

    Raises:
        ConfigError: if there is no such task, or the file has no ``TASK``.
    """
    repair_torchvision()
    task: Task
    if name.endswith(".py"):
        task = userfile.attribute_of("task", name, "TASK")
        if not isinstance(getattr(task, "recipes", None), Mapping):
            raise ConfigError(
                f"TASK in task file '{name}' is {shown(task)}: it must be a task, an object of a "
                "subclass of toolkit.Task with recipes"
            )
    elif name in (known := names()):
        task = shipped(package().TASKS[name]).TASK
    else:
        raise unknown("task", name, known)
    return task


def names() -> tuple[str, ...]:
    """The shipped tasks."""
    return tuple(package().TASKS)


def recipe_of(task: Task, target: Target) -> Recipe:
    """The recipe that a target names.

    Raises:
        ConfigError: for a model or recipe that the task does not have.
    """
    return _chosen(task.recipes, target)


def declared_recipe(target: Target) -> Recipe:
    """The recipe that a target names, without the code of a shipped task, which imports torch.

    Raises:
        ConfigError: for a task, model or recipe that does not exist.
    """
    modules = package().TASKS
    if target.task not in modules:  # a file of the user's, or none
        return recipe_of(load(target.task), target)
    return _chosen(shipped(f"recipes.{modules[target.task]}").RECIPES, target)


def _chosen(declared: Mapping[str, Mapping[str, Recipe]], target: Target) -> Recipe:
    recipes = declared.get(target.model, declared.get("*"))
    if recipes is None:
        raise unknown(f"model of task {target.task}", target.model, declared)
    if target.recipe not in recipes:
        raise unknown(f"recipe of {target.task}/{target.model}", target.recipe, recipes)
    return recipes[target.recipe]


def targets() -> Iterable[str]:
    """Every named target, ``TASK/MODEL@RECIPE``, of the shipped tasks."""
    for name in names():
        for model, recipes in load(name).recipes.items():
            yield from (f"{name}/{model}@{recipe}" for recipe in recipes)


def shipped(module: str) -> ModuleType:
    """A module of the shipped tasks: one of them, or of the blocks that they share."""
    return importlib.import_module(f"{package().__name__}.{module}")


def package() -> ModuleType:
    """The shipped tasks, by name, without any of their modules."""
    # Under a name of our own: an installed toolkit must not shadow a user's package `tasks`.
    name = "toolkit_tasks"
    if name not in sys.modules:
        here = Path(__file__).parent
        folder = next(path for path in (here / "_tasks", here.parent / "tasks") if path.is_dir())
        userfile.execute(name, folder / "__init__.py", [str(folder)])
    return sys.modules[name]
