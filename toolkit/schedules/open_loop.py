"""Schedules that look at the clock and not at the loss. Pure.

Each is a shape over the progress of the budget, most of them after an optional linear warm-up. In
their formulas f is the factor of the base LR, p the progress (updates made / updates of the
budget), w the warm-up's share of the budget, and q = (p - w) / (1 - w) the progress after it. In
the warm-up f = p / w.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

from toolkit.schedules._common import check
from toolkit.schedules.reading import NO_ACTION, Decision, Facts, Reading


class OpenLoopMemory(NamedTuple):
    """Nothing: the LR follows from the progress alone."""


class OpenLoop(ABC):
    """A factor that follows from the progress alone; a subclass says how, in ``shape``."""

    def start(self, base_lr: float, facts: Facts) -> tuple[OpenLoopMemory, Decision]:
        return OpenLoopMemory(), NO_ACTION

    def observe(self, memory: OpenLoopMemory, reading: Reading) -> tuple[OpenLoopMemory, Decision]:
        return memory, NO_ACTION

    def factor(self, memory: OpenLoopMemory, progress: float) -> float:
        return self.shape(progress)

    @abstractmethod
    def shape(self, progress: float) -> float:
        """The factor at this progress of the whole budget, where no warm-up is on its way."""


@dataclass(frozen=True)
class Warmed(OpenLoop):
    """A linear warm-up, then the shape of a subclass.

    Raises:
        ValueError: if ``warmup`` is not in [0, 1).
    """

    warmup: float = 0.0
    """Share of the budget over which the LR rises linearly from 0; the first update has LR 0."""

    def __post_init__(self) -> None:
        share = "a share of the budget, at least 0 and below 1"
        check(self, warmup=(0 <= self.warmup < 1, share))

    def factor(self, memory: OpenLoopMemory, progress: float) -> float:
        if progress < self.warmup:
            return progress / self.warmup
        return super().factor(memory, progress)

    def _after_warmup(self, progress: float) -> float:
        return (progress - self.warmup) / (1 - self.warmup)


@dataclass(frozen=True)
class Constant(Warmed):
    """The base LR throughout.

    f = 1 after the warm-up.

    >>> schedule = Constant(warmup=0.1)
    >>> memory, _ = schedule.start(0.1, Facts(budget=100))
    >>> [schedule.factor(memory, p) for p in (0.0, 0.05, 0.1, 0.9)]
    [0.0, 0.5, 1.0, 1.0]
    """

    def shape(self, progress: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Step(Warmed):
    """A tenth of the base LR from 50 % of the updates on, a hundredth from 75 % on.

    f = 1, 0.1 from p = 0.5 on, 0.01 from p = 0.75 on.

    >>> schedule = Step()
    >>> memory, _ = schedule.start(0.1, Facts(budget=100))
    >>> [schedule.factor(memory, p) for p in (0.49, 0.5, 0.75)]
    [1.0, 0.1, 0.01]
    """

    def shape(self, progress: float) -> float:
        if progress >= 0.75:
            return 0.01
        return 0.1 if progress >= 0.5 else 1.0


@dataclass(frozen=True)
class Linear(Warmed):
    """From the base LR to 0 along a straight line: the fine-tuning default of BERT's authors.

    f = 1 - q.

    >>> schedule = Linear()
    >>> memory, _ = schedule.start(0.1, Facts(budget=100))
    >>> [schedule.factor(memory, p) for p in (0.0, 0.25, 0.5, 1.0)]
    [1.0, 0.75, 0.5, 0.0]
    """

    def shape(self, progress: float) -> float:
        return 1 - self._after_warmup(progress)


@dataclass(frozen=True)
class Cosine(Warmed):
    """From the base LR to 0 along half a cosine (Loshchilov and Hutter, SGDR, without restarts).

    f = (1 + cos(pi q)) / 2.

    >>> schedule = Cosine()
    >>> memory, _ = schedule.start(0.1, Facts(budget=100))
    >>> [round(schedule.factor(memory, p), 3) for p in (0.0, 0.25, 0.5, 1.0)]
    [1.0, 0.854, 0.5, 0.0]
    """

    def shape(self, progress: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * self._after_warmup(progress)))


@dataclass(frozen=True)
class OneCycle(OpenLoop):
    """Up to the base LR and down to almost nothing, each along half a cosine (Smith and Topin,
    super-convergence).

    The LR of torch's ``OneCycleLR`` with ``anneal_strategy="cos"``, whose momentum cycle is left
    out; the base LR is its ``max_lr``. As with all shapes here the budget ends after the last
    update; torch ends its cycle at the last update and peaks one earlier.

    With c(x) = (1 + cos(pi x)) / 2, a = 1 / div_factor and r = pct_start:
    f = 1 + (a - 1) c(p / r) up to p = r, then, with b = a / final_div_factor,
    f = b + (1 - b) c((p - r) / (1 - r)).

    >>> schedule = OneCycle()
    >>> memory, _ = schedule.start(0.1, Facts(budget=100))
    >>> [round(schedule.factor(memory, p), 6) for p in (0.0, 0.3, 1.0)]
    [0.04, 1.0, 4e-06]

    Raises:
        ValueError: naming the field, for a value that is not allowed.
    """

    pct_start: float = 0.3
    """Share of the budget over which the LR rises."""
    div_factor: float = 25.0
    """The first LR is the base LR divided by this."""
    final_div_factor: float = 1e4
    """The last LR is the first divided by this."""

    def __post_init__(self) -> None:
        check(
            self,
            pct_start=(0 <= self.pct_start <= 1, "a share of the budget, from 0 to 1"),
            div_factor=(1 <= self.div_factor < math.inf, "a number, at least 1"),
            final_div_factor=(1 <= self.final_div_factor < math.inf, "a number, at least 1"),
        )

    def shape(self, progress: float) -> float:
        first = 1 / self.div_factor
        if progress < self.pct_start:
            return _half_cosine(first, 1.0, progress / self.pct_start)
        fallen = (progress - self.pct_start) / (1 - self.pct_start)
        return _half_cosine(1.0, first / self.final_div_factor, fallen)


@dataclass(frozen=True)
class WSD(Warmed):
    """Warm-up, stable, decay: the base LR, then to 0 over the last updates as 1 - sqrt (Hägele et
    al. 2024, arXiv 2405.18392).

    f = 1 until p = 1 - decay, then f = 1 - sqrt((p - (1 - decay)) / decay).

    >>> schedule = WSD()
    >>> memory, _ = schedule.start(0.1, Facts(budget=100))
    >>> [round(schedule.factor(memory, p), 3) for p in (0.5, 0.8, 0.85, 1.0)]
    [1.0, 1.0, 0.5, 0.0]

    Raises:
        ValueError: naming the field, for a value that is not allowed.
    """

    decay: float = 0.2
    """Share of the budget over which the LR falls at the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rest = 1 - self.warmup
        share = f"a share of the budget, above 0 and at most what the warm-up leaves, {rest:g}"
        check(self, decay=(0 < self.decay <= rest, share))

    @property
    def holds_until(self) -> float:
        """Progress up to which the LR is held: a run that is extended goes on from there."""
        return 1 - self.decay

    def shape(self, progress: float) -> float:
        fallen = (progress - (1 - self.decay)) / self.decay
        return 1 - math.sqrt(min(max(fallen, 0.0), 1.0))


def _half_cosine(start: float, end: float, way: float) -> float:
    """From ``start`` to ``end`` along half a cosine, of which the share ``way`` has passed."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * way))
