"""The training loss: kept on the device, summed over all ranks once a reading.

A loss that were fetched at every micro-batch would make the host wait for the device each time, and
sums on the device are several small operations each time. So the losses stay there as they are
until a reading is due; the host then fetches them together and adds them up in double precision. On
several ranks one collective brings what the schedules decide on and the logs show: five numbers,
and four more where a schedule uses an estimate of the distance.
"""

import math
from typing import NamedTuple, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor

from toolkit.schedules.reading import Reading
from toolkit.training.distance import DistanceEstimate, on_host


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


class Sums(NamedTuple):
    """Of the micro-batches of this rank since the last reading.

    Attributes:
        total: of the losses that are finite.
        items: in these.
        nonfinite: micro-batches whose loss is not finite.
    """

    total: float = 0.0
    items: float = 0.0
    nonfinite: float = 0.0


MOST_KEPT = 256
"""Losses on the device before they are fetched without a reading, so that memory stays bounded."""


class LossMeter:
    """Keeps losses without a sync and adds them up over all ranks when read.

    Args:
        accelerator: whose ranks are added up over.
        lr: the run's ``ScheduledLR``; needed on several ranks where its schedule uses an estimate
            of the distance.
    """

    def __init__(self, accelerator: Accelerator, lr: Estimating | None = None) -> None:
        self.estimate = None if lr is None else lr.estimate
        self.accelerator = accelerator
        self._totals: list[Tensor] = []
        self._counts: list[int] = []
        self._fetched = Sums()

    def add(self, total: Tensor, count: int) -> None:
        """Add a micro-batch. Neither syncs with the device nor communicates, but for a sync every
        ``MOST_KEPT`` micro-batches without a reading.

        Args:
            total: its summed loss, a scalar on the device.
            count: items in the sum.
        """
        # A copy: the memory may be that of a larger tensor, or of a graph that is played again.
        self._totals.append(total.detach().clone())
        self._counts.append(count)
        if len(self._totals) == MOST_KEPT:
            self._fetched = self._fetch(None)[0]

    def read(
        self, update: int, epoch: float, stop: bool = False, save: bool = False
    ) -> tuple[Reading, Asked]:
        """Add up over all ranks, and start anew. A collective: all ranks call it.

        It waits for the device: the only place in training where the host does.

        Args:
            update: optimizer updates made so far.
            epoch: passes over the training split so far.
            stop: whether this rank was asked to stop.
            save: whether it holds that it is time for a checkpoint.

        Returns:
            The reading, the same to the bit on every rank, and what any rank has asked for. Its
            loss is the mean over the items of all micro-batches with a finite loss; NaN if there is
            none, or if their sum is past the largest double: that counts as a loss that is not
            finite.
        """
        own, moved = self._fetch(self.estimate)
        self._fetched = Sums()
        sums = self._over_ranks([*own, float(stop), float(save), *moved])
        total, count, nonfinite, stops, saves, *moved = sums
        distance = None if self.estimate is None else self.estimate.told(moved)
        loss = total / count if count else math.nan
        reading = Reading(update, epoch, loss, count, int(nonfinite), distance=distance)
        return reading.plain(), Asked(stops > 0, saves > 0)

    def _over_ranks(self, sums: list[float]) -> list[float]:
        """Numbers of this rank added up over all, the same to the bit on each."""
        if self.accelerator.num_processes == 1:
            return sums
        there = torch.tensor(sums, dtype=torch.float64, device=self.accelerator.device)
        added: list[float] = self._added(there).tolist()
        return added

    def _added(self, there: Tensor) -> Tensor:
        # The broadcast makes the ranks equal by construction: reductions promise no such thing.
        return broadcast(self.accelerator.reduce(there, "sum"))

    def _fetch(self, estimate: DistanceEstimate | None) -> tuple[Sums, list[float]]:
        """The sums since the last reading, and those of an estimate, in one transfer."""
        fetched = on_host([*self._totals, *([] if estimate is None else estimate.sums())])
        total, items, nonfinite = self._fetched
        for loss, count in zip(fetched, self._counts, strict=False):  # behind them: the estimate's
            if math.isfinite(loss):
                total, items = total + loss, items + count
            else:
                nonfinite += 1
        moved = fetched[len(self._counts) :]
        self._totals, self._counts = [], []
        return Sums(total, items, nonfinite), moved
