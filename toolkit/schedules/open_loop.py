"""Schedules that look at the clock and not at the loss. Pure.

Each is a shape over the progress of the budget, after an optional linear warm-up.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

from toolkit.reading import HOLD, Anneal, Decision, Reading
from toolkit.schedules.ramp import Ramp


class OpenLoopMemory(NamedTuple):
    """The last update seen and the anneal that was asked for."""

    update: int = 0
    ramp: Ramp = Ramp()
    decision: Decision = HOLD


@dataclass(frozen=True)
class OpenLoop(ABC):
    """Warm-up, then the shape that the subclass names.

    Raises:
        ValueError: if ``warmup`` is not in [0, 1).
    """

    warmup: float = 0.0
    """Share of the budget over which the LR rises linearly from 0; the first update has LR 0."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ValueError(
                f"schedule.warmup = {self.warmup} is not allowed: "
                "it is a share of the budget, at least 0 and below 1"
            )

    def start(self, base_lr: float) -> OpenLoopMemory:
        return OpenLoopMemory()

    def observe(self, memory: OpenLoopMemory, reading: Reading) -> OpenLoopMemory:
        return memory._replace(update=reading.update, decision=HOLD)

    def factor(self, memory: OpenLoopMemory, progress: float) -> float:
        scale = progress / self.warmup if progress < self.warmup else self.shape(progress)
        return scale * memory.ramp.factor(memory.update)

    def request(self, memory: OpenLoopMemory, event: Anneal) -> OpenLoopMemory:
        return memory._replace(ramp=Ramp(memory.update, event.updates))

    @abstractmethod
    def shape(self, progress: float) -> float:
        """The factor after warm-up, at this progress of the whole budget."""

    def _after_warmup(self, progress: float) -> float:
        return (progress - self.warmup) / (1 - self.warmup)


@dataclass(frozen=True)
class Constant(OpenLoop):
    """The base LR throughout."""

    def shape(self, progress: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Step(OpenLoop):
    """A tenth of the base LR from 50 % of the updates on, a hundredth from 75 % on."""

    def shape(self, progress: float) -> float:
        if progress >= 0.75:
            return 0.01
        return 0.1 if progress >= 0.5 else 1.0


@dataclass(frozen=True)
class Linear(OpenLoop):
    """From the base LR to 0 along a straight line: the fine-tuning default of BERT's authors."""

    def shape(self, progress: float) -> float:
        return 1 - self._after_warmup(progress)


@dataclass(frozen=True)
class Cosine(OpenLoop):
    """From the base LR to 0 along half a cosine (Loshchilov and Hutter, SGDR, without restarts)."""

    def shape(self, progress: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * self._after_warmup(progress)))
