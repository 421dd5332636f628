"""Batch norm under an optimizer whose weights in evaluation are not those it trains with.

The running mean and variance follow the weights in training. Schedule-free is judged by an average
of those, for which the statistics are taken anew (README of facebookresearch/schedule_free).
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
def retaken(
    model: nn.Module,
    forward: Iterable[Callable[[], object]],
    mean: Callable[[torch.Tensor], torch.Tensor],
) -> Iterator[None]:
    """Within it the running statistics are the mean of those of the batches of ``forward``.

    Afterwards they, the mode of the model and torch's random numbers are as before.

    Args:
        model: in any mode; each call of ``forward`` passes one batch through it.
        mean: of a tensor over all ranks, each of which has batches of its own.
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
                    buffer.copy_(mean(buffer))
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
