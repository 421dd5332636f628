"""What several schedules share: checks of settings and periods of readings. Pure."""

import math
from typing import Literal, NamedTuple

from toolkit.schedules.reading import Decision, Reading

Every = int | Literal["epoch"]
"""How long a period is: so many readings, or an epoch."""


class Period(NamedTuple):
    """The period in progress.

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


def accumulate(period: Period, reading: Reading, every: Every) -> tuple[Period, float | None]:
    """Add a reading; one that spans the end of an epoch counts for the epoch that it ends.

    Returns:
        The period in progress, and the mean loss of the one that ended with this reading: NaN if
        a loss in it was not finite, None if it goes on.
    """
    count = period.count + reading.count
    mean = period.mean
    if reading.count > 0:  # of a single reading the mean is the loss itself, to the bit
        mean += (reading.loss - mean) * (reading.count / count)
    period = Period(
        period.epoch, period.readings + 1, mean, count, period.nonfinite + reading.nonfinite
    )
    epoch = int(reading.epoch)
    if epoch <= period.epoch if every == "epoch" else period.readings < every:
        return period, None
    lost = period.nonfinite > 0 or count == 0
    return Period(epoch=epoch), math.nan if lost else mean


def finite(statistic: float) -> float | None:
    """A statistic for the log, which knows only finite numbers; None for any other."""
    return statistic if math.isfinite(statistic) else None


def reaching(decision: Decision, lr: float) -> Decision:
    """The decision, its reason ending with the LR that it leads to."""
    return decision._replace(reason=f"{decision.reason}, to {lr:.3g}")


def is_length(every: Every) -> bool:
    """Whether a period can be so long: an epoch, or at least one reading."""
    return every == "epoch" or every >= 1


def refusal(field: str, value: object, allowed: str) -> ValueError:
    """The error for a setting; ``allowed`` completes "it must be"."""
    return ValueError(f"schedule.{field} = {value} is not allowed: it must be {allowed}")


def check(schedule: object, **rules: tuple[bool, str]) -> None:
    """Refuse a schedule with a setting that is not allowed.

    Args:
        schedule: whose settings are looked at.
        rules: by field, whether its value will do, and what is allowed.

    Raises:
        ValueError: naming the first field that will not do, its value and what is allowed.
    """
    for field, (fine, allowed) in rules.items():
        if not fine:
            raise refusal(field, getattr(schedule, field), allowed)
