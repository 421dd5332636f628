"""torch's ReduceLROnPlateau, restated to the letter. Pure.

It is a baseline: its faults are kept.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from toolkit.schedules._common import Every, Period, accumulate, check, is_length, refusal
from toolkit.schedules.reading import NO_ACTION, Decision, Facts, Reading

Mode = Literal["rel", "abs"]


class PlateauMemory(NamedTuple):
    """What the rule remembers.

    Attributes:
        base_lr, lr: the run's base LR, and the LR that the rule has made of it.
        period: the readings since the last judgement.
        best: the lowest loss so far; None before the first.
        bad: judgements in a row without a new best.
        cooldown: judgements still to sit out.
    """

    base_lr: float = 0.0
    lr: float = 0.0
    period: Period = Period()
    best: float | None = None
    bad: int = 0
    cooldown: int = 0


@dataclass(frozen=True)
class Plateau:
    """Cut when more than ``patience`` judgements in a row brought no new best.

    Keeps, to the bit, the LR of ``torch.optim.lr_scheduler.ReduceLROnPlateau`` (torch 2.13, mode
    ``min``) with the same settings. A NaN is never a new best. With a negative best a relative
    threshold lets losses above it pass for better. Bounds are absolute; they hold for the first
    parameter group, and the others keep their ratio to it.

    A loss is a new best if it is below best * (1 - threshold), or below best - threshold in the
    mode ``abs``. At a cut LR <- max(LR * cut, min_lr).

    >>> schedule = Plateau(every=1, patience=1)
    >>> memory, _ = schedule.start(0.1, Facts(budget=100))
    >>> for update in range(1, 4):
    ...     memory, decision = schedule.observe(memory, Reading.of(update, 0.0, 2.0))
    >>> decision.action, round(schedule.factor(memory, 0.03), 3)
    ('cut', 0.1)

    Raises:
        ValueError: naming the field, for a value that is not allowed; from ``start`` for a
            ``min_lr`` above the base LR.
    """

    every: Every = "epoch"
    """How often to judge: once an epoch, as in torch's documentation, or once in so many readings.
    What is judged is their mean loss."""
    cut: float = 0.1
    """Factor of the LR at a cut (torch's ``factor``)."""
    patience: int = 10
    """Judgements in a row without a new best that are let pass; the next one cuts."""
    threshold: float = 1e-4
    """By how much a new best must be below the old one."""
    threshold_mode: Mode = "rel"
    """Whether the threshold is a share of the old best or in units of the loss."""
    cooldown: int = 0
    """Judgements to sit out after a cut."""
    min_lr: float = 0.0
    """The LR never goes below this."""
    eps: float = 1e-8
    """A cut that would take no more than this off the LR is not made."""

    def __post_init__(self) -> None:
        check(
            self,
            every=(is_length(self.every), "'epoch' or at least 1 reading"),
            cut=(0 < self.cut < 1, "between 0 and 1"),
            **{
                field: (getattr(self, field) >= 0, "0 or above")
                for field in ("patience", "threshold", "cooldown", "min_lr", "eps")
            },
        )

    def start(self, base_lr: float, facts: Facts) -> tuple[PlateauMemory, Decision]:
        if self.min_lr > base_lr:
            raise refusal("min_lr", self.min_lr, f"at most the base LR, {base_lr:g}")
        return PlateauMemory(base_lr=base_lr, lr=base_lr), NO_ACTION

    def observe(self, memory: PlateauMemory, reading: Reading) -> tuple[PlateauMemory, Decision]:
        period, loss = accumulate(memory.period, reading, self.every)
        memory = memory._replace(period=period)
        return (memory, NO_ACTION) if loss is None else self._judge(memory, loss)

    def factor(self, memory: PlateauMemory, progress: float) -> float:
        return memory.lr / memory.base_lr

    def _judge(self, memory: PlateauMemory, loss: float) -> tuple[PlateauMemory, Decision]:
        """Judge the mean loss of a period that is over."""
        if is_better(loss, memory.best, self.threshold, self.threshold_mode):
            memory = memory._replace(best=loss, bad=0)
        else:
            memory = memory._replace(bad=memory.bad + 1)
        if memory.cooldown:
            memory = memory._replace(cooldown=memory.cooldown - 1, bad=0)
        if memory.bad <= self.patience:
            return memory, NO_ACTION
        lr = max(memory.lr * self.cut, self.min_lr)
        cuts = memory.lr - lr > self.eps
        lr = lr if cuts else memory.lr
        reason = f"no new best in {memory.bad} judgements, patience {self.patience}: "
        reason += f"LR {lr:.3g}" if cuts else f"the LR stays at {lr:.3g}, its bound"
        decision = Decision("plateau", float(memory.bad), "cut" if cuts else "hold", reason)
        return memory._replace(lr=lr, bad=0, cooldown=self.cooldown), decision


def is_better(loss: float, best: float | None, threshold: float, mode: Mode) -> bool:
    """Whether a loss is a new best, as torch and transformers have it; NaN never is."""
    if best is None:
        return not math.isnan(loss)
    return loss < (best * (1.0 - threshold) if mode == "rel" else best - threshold)
