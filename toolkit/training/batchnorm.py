"""Batch norm under an optimizer that evaluates other weights than it trains.

In evaluation a batch-norm layer normalises by a running mean and variance of its inputs, which it
has gathered in training, so with the weights in training. Schedule-free evaluates an average of
those weights, whose inputs are distributed otherwise; its authors advise to compute the statistics
anew with some training batches (README of facebookresearch/schedule_free).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def has_batch_statistics(model: nn.Module) -> bool:
    """Whether a layer of the model keeps a running mean and variance."""
    return bool(_layers(model))


@contextmanager
def recomputed_statistics(
    model: nn.Module,
    forward: Iterable[Callable[[], object]],
    mean_over_ranks: Callable[[torch.Tensor], torch.Tensor],
) -> Iterator[None]:
    """Within it the running statistics are the mean of those of the batches of ``forward``.

    Afterwards they, the mode of the model and torch's random numbers are as before.

    Args:
        model: in any mode; its present weights are those that the statistics are for.
        forward: each call passes one batch through the model, in training mode. The ranks have
            batches of their own, as many on each.
        mean_over_ranks: the mean of a tensor over all ranks: a collective, so all ranks come here.
    """
    layers, training = _layers(model), model.training
    before = [(layer.momentum, *map(torch.clone, layer.buffers(recurse=False))) for layer in layers]
    devices = {weight.device for weight in model.parameters() if weight.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=list(devices)), torch.no_grad():
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None  # the plain mean over batches
            model.train()
            for call in forward:
                call()
            for layer in layers:
                for buffer in (layer.running_mean, layer.running_var):
                    assert buffer is not None
                    buffer.copy_(mean_over_ranks(buffer))
        model.train(training)
        yield
    finally:
        model.train(training)
        for layer, (momentum, *values) in zip(layers, before, strict=True):
            layer.momentum = momentum
            for buffer, value in zip(layer.buffers(recurse=False), values, strict=True):
                buffer.copy_(value)


def _layers(model: nn.Module) -> list[_BatchNorm]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
