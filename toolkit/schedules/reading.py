"""What goes into a schedule and what comes out of one. Pure: no torch, no I/O, no clock."""

import math
from typing import NamedTuple


class Reading(NamedTuple):
    """The training loss since the last reading, reduced over all ranks.

    Attributes:
        update: optimizer updates made so far (the reading covers the updates up to this one).
        epoch: passes over the training split so far, ``update / updates_per_epoch``.
        loss: mean loss over ``count`` items; NaN if no finite loss was seen.
        count: items (examples or tokens) behind the mean, over all ranks.
        nonfinite: micro-batches whose loss was NaN or infinite; they are not in ``loss``.
    """

    update: int
    epoch: float
    loss: float
    count: float  # type: ignore[assignment]  # the name hides tuple.count, which nobody calls
    nonfinite: int

    @classmethod
    def of(cls, update: int, epoch: float, loss: float, count: float = 1.0) -> "Reading":
        """The reading of one loss, finite or not, over ``count`` items."""
        if math.isfinite(loss):
            return cls(update, epoch, loss, count, 0)
        return cls(update, epoch, math.nan, 0.0, 1)


class Decision(NamedTuple):
    """What a schedule made of one reading.

    Attributes:
        pattern: one of none, sharp_drop, descent, plateau, oscillation, rising, spike, nonfinite.
        statistic: the number the pattern was recognised by, if there is one.
        action: one of hold, raise, cut, snapshot, restore, rollback, anneal, trial.
        reason: one sentence for the log, with the numbers and thresholds behind the action.
    """

    pattern: str
    statistic: float | None
    action: str
    reason: str


class Facts(NamedTuple):
    """What is known of a run before its first update, for schedules with a method ``inform``.

    Attributes:
        total_updates: the budget; None for a run without a known end.
        pretrained: whether the first weights are.
        restores: whether the loop takes and restores snapshots when a decision asks for it.
    """

    total_updates: int | None
    pretrained: bool
    restores: bool


class Anneal(NamedTuple):
    """A request from outside: bring the learning rate to zero over the next ``updates`` updates."""

    updates: int


PATTERNS = (
    "none",
    "sharp_drop",
    "descent",
    "plateau",
    "oscillation",
    "rising",
    "spike",
    "nonfinite",
)
ACTIONS = ("hold", "raise", "cut", "snapshot", "restore", "rollback", "anneal", "trial")
HOLD = Decision("none", None, "hold", "")
