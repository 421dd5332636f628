"""How a run is evaluated: in evaluation mode, with the weights that its optimizer means.

``toolkit.training.loop.evaluate`` has the metrics of a split; here are the mode in which it, and
whatever else looks at a run's model, finds it, and the validation loss of runs whose schedule
decides on that.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from accelerate.utils import send_to_device

from toolkit.schedules.reading import Reading
from toolkit.training.batches import batches_of, evaluation_shards
from toolkit.training.batchnorm import has_batch_statistics, recomputed_statistics
from toolkit.training.build import Run
from toolkit.training.loss_meter import LossMeter

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
    run.optimizer.eval()  # schedule-free swaps in its averaged weights
    with torch.no_grad(), _statistics_of_evaluated_weights(run):
        yield
    run.optimizer.train()
    run.model.train()


def validation_reading(run: Run) -> Reading:
    """The mean loss over the validation split, each sample once, and over all ranks.

    A collective: all ranks call it, and get the same reading to the bit. It is what the schedule
    costs, so its seconds are training seconds, unlike those of an evaluation.
    """
    meter = LossMeter(run.accelerator, run.meter.dtype)
    split, size = run.splits.validation, run.config.recipe.eval_batch
    rank, ranks = run.accelerator.process_index, run.batch_split.ranks
    with run.record.span("reading"), evaluation_mode(run):
        for ids, own in evaluation_shards(split, size, rank, ranks):
            batch = send_to_device(split.__getitems__(ids), run.accelerator.device)
            total, count = run.task.loss(run.model, batch)
            if own:
                meter.add(total, count)
        reading, _ = meter.read(run.update, run.epoch)  # waits for the device
    return reading._replace(kind="validation")


def _statistics_of_evaluated_weights(run: Run) -> AbstractContextManager[None]:
    """Batch norm's running statistics follow the weights in training: are they those evaluated?"""
    if not run.evaluates_other_weights or not has_batch_statistics(run.model):
        return nullcontext()
    updates = math.ceil(STATISTICS_OVER / run.batch_split.accumulation)
    forward = (partial(run.task.loss, run.model, batch) for batch in batches_of(run, 0, updates))
    mean_over_ranks = partial(run.accelerator.reduce, reduction="mean")
    return recomputed_statistics(run.model, forward, mean_over_ranks)
