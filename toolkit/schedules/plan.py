"""The project plan's adaptive rule, restated to the letter. Pure.

It is a baseline: its faults are kept.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import ClassVar, NamedTuple

from toolkit.schedules._common import Period, accumulate, check, finite, reaching
from toolkit.schedules.reading import NO_ACTION, Decision, Facts, Reading


class PlanMemory(NamedTuple):
    """What the rule remembers.

    Attributes:
        base_lr: the LR at the start.
        period: the readings of the epoch in progress.
        losses: mean losses of the last epochs, oldest first; None for one that is not finite.
        scale: the factor of the base LR that the rule has made.
    """

    base_lr: float
    period: Period = Period()
    losses: tuple[float | None, ...] = ()
    scale: float = 1.0


@dataclass(frozen=True)
class Plan:
    """The project plan's adaptive rule, once an epoch, on epoch-mean training losses.

    With m and v the mean and the population variance of the last ``window`` epoch losses and
    r = (m one epoch before - m) / |m one epoch before|, the first that holds decides:

    * r < -rate_threshold: rising, cut;
    * v > variance_threshold and the differences alternate: oscillation, cut;
    * r > rate_threshold: sharp_drop, raise;
    * v <= variance_threshold and |r| <= rate_threshold: plateau, cut.

    Nothing happens before epoch ``window + 1``. The LR has no bounds. An epoch in which a
    non-finite loss was seen has no mean, and the rule holds while it is in the window: every
    comparison with NaN is false.

    A reading that spans the end of an epoch counts for the epoch that it ends.

    >>> schedule = Plan()
    >>> memory, _ = schedule.start(0.1, Facts(budget=8))
    >>> for epoch in range(1, 9):  # the loss falls by 0.1 an epoch, and each epoch has one reading
    ...     memory, decision = schedule.observe(memory, Reading.of(epoch, epoch, 3 - 0.1 * epoch))
    >>> decision.pattern, decision.action, round(schedule.factor(memory, 0.5), 3)
    ('sharp_drop', 'raise', 1.728)

    Raises:
        ValueError: for a window below 3, a threshold below 0, or multipliers that cannot cut and
            raise.
    """

    every: ClassVar[str] = "epoch"
    """How often it judges, for whoever asks any schedule."""

    window: int = 5
    """Epochs in the moving average and variance."""
    variance_threshold: float = 0.001
    """Variance of the epoch losses above which they may oscillate (squared units of the loss)."""
    rate_threshold: float = 0.01
    """Relative change of the moving average per epoch that counts as rising or dropping."""
    multipliers: tuple[float, float] = (0.8, 1.2)
    """Factors of the LR at a cut and at a raise."""

    def __post_init__(self) -> None:
        cut, raise_ = self.multipliers
        check(
            self,
            window=(self.window >= 3, "at least 3 epochs"),
            variance_threshold=(self.variance_threshold >= 0, "0 or above"),
            rate_threshold=(self.rate_threshold >= 0, "0 or above"),
            multipliers=(0 < cut < 1 < raise_, "a cut between 0 and 1, then a raise above 1"),
        )

    def start(self, base_lr: float, facts: Facts) -> tuple[PlanMemory, Decision]:
        return PlanMemory(base_lr), NO_ACTION

    def observe(self, memory: PlanMemory, reading: Reading) -> tuple[PlanMemory, Decision]:
        period, loss = accumulate(memory.period, reading, "epoch")
        memory = memory._replace(period=period)
        if loss is None:
            return memory, NO_ACTION
        mean = None if math.isnan(loss) else loss
        losses = (*memory.losses, mean)[-(self.window + 1) :]
        decision = self.judge(losses)
        cut, raise_ = self.multipliers
        scale = memory.scale * {"cut": cut, "raise": raise_}.get(decision.action, 1.0)
        if scale != memory.scale:
            decision = reaching(decision, memory.base_lr * scale)
        return memory._replace(losses=losses, scale=scale), decision

    def factor(self, memory: PlanMemory, progress: float) -> float:
        return memory.scale

    def judge(self, losses: tuple[float | None, ...]) -> Decision:
        """The decision on the last ``window + 1`` epoch losses, oldest first."""
        finite = [loss for loss in losses if loss is not None]
        if len(finite) < len(losses):
            return Decision("nonfinite", None, "hold", "an epoch in the window has no finite mean")
        if len(finite) <= self.window:
            return NO_ACTION
        before, last = finite[:-1], finite[1:]
        mean_before, mean = fmean(before), fmean(last)
        variance = fmean((loss - mean) * (loss - mean) for loss in last)  # may be infinite
        rate = (mean_before - mean) / abs(mean_before) if mean_before else 0.0
        return self._rule(rate, variance, _sign_changes(last))

    def _rule(self, rate: float, variance: float, changes: int) -> Decision:
        cut, raise_ = self.multipliers
        limit, noisy = self.rate_threshold, variance > self.variance_threshold
        verb = "rose" if rate < 0 else "fell"
        moving = f"the {self.window}-epoch mean loss {verb} by {abs(rate):.2%}"
        if rate < -limit:
            reason = f"{moving}, more than {limit:.2%}: LR x{cut:g}"
            return Decision("rising", finite(rate), "cut", reason)
        if noisy and changes >= self.window - 2:
            reason = f"variance {variance:.3g} above {self.variance_threshold:g} and the losses "
            reason += f"alternate: LR x{cut:g}"
            return Decision("oscillation", finite(variance), "cut", reason)
        if rate > limit:
            reason = f"{moving}, more than {limit:.2%}: LR x{raise_:g}"
            return Decision("sharp_drop", finite(rate), "raise", reason)
        if not noisy:
            reason = f"{moving}, within {limit:.2%}, variance {variance:.3g} at most "
            return Decision(
                "plateau", rate, "cut", f"{reason}{self.variance_threshold:g}: LR x{cut:g}"
            )
        return NO_ACTION


def _sign_changes(losses: list[float]) -> int:
    differences = [b - a for a, b in pairwise(losses)]
    return sum(a * b < 0 for a, b in pairwise(differences))
