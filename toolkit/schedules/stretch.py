"""Readings joined into stretches, for rules that judge once in a while. Pure."""

import math
from typing import Literal, NamedTuple

from toolkit.reading import Reading

Every = int | Literal["epoch"]
"""How long a stretch is: so many readings, or an epoch."""


class Stretch(NamedTuple):
    """The stretch in progress.

    Attributes:
        epoch: the epoch it belongs to, counted from 0.
        readings: readings in it so far.
        mean: mean loss of its items so far.
        count: items behind the mean.
        nonfinite: micro-batches in it whose loss was not finite.
    """

    epoch: int = 0
    readings: int = 0
    mean: float = 0.0
    count: float = 0.0  # type: ignore[assignment]  # hides tuple.count
    nonfinite: int = 0


def join(stretch: Stretch, reading: Reading, every: Every) -> tuple[Stretch, float | None]:
    """Add a reading; one that spans the end of an epoch counts for the epoch that it ends.

    Returns:
        The stretch in progress, and the mean loss of the one that ended with this reading: NaN if
        a loss in it was not finite, None if it goes on.
    """
    count = stretch.count + reading.count
    mean = stretch.mean
    if reading.count > 0:  # of a single reading the mean is the loss itself, to the bit
        mean += (reading.loss - mean) * (reading.count / count)
    stretch = Stretch(
        stretch.epoch, stretch.readings + 1, mean, count, stretch.nonfinite + reading.nonfinite
    )
    epoch = int(reading.epoch)
    if epoch <= stretch.epoch if every == "epoch" else stretch.readings < every:
        return stretch, None
    lost = stretch.nonfinite > 0 or count == 0
    return Stretch(epoch=epoch), math.nan if lost else mean


def is_length(every: Every) -> bool:
    """Whether a stretch can be so long: an epoch, or at least one reading."""
    return every == "epoch" or every >= 1
