"""Average the weights over the updates, to evaluate and keep the average.

As schedule-free does it: the average is a part of the optimizer's state, ``eval()`` swaps it in and
``train()`` out. So checkpoints and snapshots have it, and a trial of a search leaves nothing in it,
as with every other state of the optimizer; and batch norm has its statistics made anew for it.
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

AVERAGE = "ema"
"""Key of the average in the state of a weight."""


class AveragedWeights:
    """An exponential moving average of all weights that an optimizer updates.

    It begins as the first weights; each update leaves ``decay`` of it, and 1 - ``decay`` of the
    weights then. That is torch's ``AveragedModel`` with ``get_ema_multi_avg_fn``; the decay has no
    warm-up.

    Args:
        optimizer: not prepared yet; each of its steps is an update.
        decay: above 0 and below 1.
    """

    def __init__(self, optimizer: Optimizer, decay: float) -> None:
        self.optimizer, self.swapped_in = optimizer, False
        self._average = get_ema_multi_avg_fn(decay)
        self._first: dict[Tensor, Tensor] = {}
        optimizer.register_step_pre_hook(self._before)
        optimizer.register_step_post_hook(self._after)

    def eval(self) -> None:
        """Have the average where the weights are."""
        if not self.swapped_in:
            self._swap()

    def train(self) -> None:
        """Have the weights there again, to the bit."""
        if self.swapped_in:
            self._swap()

    @torch.no_grad()
    def _before(self, *_: Any) -> None:
        # A weight that has had no gradient yet has not moved. The state of one must be empty when
        # its first update begins: by that optimizers know it.
        for weight in self._weights():
            if weight.grad is not None and AVERAGE not in self.optimizer.state.get(weight, {}):
                self._first[weight] = weight.clone()

    @torch.no_grad()
    def _after(self, *_: Any) -> None:
        for weight, first in self._first.items():
            self.optimizer.state[weight][AVERAGE] = first
        self._first.clear()
        alike: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for weight in self._weights():
            if (average := self._average_of(weight)) is not None:
                averages, weights = alike.setdefault(weight.dtype, ([], []))
                averages.append(average)
                weights.append(weight)
        for averages, weights in alike.values():
            self._average(averages, weights, 0)

    @torch.no_grad()
    def _swap(self) -> None:
        for weight in self._weights():
            if (average := self._average_of(weight)) is not None:
                before = weight.clone()
                weight.copy_(average)
                average.copy_(before)
        self.swapped_in = not self.swapped_in

    def _average_of(self, weight: Tensor) -> Tensor | None:
        average: Tensor | None = self.optimizer.state.get(weight, {}).get(AVERAGE)
        return average

    def _weights(self) -> list[Tensor]:
        return [weight for group in self.optimizer.param_groups for weight in group["params"]]
