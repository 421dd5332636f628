"""transformers' GreedyLR, restated to the letter. Pure.

It is a baseline: its faults are kept. Source: the class in transformers 5.23; paper: arXiv
2512.14527.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from toolkit.schedules._common import Every, Period, accumulate, check, is_length
from toolkit.schedules.plateau import Mode, is_better
from toolkit.schedules.reading import NO_ACTION, Decision, Facts, Reading


class GreedyMemory(NamedTuple):
    """What the rule remembers.

    Attributes:
        base_lr, lr: the run's base LR, and the LR that the rule has made of it.
        period: the readings since the last judgement.
        window: the losses of the moving average, oldest first; None for NaN.
        total: running sum of the window; None once a NaN was in it, which no later loss takes out.
        best: the lowest loss judged so far; None before the first.
        good, bad: judgements in a row with and without a new best.
        cooldown: judgements still to sit out.
        resets_in: cuts at the lower bound until everything starts again.
    """

    base_lr: float = 0.0
    lr: float = 0.0
    period: Period = Period()
    window: tuple[float | None, ...] = ()
    total: float | None = 0.0
    best: float | None = None
    good: int = 0
    bad: int = 0
    cooldown: int = 0
    resets_in: int = 0


@dataclass(frozen=True)
class Greedy:
    """Raise after a run of new bests, cut after a run without one.

    Keeps, to the bit, the LR of ``transformers.optimization.GreedyLR`` (5.23, mode ``min``) with
    the same settings, whose defaults it has. At them the LR of a fine-tuning run can only rise,
    since it lies below ``min_lr``. Bounds are absolute; they hold for the first parameter group,
    and the others keep their ratio to it.

    A new best is defined as in ``Plateau``. At a cut LR <- max(LR * cut, floor), where floor is the
    larger of min_lr and min_share * base LR; at a raise LR <- min(LR / cut, max_lr).

    >>> schedule = Greedy(every=1, patience=1)
    >>> memory, _ = schedule.start(0.1, Facts(budget=100))
    >>> for update in range(1, 3):
    ...     memory, decision = schedule.observe(memory, Reading.of(update, 0.0, 2.0 / update))
    >>> decision.action, round(schedule.factor(memory, 0.02), 4)
    ('raise', 1.0526)

    Raises:
        ValueError: naming the field, for a value that is not allowed.
    """

    every: Every = "epoch"
    """How often to judge: once an epoch, as the class documents it and as transformers' Trainer
    does with its evaluations, or once in so many readings. What is judged is their mean loss."""
    cut: float = 0.95
    """Factor of the LR at a cut; a raise divides by it (``factor``)."""
    patience: int = 10
    """Judgements in a row, all better or all not, that are let pass; the next one acts."""
    threshold: float = 1e-6
    """By how much a new best must be below the old one."""
    threshold_mode: Mode = "abs"
    """Whether the threshold is a share of the old best or in units of the loss."""
    cooldown: int = 0
    """Judgements to sit out after a cut."""
    raise_cooldown: int = 0
    """Judgements to sit out after a raise (``warmup``, which is no warm-up)."""
    min_lr: float = 1e-3
    """A cut does not take the LR below this."""
    min_share: float = 0.0
    """A cut does not take the LR below this share of the base LR either."""
    max_lr: float = 1.0
    """A raise does not take the LR above this."""
    eps: float = 1e-8
    """A change of the LR by no more than this is not made."""
    smooth: bool = False
    """Whether the moving average over the last ``window_size`` losses is judged."""
    window_size: int = 50
    """Losses in the moving average."""
    reset_start: int = 500
    """Cuts at the lower bound after which the rule starts again, from the base LR."""

    def __post_init__(self) -> None:
        check(
            self,
            every=(is_length(self.every), "'epoch' or at least 1 reading"),
            cut=(0 < self.cut < 1, "between 0 and 1"),
            max_lr=(0 < self.max_lr < math.inf, "above 0"),
            window_size=(self.window_size >= 1, "at least 1"),
            reset_start=(self.reset_start >= 1, "at least 1"),
            min_share=(0 <= self.min_share <= 1, "a share, from 0 to 1"),
            min_lr=(0 <= self.min_lr <= self.max_lr, f"0 to max_lr, {self.max_lr:g}"),
            **{
                field: (getattr(self, field) >= 0, "0 or above")
                for field in ("patience", "threshold", "cooldown", "raise_cooldown", "eps")
            },
        )

    def start(self, base_lr: float, facts: Facts) -> tuple[GreedyMemory, Decision]:
        return self._fresh(base_lr), NO_ACTION

    def observe(self, memory: GreedyMemory, reading: Reading) -> tuple[GreedyMemory, Decision]:
        period, loss = accumulate(memory.period, reading, self.every)
        memory = memory._replace(period=period)
        if loss is None:
            return memory, NO_ACTION
        if self.smooth:
            memory, loss = self._average(memory, loss)
        return self._judge(memory, loss)

    def factor(self, memory: GreedyMemory, progress: float) -> float:
        return memory.lr / memory.base_lr

    def _fresh(self, base_lr: float) -> GreedyMemory:
        return GreedyMemory(base_lr=base_lr, lr=base_lr, resets_in=self.reset_start)

    def _average(self, memory: GreedyMemory, loss: float) -> tuple[GreedyMemory, float]:
        """The memory with the loss in its moving average, and that average."""
        window = (*memory.window, None if math.isnan(loss) else loss)
        total = math.nan if memory.total is None else memory.total
        total += loss
        if len(window) > self.window_size:
            oldest, *rest = window
            window = tuple(rest)
            total -= math.nan if oldest is None else oldest
        kept = None if math.isnan(total) else total
        return memory._replace(window=window, total=kept), total / len(window)

    def _judge(self, memory: GreedyMemory, loss: float) -> tuple[GreedyMemory, Decision]:
        if memory.cooldown:
            return memory._replace(cooldown=memory.cooldown - 1, good=0, bad=0), NO_ACTION
        if is_better(loss, memory.best, self.threshold, self.threshold_mode):
            memory = memory._replace(best=loss, good=memory.good + 1, bad=0)
        else:
            memory = memory._replace(good=0, bad=memory.bad + 1)
        if memory.good > self.patience:
            return self._raise(memory)
        return self._cut(memory) if memory.bad > self.patience else (memory, NO_ACTION)

    def _raise(self, memory: GreedyMemory) -> tuple[GreedyMemory, Decision]:
        lr = min(memory.lr / self.cut, self.max_lr)
        lr = lr if lr - memory.lr > self.eps else memory.lr
        reason = f"{memory.good} new bests in a row, patience {self.patience}: "
        decision = _change("descent", float(memory.good), memory.lr, lr, reason)
        memory = memory._replace(
            lr=lr, good=0, cooldown=self.raise_cooldown, resets_in=self.reset_start
        )
        return memory, decision

    def _cut(self, memory: GreedyMemory) -> tuple[GreedyMemory, Decision]:
        floor = max(self.min_lr, self.min_share * memory.base_lr)
        lr = max(memory.lr * self.cut, floor)
        lr = lr if memory.lr - lr > self.eps else memory.lr
        resets_in = memory.resets_in - (lr <= floor)
        reason = f"no new best in {memory.bad} judgements, patience {self.patience}: "
        if resets_in > 0:
            decision = _change("plateau", float(memory.bad), memory.lr, lr, reason)
            memory = memory._replace(lr=lr, resets_in=resets_in)
        else:
            reason += f"{self.reset_start} times at the lower bound, the rule starts again, "
            decision = _change("plateau", float(memory.bad), memory.lr, memory.base_lr, reason)
            memory = self._fresh(memory.base_lr)._replace(period=memory.period)
        return memory._replace(bad=0, cooldown=self.cooldown), decision


@dataclass(frozen=True)
class GreedyPaper(Greedy):
    """GreedyLR as its paper has it (arXiv 2512.14527): patience 10, a floor of 10 % of the base LR,
    and the moving average of the last 50 training losses, judged at every reading.

    The rule is that of ``Greedy``.

    >>> schedule = GreedyPaper()
    >>> memory, _ = schedule.start(0.1, Facts(budget=100))
    >>> for update in range(1, 13):  # the first loss is a new best, the next 11 are not
    ...     memory, decision = schedule.observe(memory, Reading.of(update, 0.0, 2.0))
    >>> decision.action, round(schedule.factor(memory, 0.12), 2)
    ('cut', 0.95)
    """

    every: Every = 1
    """How often to judge: at every reading, or once in so many; or ``epoch``."""
    min_lr: float = 0.0
    min_share: float = 0.1
    smooth: bool = True


def _change(pattern: str, statistic: float, old: float, new: float, reason: str) -> Decision:
    """The decision that takes the LR from ``old`` to ``new``; ``hold`` if they are equal."""
    action = "raise" if new > old else "cut" if new < old else "hold"
    stays = f"the LR stays at {old:.3g}, it is at its bound" if new == old else f"LR {new:.3g}"
    return Decision(pattern, statistic, action, reason + stays)
