"""How a run is evaluated: in evaluation mode, with the weights that its optimizer means.

``toolkit.training.loop.evaluate`` has the metrics of a split; here are the mode in which it, and
whatever else looks at a run's model, finds it, what it makes of a task's predictions and metrics,
and the validation loss of runs whose schedule decides on that.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import SupportsFloat

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from toolkit.errors import RunError
from toolkit.predictions import Predictions
from toolkit.records.prediction_file import PREDICTIONS, write_rows
from toolkit.scales import LOSS
from toolkit.schedules.reading import Reading
from toolkit.task import Batch, Split, Task
from toolkit.training import checkpoint_folder
from toolkit.training.batches import batches_of, evaluation_shards
from toolkit.training.batchnorm import has_batch_statistics, recomputed_statistics
from toolkit.training.checkpoint_folder import CHECKPOINTS
from toolkit.training.loss_meter import LossMeter
from toolkit.training.run import Run
from toolkit.training.sharding import reshard
from toolkit.words import counted

EVENT_FIELDS = ("kind", "update", "epoch", "split", "t")
"""What an event has beside the metrics, by ``toolkit.records.events``."""
STATISTICS_OVER = 50
"""Micro-batches for the batch statistics of averaged weights, as schedule-free's authors advise."""


@contextmanager
def evaluation_mode(run: Run) -> Iterator[None]:
    """Within it model and optimizer are as they are evaluated; afterwards they train again.

    The model has no dropout and batch norm uses its running statistics; no gradient is recorded. An
    optimizer that evaluates other weights than it trains (schedule-free: their average over the
    updates) has swapped them in, and batch norm has statistics of those weights.

    A collective: all ranks enter it, for they compute such statistics together.
    """
    run.model.eval()
    if run.selection.brought_back:  # as they were evaluated, and not to be trained on
        with torch.no_grad():
            yield
        return
    run.optimizer.eval()  # schedule-free swaps in its averaged weights
    with torch.no_grad(), _statistics_of_evaluated_weights(run):
        yield
    reshard(run.model)
    run.optimizer.train()
    run.model.train()


def outputs_of(task: Task, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """What a task predicts for a batch, by the fields of ``Predictions``, and the samples' ``id``.

    All batches of a task have the same ones, in the same order. Losses are left out that are of
    another loss than the task's.

    Raises:
        RunError: for a part that is not of these samples, or losses that are none of one each.
    """
    found = Predictions(*task.predict(model, batch))._asdict()  # type: ignore[arg-type]  # tensors
    if found["losses"] is not None:
        found["losses"] = _checked_losses(found["losses"]) if _knows_loss(task) else None
    outputs = {name: part for name, part in found.items() if part is not None}
    for name, part in outputs.items():
        shape = tuple(getattr(part, "shape", ()))
        if shape[:1] != (len(batch["id"]),):
            kind = f"a tensor of shape {shape}" if isinstance(part, Tensor) else type(part).__name__
            raise RunError(
                f"predict of the task returns as {name} {kind} for a batch of "
                f"{counted(len(batch['id']), 'sample')}: it must be a tensor whose first axis "
                "counts them"
            )
    return outputs | {"id": batch["id"]}


def in_order(
    names: Sequence[str], batches: Sequence[Sequence[Tensor]], samples: int | None = None
) -> Predictions:
    """The predictions of all batches, in the order of their split.

    Args:
        names: of the tensors of a batch, as ``outputs_of`` has them.
        batches: the tensors of each, on the CPU.
        samples: how many there are, where each is to be told which is its prediction.

    Raises:
        ValueError: if the numbers are not those of the samples.
    """
    whole = [torch.cat(parts).numpy() for parts in zip(*batches, strict=True)]
    outputs = dict(zip(names, whole, strict=True))
    ids = outputs.pop("id")
    order = np.argsort(ids, kind="stable")
    if samples is not None and not np.array_equal(ids[order], np.arange(samples)):
        raise ValueError(
            f"whose each prediction is cannot be told: the ids of the batches are not 0 to "
            f"{samples - 1}, each once, as Split.__getitems__ is asked for them"
        )
    return Predictions(**{name: part[order] for name, part in outputs.items()})


def metrics_of(task: Task, found: Predictions, split: Split) -> dict[str, float | None]:
    """The metrics of a split's predictions, with the mean of their losses, where there are any.

    Raises:
        ValueError: if those of the task are no numbers.
    """
    metrics = plain_metrics(task.metrics(found.values, found.labels, split))
    if found.losses is None or LOSS in metrics:
        return metrics
    return metrics | plain_metrics({LOSS: found.losses.mean(dtype=np.float64)})


def save_predictions(run: Run, found: Predictions) -> None:
    """Write the predictions of the test split into the run's folder, in words. On rank 0.

    It is there, whole, before ``result.json`` is; a run that is killed between makes both again.
    """
    rows = run.task.rows(found, run.splits.test, run.config.recipe)
    try:
        write_rows(run.folder / PREDICTIONS, rows)
    except OSError as error:  # hours of training are not lost to a full disk
        said = f"the predictions could not be saved: {error}"
        run.notes = (*run.notes, checkpoint_folder.say(run.folder / CHECKPOINTS, said))


def plain_metrics(metrics: Mapping[str, SupportsFloat]) -> dict[str, float | None]:
    """A task's metrics in numbers that JSON knows; None for one that is not finite.

    Args:
        metrics: name -> number, Python's, numpy's or a tensor of one; the first is the headline.

    Raises:
        ValueError: if that is not what they are, naming the metric.
    """
    if not isinstance(metrics, Mapping) or not metrics:
        raise ValueError(f"{metrics!r} is no dict of metrics, with one at least")
    numbers = {}
    for name, value in metrics.items():
        if name in EVENT_FIELDS:
            raise ValueError(f"a metric cannot be called {name}: events have a field of that name")
        try:
            number = math.nan if value is None else float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            kind = type(value).__name__
            raise ValueError(f"the metric {name} is a {kind}, not one number") from error
        numbers[str(name)] = number if math.isfinite(number) else None
    return numbers


def note_missing(run: Run, split: str, metrics: Mapping[str, float | None]) -> None:
    """Say, and note for the result, which metrics of a split are not numbers. On rank 0."""
    for name, value in metrics.items():
        said = f"the metric {name} of the split {split} was not a finite number: it is null"
        if value is None and said not in run.notes:
            run.notes = (*run.notes, checkpoint_folder.say(run.folder / CHECKPOINTS, said))


def validation_reading(run: Run) -> Reading:
    """The mean loss over the validation split, each sample once, and over all ranks.

    A collective: all ranks call it, and get the same reading to the bit. It is what the schedule
    costs, so its seconds are training seconds, unlike those of an evaluation.
    """
    meter = LossMeter(run.accelerator)
    split, size = run.splits.validation, run.config.recipe.eval_batch
    rank, ranks = run.accelerator.process_index, run.batch_split.ranks
    with run.record.span("reading"), evaluation_mode(run):
        for ids, own in evaluation_shards(split, size, rank, ranks):
            batch = send_to_device(split.__getitems__(ids), run.accelerator.device)
            total, count = run.task.loss(run.model, batch)
            run.steps += 1
            if own:
                meter.add(total, count)
        reading, _ = meter.read(run.update, run.epoch)  # waits for the device
    return reading._replace(kind="validation")


def _knows_loss(task: Task) -> bool:
    """Whether the losses of a task's ``predict`` are those of its ``loss``.

    They are not where a class has a loss of its own, and the predictions of one that it is made
    from, such as the blocks for images and texts: these have a plain cross-entropy.
    """
    owners = [vars(task), *map(vars, type(task).__mro__)]  # the most derived first

    def place(name: str) -> int:
        return next(place for place, owner in enumerate(owners) if name in owner)

    return place("predict") <= place("loss")


def _checked_losses(losses: Tensor) -> Tensor:
    """The losses of a batch in a precision that numpy knows.

    Raises:
        RunError: if they are not one floating-point number for each sample.
    """
    if not isinstance(losses, Tensor) or losses.ndim != 1 or not losses.is_floating_point():
        kind = type(losses).__name__
        if isinstance(losses, Tensor):
            kind = f"{losses.dtype} of shape {tuple(losses.shape)}".removeprefix("torch.")
        raise RunError(
            f"predict of the task returns as losses {kind}: they must be a tensor of one "
            "floating-point number for each sample, reduction='none' summed or averaged over what "
            "a sample has"
        )
    return losses.to(torch.promote_types(losses.dtype, torch.float32))


def _statistics_of_evaluated_weights(run: Run) -> AbstractContextManager[None]:
    """Batch norm's running statistics follow the weights in training: are they those evaluated?"""
    if not run.evaluates_other_weights or not has_batch_statistics(run.model):
        return nullcontext()
    updates = math.ceil(STATISTICS_OVER / run.batch_split.accumulation)
    forward = (partial(run.task.loss, run.model, batch) for batch in batches_of(run, 0, updates))
    mean_over_ranks = partial(run.accelerator.reduce, reduction="mean")
    return recomputed_statistics(run.model, forward, mean_over_ranks)
