"""How the LR goes on where a run is extended, under a larger budget than it had before. Pure.

A schedule that holds its LR and anneals at last has an attribute ``holds_until``, the progress up
to which it does. It goes on from the state before its anneal, as if it had had the new budget from
the beginning; only a warm-up is over, however long that of the new budget would be.

All others go on from the end of the run. With F(p) the schedule's factor at progress p, as its
memory is; t the lowest p at which F is highest; u the updates made, T the new budget; f the factor
of the last update; g = f / F(t); s the larger one of the share that is asked for and g; and R =
``REWARM_UPDATES`` of T - u: after m updates the factor is

* up to u + R:    F(t) (g + (s - g) (m - u) / R), the re-warming,
* from there on:  F(t + (1 - t) (m - u - R) / (T - u - R)) s.

So the first update has the LR of the last one, and the LR does not fall while it is re-warmed. A
schedule whose LR does not follow from the budget has g = s = 1: it goes on as if uninterrupted.

>>> from toolkit.schedules.open_loop import Cosine, OpenLoopMemory
>>> joint = joined(Cosine(), OpenLoopMemory(), made=100, budget=300, last=0.001, share=0.5)
>>> at = (100, 105, 110, 205, 299)
>>> [round(joint.factor(made) * Cosine().shape(joint.progress(made, 300)), 4) for made in at]
[0.001, 0.2505, 0.5, 0.25, 0.0]
"""

from typing import Any, NamedTuple

REWARM_UPDATES = 0.05
"""Share of the new updates over which the LR is re-warmed."""
REWARM = 0.5
"""Share of the schedule's highest LR that it is re-warmed to."""
PLACES = 1000
"""Places of the progress at which the highest factor is looked for."""


class Joint(NamedTuple):
    """Where and how a run goes on from a shorter one.

    Attributes:
        made: updates made there.
        whole: whether the schedule goes by the whole budget; else its shape begins anew.
        top: the lowest progress at which its factor is highest: where its warm-up is over.
        first, share: what is left of that factor in the first update, and after the re-warming.
        rewarm: updates from the one to the other.
    """

    made: int
    whole: bool = True
    top: float = 0.0
    first: float = 1.0
    share: float = 1.0
    rewarm: int = 0

    def progress(self, made: int, budget: int) -> float:
        """What the schedule is told of the progress after ``made`` updates of ``budget``."""
        if self.whole:
            return max(made / budget, self.top)
        begun = self.made + self.rewarm
        way = max(0, made - begun) / max(1, budget - begun)
        return self.top + (1 - self.top) * way

    def factor(self, made: int) -> float:
        """What is left of the schedule's factor after ``made`` updates."""
        way = min(1.0, (made - self.made) / self.rewarm) if self.rewarm else 1.0
        return self.first + (self.share - self.first) * way


def holds_until(schedule: object) -> float | None:
    """The progress up to which a schedule holds its LR before the anneal; None if it has none.

    1 if it is the schedule that asks for its anneal, whenever that is.
    """
    until: float | None = getattr(schedule, "holds_until", None)
    return until


def joined(schedule: Any, memory: Any, made: int, budget: int, last: float, share: float) -> Joint:
    """How a schedule goes on.

    Args:
        schedule: the schedule.
        memory: what it remembers there.
        made: updates made so far: before the anneal of a schedule that has a ``holds_until``, of
            all others those of the whole run.
        budget: the new one, in updates, above ``made``.
        last: the factor of the latest update, as its memory is now.
        share: of the highest LR that it is re-warmed to.
    """
    places = [place / PLACES for place in range(PLACES)]
    factors = [schedule.factor(memory, place) for place in places]
    highest = max(factors)
    top = places[factors.index(highest)]
    if holds_until(schedule) is not None:
        return Joint(made, top=top)
    first = last / highest if highest else 1.0
    rewarm = max(1, round(REWARM_UPDATES * (budget - made)))
    return Joint(made, False, top, first, max(share, first), rewarm)


def extended(schedule: Any, memory: Any) -> Any:
    """What a schedule remembers when it goes on: what its method ``extended`` makes of the memory,
    if it has one, such as that an anneal has not begun."""
    change = getattr(schedule, "extended", None)
    return memory if change is None else change(memory)
