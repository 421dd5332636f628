"""The training loss: summed on the device, reduced over all ranks once a reading.

A loss that were fetched at every micro-batch would make the host wait for the device each time. So
the sums stay there until a reading is due, and one collective then brings what the schedules decide
on and the logs show: five numbers, and four more where a schedule uses an estimate of the distance.
"""

from typing import NamedTuple, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor

from toolkit.schedules.reading import Reading
from toolkit.training.distance import DistanceEstimate


class Estimating(Protocol):
    """What the meter knows of a ``ScheduledLR``."""

    estimate: DistanceEstimate | None


class Asked(NamedTuple):
    """What a reading carries beside the loss, the same on every rank.

    Attributes:
        stop: whether any rank was asked to stop.
        save: whether any rank holds that it is time for a checkpoint.
    """

    stop: bool
    save: bool


class LossMeter:
    """Sums losses without a sync and reduces them over all ranks when read.

    It holds five sums since the last reading: of the finite losses, of the items in these, of the
    micro-batches whose loss is not finite, of requests to stop and of requests to save.

    Args:
        accelerator: whose ranks are reduced over.
        dtype: of the sums: float32, or float64 for a model in float64. Never lower: bfloat16
            adds 256 and 257 to 512.
        lr: the run's ``ScheduledLR``; needed on several ranks where its schedule uses an estimate
            of the distance.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        dtype: torch.dtype = torch.float32,
        lr: Estimating | None = None,
    ) -> None:
        self.estimate = None if lr is None else lr.estimate
        self.accelerator, self.dtype = accelerator, dtype
        self._sums = torch.zeros(5, dtype=dtype, device=accelerator.device)

    def add(self, total: Tensor, count: int) -> None:
        """Add a micro-batch. Neither syncs with the device nor communicates.

        Args:
            total: its summed loss, a scalar on the device.
            count: items in the sum.
        """
        finite = total.isfinite()
        self._sums[0] += torch.where(finite, total, 0.0)
        self._sums[1] += finite * count
        self._sums[2] += ~finite

    def read(
        self, update: int, epoch: float, stop: bool = False, save: bool = False
    ) -> tuple[Reading, Asked]:
        """Reduce over all ranks, and start anew. A collective: all ranks call it.

        It waits for the device: the only place in training where the host does.

        Args:
            update: optimizer updates made so far.
            epoch: passes over the training split so far.
            stop: whether this rank was asked to stop.
            save: whether it holds that it is time for a checkpoint.

        Returns:
            The reading, the same to the bit on every rank, and what any rank has asked for. Its
            loss is the mean over the items of all micro-batches with a finite loss; NaN if there is
            none, or if their sum is past the largest number of its type: that counts as a loss that
            is not finite.
        """
        self._sums[3], self._sums[4] = stop, save
        sums = self._sums
        if self.estimate is not None:
            sums = torch.cat([sums, self.estimate.sums().to(sums)])
        if self.accelerator.num_processes > 1:
            # The broadcast makes the ranks equal by construction: reductions promise no such thing.
            sums = broadcast(self.accelerator.reduce(sums, "sum"))
        total, count, nonfinite, stops, saves, *moved = sums.tolist()
        distance = None if self.estimate is None else self.estimate.told(moved)
        self._sums.zero_()
        loss = total / count if count else float("nan")
        reading = Reading(update, epoch, loss, count, int(nonfinite), distance=distance)
        return reading.plain(), Asked(stops > 0, saves > 0)
