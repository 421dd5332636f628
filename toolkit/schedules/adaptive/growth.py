"""From the edge to the LR of the run, and how far an estimate of the distance raises it. Pure.

With E the edge (``search.py``), T the budget in updates and h = (1000 / T)^0.4, training begins at
the LR h E / 20. A distance says what trials of a few updates cannot see, that an LR is *too small*:
the inner product of gradients and displacement from the first weights, over a norm of the running
sum of gradients, estimates how far each coordinate has to go (Defazio and Mishchenko 2023, *D-
Adaptation*; Mishchenko and Defazio 2024, *Prodigy*). ``toolkit/training/distance.py`` computes it.
With d the displacement per coordinate and update that is aimed at, after each reading

    d = max(d, min(c, h) * estimate)

and the LR is d over the displacement per coordinate and update at LR 1, the *unit*. Adam's family
normalises each coordinate: its unit is 1, d is the LR, c is 0.7. For SGD c is 1; with momentum m
and gradients of root mean square R its unit is R / (1 - m), whose square is followed from reading
to reading: it rises at once and falls with a memory of a quarter of the run. d only grows; the
guard is what comes down.

>>> growth = begin(edge_lr=0.2, unit=1.0, momentum=None, total=1000)
>>> learning_rate(growth)
0.01
>>> growth = observe(growth, (0.03, 1.0), total=1000)
>>> lower = observe(growth, (0.02, 1.0), total=1000)
>>> round(learning_rate(growth), 3), round(learning_rate(lower), 3)
(0.021, 0.021)
"""

import math
from statistics import fmean
from typing import NamedTuple

from toolkit.schedules.adaptive.search import TRIAL_UPDATES

EDGE_DIVISOR = 20.0
"""The edge over the LR with which a run of ``HORIZON_UPDATES`` begins."""
HORIZON_UPDATES, HORIZON_POWER = 1000.0, 0.4
"""Budget in updates at which a run begins at the edge over its divisor, and the power by which the
first LR falls with a longer budget, and rises with a shorter one."""
COORDINATE_SHARE, GRADIENT_SHARE = 0.7, 1.0
"""Share of the estimate that is aimed at: of an optimizer that normalises each coordinate, and of
SGD. Chosen by whole runs: all of it ends half a decade too high in a small encoder under AdamW,
half of it too low in a deep net under SGD (``benchmarks/LOG.md``)."""
UNIT_MEMORY = 0.25
"""Share of the run over which the unit's square follows one that has fallen. With a shorter memory
the LR of a run whose gradients vanish would run away."""


class Growth(NamedTuple):
    """The LR before warm-up, anneal and guard.

    Attributes:
        first_lr: the LR with which training begins; 0 where no edge was found.
        first: the displacement per coordinate and update, d, at ``first_lr``.
        distance: d so far.
        square: the square of the unit, as it is followed; 0, as the two above are, while no reading
            has told it.
        over: whether growth has ended.
        aim: the share of the estimate that d follows at most.
    """

    first_lr: float = 0.0
    first: float = 0.0
    distance: float = 0.0
    square: float = 0.0
    over: bool = False
    aim: float = GRADIENT_SHARE


def horizon(total: int) -> float:
    """The factor of the first LR by the budget in updates; 1 for 1,000 or an unknown budget."""
    return (HORIZON_UPDATES / total) ** HORIZON_POWER if total else 1.0


def begin(edge_lr: float, unit: float, momentum: float | None, total: int) -> Growth:
    """The growth before the first update after the search.

    Args:
        edge_lr: the smallest harmful LR.
        unit: of the first update at the untouched weights; 0 where nobody tells.
        momentum: that of SGD, None for Adam's family. In a trial at the edge momentum is being
            built up: an update displaces by (1 - m^i) of what it does in the long run.
        total: the budget in updates; 0 where there is none.
    """
    onset = fmean(1 - momentum**i for i in range(1, TRIAL_UPDATES)) if momentum else 1.0
    first_lr = horizon(total) * edge_lr * onset / EDGE_DIVISOR
    aim = COORDINATE_SHARE if momentum is None else GRADIENT_SHARE
    return Growth(first_lr, first_lr * unit, first_lr * unit, unit * unit, aim=aim)


def observe(growth: Growth, told: tuple[float, float], total: int, share: float = 0.0) -> Growth:
    """The growth after a reading.

    Args:
        growth: the state before.
        told: ``Reading.distance``: the estimate, and the unit of the reading's last update.
        total: the budget in updates; 0 where there is none.
        share: the share of the run since the reading before.
    """
    estimate, unit = told
    if not (math.isfinite(estimate) and is_unit(unit)):
        return growth
    now, pace = unit * unit, min(1.0, share / UNIT_MEMORY)
    square = max(now, growth.square + pace * (now - growth.square))
    if not growth.square:  # the unit that the first LR is told in
        first = growth.first_lr * unit
        return growth._replace(square=square, first=first, distance=first)
    grown = growth.distance if growth.over else min(growth.aim, horizon(total)) * estimate
    if square == growth.square and grown <= growth.distance:
        return growth
    return growth._replace(square=square, distance=max(growth.distance, grown))


def is_unit(unit: float) -> bool:
    """Whether it can be one: gradients may vanish or overflow."""
    return 0 < unit < math.inf


def weight(growth: Growth, shape: float) -> float:
    """The weight of the next update in the estimate: d times the displacement aimed at, over d0^2.

    Args:
        growth: the state.
        shape: the share of d that warm-up and anneal leave the update.
    """
    grown = growth.distance / growth.first if growth.first else 1.0
    return grown * grown * shape


def learning_rate(growth: Growth) -> float:
    """The LR of the next update, before warm-up, anneal and guard."""
    if not growth.square:
        return growth.first_lr
    return growth.distance / math.sqrt(growth.square)
