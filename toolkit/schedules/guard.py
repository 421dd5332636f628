"""The guard: notice that a run is lost, and go back. Pure.

It is insurance and must never fire on a healthy run, so it asks for much: a non-finite loss; or
three readings in a row, or two blocks of readings in a row, far above the best block, where far is
measured both in standard deviations and in the descent that would be lost. If going back did not
help, it asks for less and goes back again, each time with half the LR. The halvings of one such
episode, all but one, are given back after a block as good as the best.
"""

import math
from statistics import fmean, median
from typing import NamedTuple

from toolkit.reading import HOLD, Decision, Reading
from toolkit.schedules.pattern import spread_of

SPREADS = 12.0
"""Standard deviations, of a reading or of a block's mean, above the best."""
LOST_AT_ONCE, LOST_AGAIN, LOST_IN_BLOCKS = 0.5, 0.1, 0.25
"""Shares of the descent so far that are lost: by three readings, by three readings after a
rollback that did not help, or by two blocks."""
READINGS, BLOCKS = 3, 2
FEWEST, REMEMBERED = 3, 15
"""Blocks before the guard acts, and blocks whose spread it remembers."""
RELATIVE = 0.05
"""Share of the best loss below which no rise counts: a constant stream has no noise at all."""
MOST_STRIKES = 8
"""Rollbacks of one episode; after them the run is left alone until it recovers."""
CUT = 0.5


class Guard(NamedTuple):
    """What the guard remembers.

    Attributes:
        block: readings of the block on its way.
        initial: mean of the first block; None before it is full.
        best: lowest mean of a block.
        spreads: standard deviations of a reading in the newest blocks.
        spread: their median: of few readings each is rough.
        high: readings in a row far above the best.
        high_blocks: blocks in a row far above the best.
        scale: what is left of the LR after the episodes that are over.
        strikes: rollbacks of the episode on its way.
        lasting: whether a rollback of it came from divergence, not from a non-finite loss alone.
        rollbacks: of the whole run.
    """

    block: tuple[float, ...] = ()
    initial: float | None = None
    best: float | None = None
    spreads: tuple[float, ...] = ()
    spread: float = 0.0
    high: int = 0
    high_blocks: int = 0
    scale: float = 1.0
    strikes: int = 0
    lasting: int = 0
    rollbacks: int = 0

    @property
    def ready(self) -> bool:
        """Whether enough blocks have passed to know what is usual."""
        return len(self.spreads) >= FEWEST

    @property
    def factor(self) -> float:
        """What the guard leaves of the LR."""
        return self.scale * CUT**self.strikes


def observe(guard: Guard, reading: Reading, size: int) -> tuple[Guard, Decision]:
    """Add a reading, in blocks of ``size`` readings.

    The decision asks for a rollback, for a snapshot after a block as good as the best, or for
    nothing.
    """
    if reading.nonfinite > 0 or reading.count == 0:
        return _strike(guard, False, "nonfinite", None, "a loss is not finite")
    guard = guard._replace(block=(*guard.block, reading.loss))
    high = spike(guard, reading)
    guard = guard._replace(high=guard.high + 1 if high else 0)
    if high and guard.high >= READINGS:
        reason = f"{READINGS} readings in a row are {high.statistic:.4g} above the best block"
        return _strike(guard, True, "rising", high.statistic, reason)
    return _end_of_block(guard, size) if len(guard.block) >= size else (guard, HOLD)


def spike(guard: Guard, reading: Reading) -> Decision | None:
    """The pattern of a single reading far above the best block, if it is one."""
    if not guard.ready or guard.best is None:
        return None
    above = reading.loss - guard.best
    if above <= _limit(guard, guard.spread, LOST_AGAIN if guard.strikes else LOST_AT_ONCE):
        return None
    return Decision("spike", above, "hold", "")


def _end_of_block(guard: Guard, size: int) -> tuple[Guard, Decision]:
    mean = fmean(guard.block)
    spreads = (*guard.spreads, spread_of(guard.block))[-REMEMBERED:]
    guard = guard._replace(block=(), spreads=spreads, spread=median(spreads))
    best = guard.best
    if best is None:
        return guard._replace(initial=mean, best=mean), _snapshot(mean)
    above, error = mean - best, guard.spread / math.sqrt(size)
    limit = _limit(guard, error, LOST_IN_BLOCKS)
    if guard.ready and above > limit:
        guard = guard._replace(high_blocks=guard.high_blocks + 1)
        if guard.high_blocks < BLOCKS:
            return guard, HOLD
        reason = f"{BLOCKS} blocks in a row are {above:.4g} above the best, over {limit:.4g}"
        return _strike(guard, True, "rising", above, reason)
    guard = guard._replace(high_blocks=0)
    if above > error:
        return guard, HOLD
    scale = guard.scale * (CUT if guard.lasting else 1.0)
    guard = guard._replace(best=min(mean, best), scale=scale, strikes=0, lasting=0)
    return guard, _snapshot(mean)


def _limit(guard: Guard, error: float, share: float) -> float:
    assert guard.best is not None
    assert guard.initial is not None
    descent = max(0.0, guard.initial - guard.best)
    return max(SPREADS * error, share * descent, RELATIVE * abs(guard.best))


def _strike(
    guard: Guard, lasting: bool, pattern: str, statistic: float | None, why: str
) -> tuple[Guard, Decision]:
    guard = guard._replace(block=(), high=0, high_blocks=0)
    if guard.strikes >= MOST_STRIKES:
        reason = f"{why}, but {MOST_STRIKES} rollbacks did not help"
        return guard, Decision(pattern, statistic, "hold", reason)
    guard = guard._replace(
        strikes=guard.strikes + 1,
        lasting=int(guard.lasting or lasting),
        rollbacks=guard.rollbacks + 1,
    )
    reason = f"{why}: back to the last good state, LR x{guard.factor:.3g} of the schedule's"
    return guard, Decision(pattern, statistic, "rollback", reason)


def _snapshot(mean: float) -> Decision:
    return Decision("none", None, "snapshot", f"block mean {mean:.4g}: as good as the best")
