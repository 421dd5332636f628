"""What the adaptive schedule remembers from reading to reading. Pure."""

from typing import NamedTuple

from toolkit.schedules.adaptive import growth as growing
from toolkit.schedules.adaptive.growth import Growth
from toolkit.schedules.adaptive.guard import Guard
from toolkit.schedules.adaptive.search import Search
from toolkit.schedules.adaptive.stall import Stall
from toolkit.schedules.adaptive.validation import Validation
from toolkit.schedules.open_ended import OpenEndedMemory
from toolkit.schedules.reading import Found


class AdaptiveMemory(NamedTuple):
    """What the schedule remembers.

    Attributes:
        base_lr: the user's base LR.
        total: the budget in updates; 0 for a run without a known end.
        restores: whether the loop takes and restores snapshots.
        grows: whether the LR follows an estimate of the distance.
        momentum: that of SGD; None for an optimizer that normalises each coordinate.
        unit: displacement per coordinate and update at LR 1 in the first update; 0 if not told.
        search: the state of the search for the edge.
        growth: the LR, before warm-up, anneal and guard, and what raises it.
        told: the distance in ``growth`` when a decision last said that it had grown.
        began: updates made when the warm-up began.
        update: updates made at the last reading.
        snapshot: updates made at the last snapshot.
        stall: the state of the rule for runs that stand still from their start.
        guard: the guard's state.
        rules: the state of the rules for runs without a known end.
        validation: the state of the rule that sees the validation loss.
    """

    base_lr: float = 0.0
    total: int = 0
    restores: bool = False
    grows: bool = False
    momentum: float | None = None
    unit: float = 0.0
    search: Search = Search()
    growth: Growth = Growth()
    told: float = 0.0
    began: int = 0
    update: int = 0
    snapshot: int = 0
    stall: Stall = Stall()
    guard: Guard = Guard()
    rules: OpenEndedMemory = OpenEndedMemory()
    validation: Validation = Validation()

    @property
    def searching(self) -> bool:
        """Whether the search for the edge is in progress."""
        return self.search.stage == "trial"

    @property
    def lr(self) -> float:
        """The LR on trial, or that of the run before warm-up, anneal and guard."""
        if self.searching:
            return self.search.lr(self.search.exponent)
        return growing.learning_rate(self.growth) or self.base_lr

    @property
    def found(self) -> Found | None:
        """What the search has found; None before its end, and without one."""
        if self.search.stage != "done":
            return None
        search, first = self.search, self.growth.first_lr or self.base_lr
        told = (search.edge_lr or None, search.tried)
        return Found(self.base_lr, first, self.began, search.trials, self.lr, *told)
