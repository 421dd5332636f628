"""What the ranks predict in an evaluation, brought together in few collectives.

Each rank keeps the outputs of its batches, packed into bytes, until all gather them: whatever their
dtypes, in one all-gather. In that the ranks tell each other, too, whether one was asked to stop,
and rank 0 when the next is due: a second apart by its clock, and sooner where outputs are large. So
no batch waits for all ranks, no stop for the end of the evaluation, and no device holds the logits
of a whole split.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

APART = 1.0
"""Seconds between two all-gathers."""
MOST_BYTES = 2**26
"""What one has of all ranks together, unless one batch of each has more."""


class Form(NamedTuple):
    """What it takes to make a tensor of its bytes again."""

    dtype: torch.dtype
    shape: torch.Size


class Gathering:
    """The outputs of an evaluation, batch by batch.

    All ranks have equally many batches. Where the last ones were filled up with repetitions, as
    Accelerate's loaders do on several ranks, those are left out.

    Args:
        accelerator: of the run, with the loader of the evaluation as the active one.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.outputs: list[list[Tensor]] = []
        """On rank 0, of each batch: the tensors of all ranks, joined by rank, on the CPU."""
        self._waiting: list[tuple[Tensor, list[Form]]] = []
        self._every, self._since = 1, time.monotonic()

    def add(self, outputs: Sequence[Tensor], stop: bool) -> bool:
        """Take the outputs of this rank's next batch. A collective: all ranks call it.

        Args:
            outputs: tensors with a first axis of its samples.
            stop: whether this rank was asked to stop.

        Returns:
            Whether any rank was, if they have told each other now; the same on all ranks.
        """
        ranks = self.accelerator.num_processes
        if ranks == 1:
            self.outputs.append([part.cpu() for part in outputs])
            return stop
        parts = [torch.atleast_1d(part.to(self.accelerator.device)) for part in outputs]
        forms = [Form(part.dtype, part.shape) for part in parts]
        self._waiting.append((_packed(parts), forms))
        full = ranks * sum(packed.nbytes for packed, _ in self._waiting) >= MOST_BYTES
        last = self.accelerator.gradient_state.end_of_dataloader
        due = last or full or len(self._waiting) >= self._every
        return due and self._gather(stop, last)

    def _gather(self, stop: bool, last: bool) -> bool:
        told = torch.tensor([[int(stop), self._next()]], device=self.accelerator.device)
        packed, forms = zip(
            (_packed([told]), [Form(told.dtype, told.shape)]), *self._waiting, strict=True
        )
        gathered = self.accelerator.gather(torch.cat(packed)).cpu()
        by_rank = gathered.view(self.accelerator.num_processes, -1)
        pieces = by_rank.split([part.nbytes for part in packed], 1)
        (heard,), *found = map(_unpacked, pieces, forms)
        if self.accelerator.is_main_process:
            remainder = self.accelerator.gradient_state.remainder
            if last and remainder > 0:
                found[-1] = [part[:remainder] for part in found[-1]]
            self.outputs += found
        self._waiting = []
        self._every, self._since = int(heard[0, 1]), time.monotonic()
        return bool(heard[:, 0].any())

    def _next(self) -> int:
        """How many batches the next all-gather should have, by this rank's clock.

        At most twice as many as this one: the first batches may be no measure of the others.
        """
        made, seconds = len(self._waiting), time.monotonic() - self._since
        return max(1, min(2 * made, int(APART / max(seconds, 1e-9) * made)))


def _packed(parts: Sequence[Tensor]) -> Tensor:
    """The bytes of tensors, one after the other."""
    return torch.cat([_flat(part).view(torch.uint8) for part in parts])


def _unpacked(by_rank: Tensor, forms: Sequence[Form]) -> list[Tensor]:
    """The inverse, for the bytes of each rank: each tensor has all ranks' along its first axis.

    Args:
        by_rank: uint8, shape (ranks, bytes).
        forms: of the tensors of one rank.
    """
    pieces = by_rank.split([form.shape.numel() * form.dtype.itemsize for form in forms], 1)
    return [
        _flat(piece).view(form.dtype).reshape(len(by_rank) * form.shape[0], *form.shape[1:])
        for piece, form in zip(pieces, forms, strict=True)
    ]


def _flat(part: Tensor) -> Tensor:
    """A copy with the numbers side by side: nothing else can be viewed as another dtype."""
    return part.clone(memory_format=torch.contiguous_format).reshape(-1)
