"""What a task is: data, model, loss and metrics of one data set, and the recipes to train on it."""

import importlib
import math
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

from toolkit import userfile
from toolkit.errors import ConfigError, unknown
from toolkit.hints import shown
from toolkit.predictions import Columns, Predictions, plain_rows
from toolkit.vision_compat import repair_torchvision

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

Batch: TypeAlias = "dict[str, Tensor]"
"""One batch: tensors by name, the first axis counts the samples."""
INTRODUCED_AT = "introduced_at"
"""Key in the metadata of a dataclass field of a recipe, a schedule or ``RunConfig`` that came after
runs had been stored without it: ``field(default=x, metadata={"introduced_at": x})``. Its value is
the default that the field was introduced with, at which it changes nothing. At that value it is not
in a run id, so earlier ids stay valid, whatever its default is today."""


OPTIMIZERS: Mapping[str, tuple[str, ...]] = {
    "adam": ("betas", "eps"),
    "adamw": ("betas", "eps"),
    "sgd": ("nesterov",),
    "muon": ("betas", "eps"),
    "schedule-free": ("betas", "eps"),
    "prodigy": ("betas", "eps"),
}
"""The optimizers that have a name of their own -> those of a recipe's optional settings that each
takes. Those of muon are of the AdamW in it."""


class Scale(NamedTuple):
    """How the numbers of a metric are to be read.

    Attributes:
        higher_is_better: its direction; False for an error, a loss or a perplexity.
        diverged: what a run counts with whose weights were lost: as good as no training at all,
            e.g. 0 for an accuracy, the size of the vocabulary for a perplexity.
        decimals: digits after the point in reports.
    """

    higher_is_better: bool = True
    diverged: float = 0.0
    decimals: int = 2

    def best(self, values: Iterable[float]) -> float:
        """The best of one value or more."""
        return max(values) if self.higher_is_better else min(values)

    def worst(self, values: Iterable[float]) -> float:
        """The worst of one value or more."""
        return min(values) if self.higher_is_better else max(values)


POINTS = Scale()
"""A score in per cent. Whatever a task does not declare is read as one, but for a loss."""
LOSS = "loss"
"""The metric that is the mean of the losses of ``Task.predict``."""


def loss_of_classes(classes: int) -> Scale:
    """How a cross-entropy over so many classes is read: no training is as good as guessing."""
    return Scale(False, math.log(classes), 4)


def scale_of(scales: Mapping[str, Scale], metric: str) -> Scale:
    """How a metric is to be read, by what the task declares, if it does."""
    return scales.get(metric, Scale(False, math.inf, 4) if metric == LOSS else POINTS)


@dataclass(frozen=True)
class Recipe:
    """The settings of a pair that all its schedules share.

    Raises:
        ValueError: naming the field, for a value that cannot be trained with.
    """

    optimizer: str = "adamw"
    """adam, adamw, sgd, muon, schedule-free, prodigy, or any other as module:Class. adam couples
    weight decay with the gradient, adamw does not; sgd has momentum; muon is torch's for matrices,
    and AdamW for all else. schedule-free (AdamWScheduleFree, with schedule:constant) and prodigy
    need the extra rivals. adaptive takes one that it does not know for one that normalises each
    coordinate, as Adam's family does."""
    lr: float = 1e-3
    """The base LR: what a schedule's factor multiplies. prodigy multiplies it by an estimate of its
    own; its authors leave it at 1."""
    weight_decay: float = 1e-4
    """How strongly weights are drawn to 0, in the way of the optimizer."""
    momentum: float = 0.9
    """Momentum of sgd; the others have their own."""
    decay: Literal["all", "matrices"] = "all"
    """Which parameters decay: all, or only those with two or more axes (no bias, no norm)."""
    epochs: float | None = None
    """The budget in passes over the training split; give this or updates."""
    updates: int | None = None
    """The budget in optimizer updates; give this or epochs."""
    global_batch: int = 64
    """Examples per update, over all ranks and micro-batches."""
    micro_batch: int | None = None
    """Examples per forward pass on one rank; by default global_batch / ranks."""
    eval_batch: int = 256
    """Examples per forward pass in evaluation, on one rank."""
    clip: float | None = None
    """Largest L2 norm of the gradient; no clipping by default."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16", "fp64"] = "fp32"
    """bf16 is autocast; fp16, too, with a gradient scaler, on GPUs alone; auto is bf16 where the
    hardware has it; tf32 is fp32 whose matrix products round their factors to 10 bits, on GPUs that
    know it; fp64 is for exactness tests."""
    init: Literal["random", "pretrained"] = "random"
    """Where the first weights come from."""
    metric: str | None = field(default=None, metadata={INTRODUCED_AT: None})
    """The headline metric, of those that the task declares; by default its first."""
    betas: tuple[float, float] | None = field(default=None, metadata={INTRODUCED_AT: None})
    """Decay rates of the moments of the gradient, of optimizers that have them; by default the
    optimizer's own."""
    eps: float | None = field(default=None, metadata={INTRODUCED_AT: None})
    """What the optimizer adds to its denominator; by default the optimizer's own."""
    nesterov: bool = field(default=False, metadata={INTRODUCED_AT: False})
    """Nesterov's momentum, of sgd and of optimizers that have the setting; muon has it always."""
    compile: bool = field(default=False, metadata={INTRODUCED_AT: False})
    """torch.compile for the model's passes: faster after a minute or so, other rounding. The LR is
    no part of what is compiled."""
    ema_decay: float | None = field(default=None, metadata={INTRODUCED_AT: None})
    """Evaluate, and keep, an exponential moving average of the weights over the updates with this
    decay, e.g. 0.999; by default, and at 0, the weights themselves."""

    def __post_init__(self) -> None:
        for item in fields(self):  # 20 epochs are 20.0: the same run, the same id
            value = getattr(self, item.name)
            if type(value) is int and item.type in (float, float | None):
                object.__setattr__(self, item.name, float(value))
        self._positive(
            "lr", "global_batch", "micro_batch", "eval_batch", "epochs", "updates", "clip"
        )
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"recipe.{item.name} = {value:g}: it must be a finite number")
        self._below_one("momentum", "ema_decay")
        if self.ema_decay == 0:
            object.__setattr__(self, "ema_decay", None)  # the same run
        if self.weight_decay < 0:
            raise ValueError(f"recipe.weight_decay = {self.weight_decay}: it must be 0 or above")
        self._check_optimizer()
        if self.epochs is not None and self.updates is not None:
            raise ValueError(
                f"recipe.epochs = {self.epochs:g} and recipe.updates = {self.updates} contradict: "
                "give one of them"
            )
        if self.epochs is None and self.updates is None:
            raise ValueError("the recipe has no budget: give recipe.epochs or recipe.updates")

    def _check_optimizer(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            module, colon, name = self.optimizer.partition(":")
            if not (colon and all(map(str.isidentifier, [*module.split("."), name]))):
                near = get_close_matches(self.optimizer, OPTIMIZERS, n=1)
                hint = f"did you mean {near[0]}? " if near else ""
                raise ValueError(
                    f"recipe.optimizer = {self.optimizer}: {hint}it must be one of "
                    f"{', '.join(OPTIMIZERS)}, or module:Class, such as torch.optim:RMSprop"
                )
        if self.betas is not None:
            object.__setattr__(self, "betas", tuple(self.betas))  # JSON has lists
            if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
                raise ValueError(
                    f"recipe.betas = {self.betas}: they must be two numbers, at least 0, below 1"
                )
        if self.eps is not None and self.eps < 0:
            raise ValueError(f"recipe.eps = {self.eps:g}: it must be 0 or above")
        taken = OPTIMIZERS.get(self.optimizer, ("betas", "eps", "nesterov"))
        for name in ("betas", "eps", "nesterov"):
            if getattr(self, name) not in (None, False) and name not in taken:
                raise ValueError(
                    f"recipe.{name} = {getattr(self, name)}: {self.optimizer} has no such setting"
                )
        if self.nesterov and self.optimizer == "sgd" and self.momentum == 0:
            raise ValueError("recipe.nesterov = True: it takes recipe.momentum above 0")

    def _positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"recipe.{name} = {value:g}: it must be a number above 0")

    def _below_one(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"recipe.{name} = {value:g}: it must be at least 0, below 1")


NAMES_DATA = "names_data"
"""Key in the metadata of a field of a recipe that says where data lie: ``field(default="x",
metadata={"names_data": True})``. In a run id the fingerprint of the data stands for it."""


def data_fields(recipe: Recipe) -> tuple[str, ...]:
    """The fields of a recipe that say where data lie."""
    return tuple(item.name for item in fields(recipe) if item.metadata.get(NAMES_DATA))


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
        loss is a sum over other items than samples knows better.
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


def headline_first(
    metrics: Mapping[str, float | None], headline: str | None
) -> dict[str, float | None]:
    """The metrics with this one first; as they are for None.

    Raises:
        ValueError: if they lack it.
    """
    if headline is None:
        return dict(metrics)
    if headline not in metrics:
        raise ValueError(f"{headline}, the headline metric, is not in {', '.join(metrics)}")
    return {headline: metrics[headline], **metrics}


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
